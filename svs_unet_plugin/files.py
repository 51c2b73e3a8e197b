"""Files and folders that survive a kill: written whole or not at all, tied to the settings that made them.

A folder of results holds `SETTINGS_FILE`, a record of the settings that made it. `claim` reads it before any
work: the same settings resume the work, others are refused with what differs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

SETTINGS_FILE = "settings.json"
"""The record of a folder's settings, written before anything else in it."""

LOCK_FILE = ".lock"
"""Locked by the one process that works in a folder; it stays there, empty, and means nothing by itself."""

PART_SUFFIX = ".part"
"""Ends the name of what is not whole yet."""


@contextmanager
def atomic_write(
    path: str | os.PathLike[str], scratch: str | os.PathLike[str] | None = None
) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to, which takes its name only if the block succeeds.

    No two calls share a temporary path, so that two processes that write one file do not disturb each other:
    the last one wins, whole. ``path`` may become a file or a folder; what has its name before is replaced, a
    link as well, and not what it leads to. What a process that was killed has left beside is removed.

    Args:
        scratch: the folder of the temporary path, on the same file system; that of ``path`` by default.

    Raises:
        IsADirectoryError: if a file is to take the name of a folder.
    """
    path = Path(path)
    scratch = path.parent if scratch is None else Path(scratch)
    _remove_abandoned(scratch)
    beside, before = (scratch / f"{_mine()}{uuid.uuid4().hex}{PART_SUFFIX}" for _ in range(2))
    try:
        yield beside
        if path.is_dir() and not beside.is_dir():
            raise IsADirectoryError(f"{path} is a directory, and no file can take its name")
        while True:
            try:
                os.replace(beside, path)
                return
            except OSError as error:
                # A folder takes the name of no file, and of no folder that holds something.
                if not beside.is_dir() or error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            with suppress(FileNotFoundError):  # another writer was faster
                os.replace(path, before)
            _remove(before)
    except OSError as error:
        if error.filename is None and error.strerror:  # such as that of a disk that is full
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        _remove(beside)


def _mine() -> str:
    """How the names begin of what this process has not finished: they tell when nobody will."""
    return f".{_host()}-{os.getpid()}-"


@cache
def _host() -> str:
    """This machine, or this container, whose numbers of processes are its own."""
    container = Path("/proc/self/ns/pid")
    number = container.stat().st_ino if container.exists() else 0
    return hashlib.sha256(f"{socket.gethostname()} {number}".encode()).hexdigest()[:8]


@lru_cache(maxsize=128)  # what this process leaves itself is for the next one
def _remove_abandoned(folder: Path) -> None:
    """Remove what processes of this machine that are no more have left in a folder."""
    try:
        names = os.listdir(folder)
    except OSError:  # whoever writes there will say so
        return
    for name in filter(is_part, names):
        host, _, rest = name[1:].partition("-")
        process = rest.partition("-")[0]
        if host == _host() and process.isdecimal() and not _runs(int(process)):
            _remove(folder / name)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write a file whole or not at all."""
    with atomic_write(path) as beside:
        beside.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file whole or not at all, and the folders above it if they are missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike[str], content: object) -> None:
    """Write a JSON file whole or not at all, and the folders above it if they are missing."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """The content of a JSON file, which is an object.

    Args:
        what: it should be, such as ``"record of settings"``; for messages.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file.
    """
    return from_json(Path(path).read_bytes(), path, what)


def from_json(content: bytes, path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """What the bytes of a JSON file hold; see `read_json`."""
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no {what}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no {what}: it holds no object with names and values")
    return found


def one_line(text: str) -> str:
    """What a file holds, or an error says of it, for a message: in one line, and no pages of it."""
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}…"


def copy(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Copy a file whole or not at all."""
    with atomic_write(path) as beside:
        shutil.copyfile(source, beside)


def printable(text: str) -> str:
    """A name, in one line that does nothing to a terminal: what is for control stands there as in Python.

    Bytes of a name that are no UTF-8 remain, as characters from U+DC80 to U+DCFF.
    """
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else ascii(c)[1:-1] for c in text)


def digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(paths: Iterable[str | os.PathLike[str]]) -> str:
    """A digest of the names, sizes and modification times of files, which are not read.

    Folders are followed to the files in them.
    """
    lines = []
    for path in map(Path, paths):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                status = file.stat()
                lines.append(f"{file.relative_to(path.parent)} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


@contextmanager
def lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes, and other calls in this one, out of a folder; it is made if it is missing.

    What a killed run left there unfinished is removed, and at the end what a killed worker of this one left:
    nobody else writes to a folder that is locked.

    Raises:
        ValueError: if somebody else works there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / LOCK_FILE).is_symlink():  # filelock before 3.20 would empty what it leads to
        (folder / LOCK_FILE).unlink(missing_ok=True)
    held = FileLock(folder / LOCK_FILE)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{folder} is in use by another run: wait, or choose another folder") from error
    try:
        _remove_leftovers(folder)
        yield
    finally:
        _remove_leftovers(folder)
        held.release()


@contextmanager
def claim(
    folder: str | os.PathLike[str],
    settings: Mapping[str, Any],
    *,
    holds: str,
    may_change: Collection[str] = (),
) -> Iterator[bool]:
    """Lock a folder for work with these settings, which are recorded there before the block begins.

    Args:
        folder: new, empty, or of an earlier run with the same settings.
        settings: plain data, whatever decides what the folder's files contain.
        holds: what the folder is for, such as ``"prepared tracks"``; for messages.
        may_change: keys that may differ from the record, which takes the new value then.

    Yields:
        Whether an earlier run is resumed.

    Raises:
        ValueError: if the folder was made with different settings (which ones, and both values), holds
            something else, or is in use by another run.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and {holds} need a folder")
    if folder.is_dir() and read_settings(folder) is None:
        strange = sorted(item.name for item in folder.iterdir() if not _is_own(item))
        if strange:
            raise ValueError(
                f"{folder} holds {strange[0]}, which is no part of {holds}: choose another folder"
            )
    with lock(folder):
        before = read_settings(folder)
        if before is not None:
            check_settings(folder, before, settings, holds=holds, may_change=may_change)
        now = _plain(settings)
        if before != now:
            write_json(folder / SETTINGS_FILE, now)
        yield before is not None


def read_settings(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The settings recorded in a folder, or None where there is no record.

    Raises:
        ValueError: if the record can't be read.
    """
    path = Path(folder) / SETTINGS_FILE
    if not path.is_file():
        return None
    return read_json(path, "record of settings")


def check_settings(
    folder: str | os.PathLike[str],
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    holds: str,
    may_change: Collection[str] = (),
) -> None:
    """Refuse a folder that was made with other settings; see `claim`.

    Raises:
        ValueError: if it was (which ones, and both values).
    """
    if changed := differences(before, now, may_change):
        raise ValueError(
            f"{folder} holds {holds} made with different settings: {'; '.join(changed)}: "
            "use the same settings to resume, or another folder"
        )


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], may_change: Collection[str] = ()
) -> list[str]:
    """What differs between two sets of settings, a phrase for each, with both values."""
    old, new = _flat(_plain(before)), _flat(_plain(now))
    return [
        f"{one_line(key)} was {one_line(repr(old.get(key)))} and is now {one_line(repr(new.get(key)))}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and key not in may_change
    ]


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    return json.loads(json.dumps(settings, default=str))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _remove_leftovers(folder: Path) -> None:
    """Remove what is not whole in a folder, but for folders in it that have a lock of their own."""
    for parent, folders, names in os.walk(folder):
        if Path(parent) != folder and LOCK_FILE in names:
            folders.clear()
            continue
        for name in filter(is_part, folders + names):
            _remove(Path(parent, name))
        folders[:] = [name for name in folders if not is_part(name)]


def is_part(name: str) -> bool:
    """Whether a file or folder of this name is one that is not whole yet."""
    return name.startswith(".") and name.endswith(PART_SUFFIX)


def _is_own(item: Path) -> bool:
    return item.name == LOCK_FILE or is_part(item.name)


def check_sources(sources: Sequence[str]) -> None:
    """
    Raises:
        ValueError: if these can't be the names of a network's sources, after which stems are called.
    """
    if isinstance(sources, str) or not sources or len(set(sources)) != len(sources):
        raise ValueError(f"sources must be different names such as ('vocals',), got {sources!r}")
    if not all(map(_is_name, sources)):
        raise ValueError(f"sources must be names that files can have, got {sources!r}")


def _is_name(source: object) -> bool:
    """Whether a source's name is that of a file in a folder, and of none elsewhere."""
    return (
        isinstance(source, str)
        and source.isprintable()
        and source.strip(" .") != ""
        and not {*"/\\"} & {*source}
    )
