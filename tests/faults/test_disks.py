"""Disks that are full, limited or read-only: a clear sentence, and nothing half under a final name."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.disks import Disk, fill, mounted
from faults.faulty import run, sentence
from faults.kills import leftovers, names
from faults.operations import Kitchen

from svs_unet_plugin import files


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    try:
        with mounted(tmp_path / "disk") as disk:
            yield disk
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["separate", "train-nussl"])
def test_a_full_disk(kitchen: Kitchen, disk: Disk, name: str) -> None:
    """It is said, what fits is whole, and with more room the same command ends as an undisturbed one."""
    said = fill(Kitchen(kitchen.folder, disk.path / "out").operation(name), disk)
    assert "No space left on device" in said and str(disk.path) in said


@pytest.mark.parametrize("name", ["separate", "prepare", "convert"])
def test_a_disk_that_is_read_only(kitchen: Kitchen, disk: Disk, name: str) -> None:
    operation = Kitchen(kitchen.folder, disk.path / "out").operation(name)
    operation.begin_anew()
    disk.mount("remount", "ro")
    said = sentence(run(operation.command))
    assert "Read-only file system" in said and str(operation.out) in said


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.parametrize("name", ["separate", "prepare", "convert"])
def test_files_that_must_not_be_large(kitchen: Kitchen, name: str) -> None:
    """As of a quota; this needs no root."""
    operation = kitchen.operation(name)
    operation.begin_anew()
    options = ["--segment", "30"] if name == "prepare" else []
    said = sentence(run([*operation.command, *options], preexec_fn=limit))
    assert "File too large" in said and str(operation.out) in said
    assert not leftovers(operation.out)
    assert not [name for name in names(operation.out) if name.endswith((".wav", ".pth"))]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_the_system_says_gets_the_name_of_the_file(tmp_path: Path, number: int) -> None:
    with pytest.raises(OSError, match=os.strerror(number)) as raised, files.atomic_write(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    assert raised.value.filename == str(tmp_path / "a") and not list(tmp_path.iterdir())


def test_nobody_may_write_there(kitchen: Kitchen) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    operation = kitchen.operation("separate")
    operation.begin_anew()
    operation.out.chmod(0o555)
    assert "Permission denied" in sentence(run(operation.command))
    operation.out.chmod(0o755)
