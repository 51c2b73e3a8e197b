#!/bin/sh
# The part of test_on_debian.sh that runs inside: install what is missing, then run pytest.
set -eu
cd /src

if ! [ -e /packages ]; then
    export DEBIAN_FRONTEND=noninteractive
    update-ca-certificates >/dev/null
    # A mirror of sid that is not quite fresh is good enough.
    apt-get update -qq -o Acquire::Check-Valid-Until=false
    apt-get install -y -qq --no-install-recommends python3-torch python3-torchaudio python3-venv python3-dev \
        g++ libsox-dev sox ffmpeg git >/dev/null
    touch /packages
fi

[ -e /venv/bin/python ] || python3 -m venv --system-site-packages /venv
# The package itself stays in /src, so that a second run takes what changed.
if ! cmp -s setup.py /venv/setup.py; then
    PIP_USE_PEP517=1 /venv/bin/python -m pip install -q --disable-pip-version-check -e '.[all]' \
        pytest pytest-randomly pytest-xdist hypothesis
    cp setup.py /venv/setup.py
fi
/venv/bin/python -c '
import platform
from importlib.metadata import version
names = ("torch", "numpy", "scipy", "librosa", "pandas", "zarr", "nussl", "asteroid", "torchaudio")
print("Python", platform.python_version(), *(f"{name} {version(name)}" for name in names), flush=True)'
export USE_LIBUV=0  # which Debian's torch is built without, and asks for by default
exec /venv/bin/python -m pytest -p no:cacheprovider "$@"
