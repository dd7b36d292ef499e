#!/usr/bin/env bash
# Stand-ins for the three public images, for a machine that reaches no registry of images: Debian,
# Debian's PostgreSQL and Label Studio from its package, under the tags of the official images. With
# them docker-compose.yml and the Dockerfile can be tried unchanged. They are test tooling, never a
# thing to run with scans of people: what runs elsewhere are the official images.
#
# Needs root, debootstrap, a Docker engine, a Debian mirror and a package index:
#   tests/compose/stand_ins.sh [BASE] [POSTGRES] [LABEL_STUDIO]      (tags; these are the defaults)
# Variables:
#   PIP_CONF   a pip.conf for builds inside the stand-in, which has none of its own
#   CA_BUNDLE  certificates that builds have to trust (/etc/ssl/certs/ca-certificates.crt)
#   MIRROR     the Debian mirror (http://deb.debian.org/debian)
#   ROOTFS     a finished debootstrap folder, to save its two minutes
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
base=${1:-python:3.11.15-slim-bookworm}
postgres=${2:-postgres:16.14}
label_studio=${3:-heartexlabs/label-studio:1.23.2}
mirror=${MIRROR:-http://deb.debian.org/debian}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rootfs=${ROOTFS:-$work/rootfs}
if [ ! -x "$rootfs/usr/bin/python3" ]; then
    nice debootstrap --variant=minbase \
        --include=ca-certificates,python3,python3-venv,python3-pip,python-is-python3 \
        bookworm "$rootfs" "$mirror"
fi
# The official image lets pip install into its only Python, and so does its stand-in.
rm -f "$rootfs"/usr/lib/python3*/EXTERNALLY-MANAGED
ln -sf python3 "$rootfs/usr/bin/python"
cp "${CA_BUNDLE:-/etc/ssl/certs/ca-certificates.crt}" "$rootfs/etc/ssl/certs/ca-certificates.crt"
if [ -n "${PIP_CONF:-}" ]; then
    cp "$PIP_CONF" "$rootfs/etc/pip.conf"
fi
nice tar --directory "$rootfs" --exclude=./var/cache/apt/archives/*.deb --create . |
    docker import --change 'CMD ["python3"]' - "$base"

# On an engine without NAT a build reaches the mirrors through the host's network alone.
nice docker build --network=host --build-arg "BASE=$base" --tag "$postgres" "$here/stand_ins/postgres"
cp "$here/stand_ins/label-studio/Dockerfile" "$here/../../requirements-label-studio.txt" "$work/"
nice docker build --network=host --build-arg "BASE=$base" --tag "$label_studio" \
    --file "$work/Dockerfile" "$work"
docker images
