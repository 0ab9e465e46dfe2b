#!/bin/sh
# Makes the virtual environment, and says what to do where Python cannot: Debian ships the venv
# module without the part that it needs.
set -eu
python=$1
venv=$2

command -v "$python" >/dev/null 2>&1 || {
    echo "no $python on the PATH; install Python 3.11 or later, or run make PYTHON=/path/to/it" >&2
    exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$("$python" --version) is too old; run make PYTHON=/path/to/python3.11 or later" >&2
    exit 1
}
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing Debian's python3-venv, which $python needs to make a virtual environment ..."
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
    else
        echo "$python cannot make a virtual environment; install the package python3-venv" >&2
        exit 1
    fi
fi
"$python" -m venv "$venv"
