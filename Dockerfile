# One image, two commands: `python -m backend web` and `python -m backend worker`.
#
#   docker build .                                                 torch as pinned, with CUDA
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .     without CUDA
#
# To build the same image again later, name the base by its digest:
#   --build-arg PYTHON_IMAGE=python:3.11.15-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm
FROM $PYTHON_IMAGE

# Your own package index, instead of pypi.org.
ARG PIP_INDEX_URL
# Silences pip's warning: the image has one Python, and root may own it.
ARG PIP_ROOT_USER_ACTION=ignore
# The index of the CPU builds of torch and torchvision; empty: the pinned builds, with CUDA.
ARG TORCH_INDEX=""

# Install packages before copying our code: they are most of the image and change seldom, so Docker
# reuses this layer when only the code changes. requirements.txt names every package with the SHA-256
# of its files on PyPI. So pip resolves nothing (--no-deps), and pip check reports missing packages.
# Packages from TORCH_INDEX have other files: only their version is checked.
COPY requirements.txt /app/
RUN set -eu; \
    cd /app; \
    sed -e ':join' -e '/\\$/{N;s/\\\n *//;b join' -e '}' requirements.txt >/tmp/locked.txt; \
    if [ -n "$TORCH_INDEX" ]; then \
        sed -nE 's/^(torch(vision)?==[^ ]+).*/\1/p' /tmp/locked.txt >/tmp/torch.txt; \
        grep -vE '^(torch(vision)?==|nvidia-|cuda-|triton==)' /tmp/locked.txt >/tmp/others.txt; \
        pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" --requirement /tmp/torch.txt; \
    else \
        cp /tmp/locked.txt /tmp/others.txt; \
    fi; \
    pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/others.txt; \
    pip check; \
    rm -f /tmp/locked.txt /tmp/torch.txt /tmp/others.txt

# A fixed user id, so that a volume belongs to the same user in every later image.
RUN useradd --uid 1000 --create-home firstlight && install -d -o firstlight -g firstlight /data

# Only /data and /tmp must be writable. Fetched encoders stay in /data.
ENV DATA_DIR=/data HOST=0.0.0.0 PORT=9090 PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=passive \
    HF_HOME=/data/huggingface NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib

WORKDIR /app
COPY model /app/model
COPY backend /app/backend
RUN python -m compileall -q model backend

USER firstlight
VOLUME /data
EXPOSE 9090
CMD ["python", "-m", "backend", "start"]
