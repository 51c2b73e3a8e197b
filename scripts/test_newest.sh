#!/bin/sh
# Does it still work on the newest release of everything? Run the tests in an environment without constraints.
#
#     scripts/test_newest.sh [what pytest is to do]
#
# It makes build/newest afresh, prints what is newer there than in constraints.txt, and runs the tests, all of them if
# nothing else is said. TORCH in the environment says what pip is to install for torch ("torch" by default), PYTHON
# names the interpreter. It takes 6 GB; run it weekly.
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USE_PEP517=1
unset PYTHONPATH PIP_CONSTRAINT PIP_BUILD_CONSTRAINT

rm -rf build/newest
"$python" -m venv build/newest
build/newest/bin/python -m pip install -q "${TORCH:-torch}" -e '.[all,dev]'
build/newest/bin/python -m pip check
echo "newer than in constraints.txt:"
build/newest/bin/python - <<'END'
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

found = {canonicalize_name(d.name): Version(d.version) for d in distributions()}
for line in Path("constraints.txt").read_text().splitlines():
    if line and not line.startswith("#"):
        wanted = Requirement(line)
        (pin,) = wanted.specifier
        there = found.get(canonicalize_name(wanted.name))
        if (wanted.marker is None or wanted.marker.evaluate()) and there and Version(there.public) > Version(pin.version):
            print(f"  {wanted.name} {pin.version} -> {there}")
END
OMP_NUM_THREADS=1 build/newest/bin/python -m pytest -n auto --dist loadfile "$@"
