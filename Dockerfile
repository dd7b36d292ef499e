# One image, two commands: `python -m backend web` and `python -m backend worker`.
#
#   docker build .                                                 torch as pinned, with CUDA
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .     without CUDA
#
# CUDA's libraries come with torch, so both are built on the same base. To build the same image again
# later, name the base by its digest:
#   --build-arg PYTHON_IMAGE=python:3.11.15-slim-bookworm@sha256:...
# and to say what it was built from:
#   --build-arg REVISION=$(git rev-parse HEAD)
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm
FROM $PYTHON_IMAGE AS packages

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

# The list of these packages (SBOM, in CycloneDX), made by a tool that does not get into the image.
FROM packages AS sbom
ARG PIP_INDEX_URL
COPY requirements-sbom.txt pyproject.toml /app/
RUN python -m venv /sbom && \
    /sbom/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement /app/requirements-sbom.txt
RUN /sbom/bin/cyclonedx-py environment --pyproject /app/pyproject.toml --output-reproducible \
    --validate --output-file /app/sbom.cdx.json "$(command -v python)"

FROM packages
# A fixed user id, so that a volume belongs to the same user in every later image.
RUN useradd --uid 1000 --create-home firstlight && install -d -o firstlight -g firstlight /data

# Only /data and /tmp must be writable. Fetched encoders stay in /data.
ENV DATA_DIR=/data HOST=0.0.0.0 PORT=9090 PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=passive \
    HF_HOME=/data/huggingface NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib

WORKDIR /app
COPY model /app/model
COPY backend /app/backend
RUN python -m compileall -q model backend

COPY --from=sbom /app/sbom.cdx.json /app/

# Behind the layers that take long, because each commit changes them.
ARG PYTHON_IMAGE
ARG REVISION=""
LABEL org.opencontainers.image.title="Firstlight" \
    org.opencontainers.image.description="An active-learning backend for Label Studio" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.base.name="$PYTHON_IMAGE"

USER firstlight
VOLUME /data
EXPOSE 9090
# Of `start` and `web`, at the PORT of the container's environment. A container with a worker alone listens nowhere: docker-compose.yml and the Helm
# chart ask it by `worker --alive`.
HEALTHCHECK --interval=10s --timeout=10s --retries=6 --start-period=1m \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health', timeout=5)"]
CMD ["python", "-m", "backend", "start"]
