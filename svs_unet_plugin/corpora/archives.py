"""Archives of data sets, from a network and into a folder; whoever packed them is not trusted."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm

MOST_FILES = 10_000
"""That are taken out of one archive."""

TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""


def download(url: str, archive: Path) -> None:
    """Download a file, unless it is there.

    Neither data set that is had so has a published checksum: what comes is unpacked by `unpack`.

    Args:
        url: of a file on a web server.

    Raises:
        OSError: if it can't be had.
    """
    import pooch

    downloader = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
    pooch.retrieve(url, known_hash=None, path=archive.parent, fname=archive.name, downloader=downloader)


def reason(error: Exception) -> str:
    """Why an archive could not be had, in a few words; those of requests fill some lines."""
    return str(error) if isinstance(error, zipfile.BadZipFile) else type(error).__name__


def unpack(archive: Path, folder: Path, below: str = "", *, most_bytes: int) -> None:
    """Unpack the files of a zip archive into a folder that nobody else knows.

    Args:
        folder: new.
        below: take only what lies below this folder of the archive, ended by a slash.
        most_bytes: that the files may have together.

    Raises:
        zipfile.BadZipFile: if it is no whole archive, holds more than that, or anything that is no plain file
            below the folder.
    """
    with zipfile.ZipFile(archive) as contents:
        members = list(_members(contents, below, most_bytes))
        for member in tqdm(members, desc="Unpack", unit="file"):
            target = folder.joinpath(member.filename.removeprefix(below))
            target.parent.mkdir(parents=True, exist_ok=True)
            with contents.open(member) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file)  # no more than it states, and checks its CRC


def _members(contents: zipfile.ZipFile, below: str, most_bytes: int) -> Iterator[zipfile.ZipInfo]:
    """The files to unpack, if all may be."""
    number = size = 0
    for member in contents.infolist():
        name = member.filename
        if not name.startswith(below) or member.is_dir():
            continue
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise zipfile.BadZipFile(f"it holds {name!r}, which would lie outside of the folder")
        kind = stat.S_IFMT(member.external_attr >> 16)  # none, where it was packed on another system
        if kind not in (0, stat.S_IFREG):
            raise zipfile.BadZipFile(f"it holds {name!r}, which is a link or a device")
        number, size = number + 1, size + member.file_size
        if number > MOST_FILES or size > most_bytes:
            raise zipfile.BadZipFile(f"it unpacks to more than {MOST_FILES} files or {most_bytes} bytes")
        yield member
