#!/bin/sh
# Make .venv and install the package in it, editable, with all extras, from constraints.txt.
#
# Run from the top of the repository (make does). PYTHON in the environment names the interpreter.
# .venv/installed is written last, by a rename: after an interrupted run it is not there, and
# .venv/installing makes the next run start afresh, because a half-copied package can look whole to pip.
set -eu

stop() {
    echo "$*" >&2
    exit 1
}

# A name on PATH is not enough: a pyenv shim exists for versions that do not start.
fits() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1
}

if [ -x .venv/bin/python ] && ! [ -e .venv/installing ]; then
    fits .venv/bin/python || stop "The Python in .venv does not start or is not 3.11 to 3.14:" \
        "run 'make clean', then try again."
    python=.venv/bin/python
elif [ -n "${PYTHON:-}" ]; then
    fits "$PYTHON" || stop "PYTHON=$PYTHON does not start or is not Python 3.11 to 3.14."
    python=$PYTHON
else
    python=
    for name in python3.11 python3.12 python3.13 python3.14 python3; do
        if fits "$name"; then
            python=$name
            break
        fi
    done
    [ -n "$python" ] || stop "No Python 3.11 to 3.14 was found:" \
        "install one, or name it with 'make PYTHON=/path/to/python3.11'."
fi

# Homebrew keeps its headers and libraries where Apple's compiler does not look.
if [ "$(uname -s)" = Darwin ] && command -v brew >/dev/null 2>&1; then
    CPATH=$(brew --prefix)/include${CPATH:+:$CPATH}
    LIBRARY_PATH=$(brew --prefix)/lib${LIBRARY_PATH:+:$LIBRARY_PATH}
    export CPATH LIBRARY_PATH
fi

sh scripts/system_needs.sh "$python"

if [ "$python" != .venv/bin/python ]; then
    echo "Making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi
touch .venv/installing

# Old pips would otherwise build soxbindings with whatever setuptools is at hand, and every pip would
# build with the newest: constraints.txt holds for what is needed only while building, too.
export PIP_USE_PEP517=1 PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
.venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[all,dev,docs]' ||
    stop "The installation failed; the reason is above. The next 'make' starts it afresh."
.venv/bin/python -m pip check
mv .venv/installing .venv/installed
