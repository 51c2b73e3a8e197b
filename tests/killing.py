"""Kill a program at a moment of its work, as a power cut or an impatient user does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TESTS = Path(__file__).parent
LONGEST = 300.0
"""Seconds after which the moment will not come any more."""


def environment_of() -> dict[str, str]:
    """The environment of a program that may import this package and the modules of ``tests``."""
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def kill_when(
    moment: Callable[[], bool],
    command: Sequence[str | os.PathLike[str]],
    *,
    how: int = signal.SIGKILL,
    group: bool = True,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> bool:
    """Run a command in a process group of its own and kill the whole group when ``moment()`` is true.

    Args:
        command: a program and its arguments; a Python script may import the modules of ``tests``.
        how: the signal.
        group: whether the processes that it started are killed, too.

    Returns:
        Whether it was killed; False if it ended before, without an error.

    Raises:
        AssertionError: if the command fails by itself, or the moment does not come.
    """
    environment = {**environment_of(), **(environment or {})}
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=cwd,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        deadline = time.monotonic() + LONGEST
        try:
            while not moment():
                if process.poll() is not None:
                    said.seek(0)
                    assert process.returncode == 0, said.read()
                    return False
                assert time.monotonic() < deadline, f"the moment to kill {command} did not come"
                time.sleep(0.005)
            (os.killpg if group else os.kill)(process.pid, how)
            process.wait()
            return True
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def kill_script_when(moment: Callable[[], bool], script: str, *arguments: object, **options: object) -> bool:
    """`kill_when` for the text of a Python script."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return kill_when(moment, command, **options)  # type: ignore[arg-type]
