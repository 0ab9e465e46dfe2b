#!/bin/sh
# What the README promises of a fresh clone, tried in a fresh Debian with python3 and make and nothing
# else: `make demo`, then the tests that need no cluster. Needs root and mmdebstrap.
set -eu
suite=${1:-bookworm}
checkout=$(git rev-parse --show-toplevel)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

mmdebstrap --quiet --variant=apt --aptopt='APT::Install-Recommends "false"' \
    --include=python3,make "$suite" "$root"
git clone --quiet "$checkout" "$root/src"

# How this machine reaches its registries is no part of what is tried.
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf; do
    if [ -e "$file" ]; then
        cp -L "$file" "$root$file"
    fi
done
cp -L /etc/ssl/certs/ca-certificates.crt "$root/root/authorities.crt"

# Mounts of a namespace of its own end with it; of the environment only what leads to the registries.
unshare --mount --propagation private sh -eu -c '
    mount -t proc proc "$0/proc"
    mount --rbind /dev "$0/dev"
    mount -t tmpfs tmpfs "$0/tmp"
    exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
        PIP_CERT=/root/authorities.crt SSL_CERT_FILE=/root/authorities.crt \
        http_proxy="${http_proxy-}" https_proxy="${https_proxy-}" no_proxy="${no_proxy-}" \
        chroot "$0" sh -eu -c "
            cd /src
            make demo
            make .venv/.testing-installed
            .venv/bin/python -m pytest -q -m \"not cluster and not node\""
' "$root"
