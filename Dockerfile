# One image, two commands: `python -m backend web` and `python -m backend worker`.
#
#   docker build .                                                 torch as pinned, with CUDA
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .     without CUDA
#
# To build the same image again later, name the base by its digest:
#   --build-arg PYTHON_IMAGE=python:3.11.15-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm
FROM $PYTHON_IMAGE

# An index of packages inside the house, instead of pypi.org.
ARG PIP_INDEX_URL
# The only Python of an image may as well be root's.
ARG PIP_ROOT_USER_ACTION=ignore
# Where the CPU builds of torch and torchvision lie; empty: the pinned ones, which bring CUDA.
ARG TORCH_INDEX=""

# What pip installs changes seldom and is most of the image, our code changes often and is small:
# whatever stands above the code is not built anew for it. The file names every package there is to
# be, with the SHA-256 of its files; so nothing is resolved (--no-deps), and pip check says whether
# anything is missing. It knows the files of PyPI: torch from TORCH_INDEX is held to its version alone.
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

# A number of its own, so that a volume belongs to the same user in every later image.
RUN useradd --uid 1000 --create-home firstlight && install -d -o firstlight -g firstlight /data

# Nothing but /data and /tmp need be writable. Encoders that are fetched stay in /data.
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
