"""Disks that are full or can't be written to, and operations on them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from faults.faulty import run, sentence
from faults.kills import Operation, check, leftovers

ROOMY = 1 << 30


@dataclass(frozen=True)
class Disk:
    """A disk in memory, mounted at a folder; it needs root."""

    path: Path

    def mount(self, *options: str) -> None:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", self.path],
            check=True,
            capture_output=True,
            text=True,
        )

    def resize(self, size: int) -> None:
        self.mount("remount", f"size={size}")


@contextmanager
def mounted(path: Path) -> Iterator[Disk]:
    """A large disk at a folder that is made.

    Raises:
        PermissionError: if nothing can be mounted here.
    """
    disk = Disk(path)
    path.mkdir()
    try:
        disk.mount(f"size={ROOMY}")
    except (OSError, subprocess.CalledProcessError) as error:
        raise PermissionError(f"no disk can be mounted here: {error}") from error  # as without root
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def used(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def fill(operation: Operation, disk: Disk, share: float = 0.6) -> str:
    """Let an operation run out of a disk that holds a share of what it writes, and then on a large one.

    Returns:
        What it said.
    """
    operation.begin_anew()
    given = used(operation.out)
    operation.run()
    expected = operation.read(operation.out)
    size = given + round(share * (used(operation.out) - given))
    operation.begin_anew()
    disk.resize(-(-size // 4096) * 4096 + 16 * 4096)
    try:
        said = sentence(run(operation.command))
        whole = operation.read(operation.out)
        if not operation.grows:
            check(operation, whole, {name: expected[name] for name in whole if name in expected})
        assert not leftovers(operation.out), leftovers(operation.out)
    finally:
        disk.resize(ROOMY)
    operation.run(*operation.after_failure)
    check(operation, operation.read(operation.out), expected)
    assert not leftovers(operation.out), leftovers(operation.out)
    return said
