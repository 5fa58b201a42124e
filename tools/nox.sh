#!/bin/sh
# Runs nox, which runs everything else. It needs Python 3.11 or newer with venv, and
# installs nox into a folder of its own outside of the checkout. Arguments are nox's:
#
#     sh tools/nox.sh              all checks and tests
#     sh tools/nox.sh -s docs      one session
#     sh tools/nox.sh --list       what there is
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/flask-sessionsql

# pyenv hides its Pythons behind commands that work only for the selected versions.
if command -v pyenv >/dev/null 2>&1; then
    PYENV_VERSION=$(pyenv versions --bare | grep -E '^3\.1[1-9]\.[0-9]+$' | sort -rV | paste -sd: -)
    [ -z "$PYENV_VERSION" ] || export PYENV_VERSION
fi

python=
for name in python3.13 python3.12 python3.11 python3; do
    if "$name" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$name
        break
    fi
done
if [ -z "$python" ]; then
    echo "tools/nox.sh: no Python 3.11 or newer with venv was found. Install one, such as" >&2
    echo "with: apt-get install python3 python3-venv" >&2
    exit 1
fi

if ! "$cache/nox/bin/nox" --version >/dev/null 2>&1; then
    echo "Installing nox into $cache/nox ..."
    rm -rf "$cache/nox"
    "$python" -m venv "$cache/nox"
    "$cache/nox/bin/python" -m pip install --quiet --disable-pip-version-check \
        'nox>=2026.10' 'uv>=0.9'
fi

PATH=$cache/nox/bin:$PATH
export PATH
cd "$here"
exec nox --envdir "$cache/envs" "$@"
