"""Kill an operation at random moments, start it again each time, and see that it ends as if undisturbed."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from killing import environment_of, kill_when

from svs_unet_plugin.files import LOCK_FILE

LONGEST = 600.0
"""Seconds that an operation may take by itself."""


@dataclass(frozen=True)
class Operation:
    """Something long that is killed, and started again by the same command.

    Args:
        name: of it.
        command: a program and its arguments.
        out: the folder that it fills; it is new each time that the operation begins anew.
        read: what the folder holds, by file: what is compared. It raises an error at a file that is half.
        grows: whether files that are there are written again as it goes on; otherwise each is final.
        compared: what `read` leaves out, and why.
        inputs: files that are put into the folder before it begins, by name.
        after_failure: further arguments with which it takes up again what has failed.
    """

    name: str
    command: Sequence[str]
    out: Path
    read: Callable[[Path], Mapping[str, Any]]
    grows: bool = False
    compared: str = "all files, byte by byte"
    inputs: Mapping[str, Path] | None = None
    after_failure: Sequence[str] = ()

    def begin_anew(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        for name, path in (self.inputs or {}).items():
            target = self.out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, target)

    def run(self, *further: str) -> None:
        """To its end."""
        done = subprocess.run(
            [*self.command, *further], env=environment_of(), capture_output=True, text=True, timeout=LONGEST
        )
        assert done.returncode == 0, f"{self.name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


@dataclass(frozen=True)
class Survived:
    """How an operation was killed, and that it ended as it should.

    Args:
        seconds: that it takes undisturbed, at least.
        kills: how often it was killed, of which ``at_work`` after it had written something.
        ends: how often it came to its end, which was compared each time.
        files: how many files were compared.
    """

    operation: Operation
    seconds: float
    kills: int
    at_work: int
    ends: int
    files: int


def survive(operation: Operation, kills: int, seed: int = 0) -> Survived:
    """Kill an operation so often, each time at a moment drawn from all that it takes undisturbed.

    It is started again after each kill, with what it has left, which is killed, too. When it comes to its end
    by itself, what it leaves is compared with what an undisturbed one leaves, and it begins anew.

    Raises:
        AssertionError: if it fails, or leaves something else, or a file that is half under its final name.
    """
    generator = random.Random(f"{operation.name} {seed}")
    operation.begin_anew()
    start = time.monotonic()
    operation.run()
    seconds = time.monotonic() - start
    expected = operation.read(operation.out)
    assert expected and not leftovers(operation.out)
    killed = at_work = ends = 0
    operation.begin_anew()
    before = names(operation.out)
    anew = True
    while killed < kills:
        start = time.monotonic()
        deadline = start + generator.uniform(0, seconds)
        if kill_when(lambda: time.monotonic() > deadline, operation.command):  # noqa: B023
            killed, anew = killed + 1, False
            at_work += names(operation.out) != before
            found = operation.read(operation.out)
            if not operation.grows:
                check(operation, found, {name: expected[name] for name in found if name in expected})
        else:
            ends += 1
            seconds = min(seconds, time.monotonic() - start) if anew else seconds
            anew = True
            check(operation, operation.read(operation.out), expected)
            assert not leftovers(operation.out), f"{operation.name} leaves {leftovers(operation.out)}"
            operation.begin_anew()
    operation.run()
    check(operation, operation.read(operation.out), expected)
    assert not leftovers(operation.out), f"{operation.name} leaves {leftovers(operation.out)}"
    return Survived(operation, seconds, killed, at_work, ends + 1, len(expected))


def check(operation: Operation, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    odd = sorted(
        name for name in {*found, *expected} if name not in found or found[name] != expected.get(name)
    )
    assert not odd, f"{operation.name}: these are not as they would be undisturbed: {', '.join(odd)}"


def names(folder: Path) -> set[str]:
    """All files in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def leftovers(folder: Path) -> list[str]:
    """What nothing will ever be made of, by its name: files and folders that were not finished."""
    found = (path.relative_to(folder) for path in folder.rglob("*"))
    return sorted(
        str(path) for path in found if path.name != LOCK_FILE and path.name.startswith((".", "tmp"))
    )
