"""Programs in a faulty world: what happens to them while they run, and stand-ins for what they need."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from faults.kills import LONGEST
from killing import environment_of


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    meanwhile: Callable[[int], bool] = lambda process: True,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and do something meanwhile: asked again and again, with the process, until
    true.

    Raises:
        AssertionError: if that was never done.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, env={**environment_of(), **(environment or {})}, stdout=out, stderr=said, **options
        )
        deadline, done = time.monotonic() + LONGEST, False
        try:
            while process.poll() is None:
                assert time.monotonic() < deadline, f"{command} does not end"
                done = done or meanwhile(process.pid)
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        said.seek(0)
        assert done or meanwhile(process.pid), f"it was over too early: {said.read()}"
        return subprocess.CompletedProcess(command, process.returncode, out.read(), said.read())


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The last thing that a command said, of why it ended; it must be no traceback."""
    assert done.returncode > 0, f"it ended with {done.returncode}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    lines = done.stderr.replace("\r", "\n").strip().splitlines()
    return [line for line in lines if "logging.cc" not in line][-1]  # Ray's own


def children(process: int) -> list[int]:
    """The processes that a process has started and that still run Python."""
    found = Path(f"/proc/{process}/task/{process}/children")
    numbers = [int(number) for number in found.read_text().split()] if found.exists() else []
    return [number for number in numbers if sys.executable.encode() in command_of(number)]


def command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def patched(folder: Path, script: str) -> dict[str, str]:
    """An environment in which every Python begins with a script."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(script)
    return {"PYTHONPATH": os.pathsep.join([str(folder), environment_of()["PYTHONPATH"]])}


def stand_in(folder: Path, program: str, script: str) -> dict[str, str]:
    """An environment in which a shell script is found in the place of a program."""
    folder.mkdir(exist_ok=True)
    path = folder / program
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": os.pathsep.join([str(folder), os.environ["PATH"]])}
