"""Archives that somebody made to harm who unpacks them."""

import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from svs_unet_plugin.corpora import archives, mir1k, musdb


def file(name: str, content: bytes = b"harm", mode: int = 0) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info, content


EVIL = {
    "a name above": (file("../harm.wav"), "would lie outside"),
    "a name above, later": (file("a/../../harm.wav"), "would lie outside"),
    "an absolute name": (file("/harm.wav"), "would lie outside"),
    "a name of Windows": (file("..\\harm.wav"), "would lie outside"),
    "a drive of Windows": (file("C:harm.wav"), "would lie outside"),
    "a link": (file("link", b"/etc/passwd", 0o120777), "a link or a device"),
    "a device": (file("zero", b"", 0o020666), "a link or a device"),
    "a bomb": (file("bomb.wav", bytes(2_000_000)), "more than 10000 files or 1000000 bytes"),
}


def pack(path: Path, below: str, *members: tuple[zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in (file("good.wav", b"good"), *members):
            named = zipfile.ZipInfo(below + info.filename)
            named.filename = below + info.filename  # which the line above tidies up
            named.external_attr, named.compress_type = info.external_attr, info.compress_type
            archive.writestr(named, content)
    return path


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("below", ["", "MIR-1K/Wavfile/"])
def test_nothing_of_an_evil_archive_is_unpacked(tmp_path: Path, name: str, below: str) -> None:
    member, reason = EVIL[name]
    if below and name == "an absolute name":
        member = file("../../../../../../../../../../../../tmp/harm.wav")
    archive = pack(tmp_path / "a.zip", below, member)
    with pytest.raises(zipfile.BadZipFile, match=reason):
        archives.unpack(archive, tmp_path / "inner" / "out", below, most_bytes=1_000_000)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


def test_a_file_that_is_longer_than_it_states(tmp_path: Path) -> None:
    """The sizes in the archive are its packer's words, and no more than that is written."""
    archive = pack(tmp_path / "a.zip", "", file("long.wav", bytes(300_000)))
    data = archive.read_bytes().replace((300_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    archive.write_bytes(data)
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        archives.unpack(archive, tmp_path / "out", most_bytes=1000)
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) < 1000


def test_more_files_than_anything_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_FILES", 5)
    archive = pack(tmp_path / "a.zip", "", *(file(f"{number}.wav", b"") for number in range(5)))
    with pytest.raises(zipfile.BadZipFile, match="more than 5 files"):
        archives.unpack(archive, tmp_path / "out", most_bytes=1000)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address of a server of it."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{http.server_port}/a.zip"
        http.shutdown()


def _mir1k(url: str, folder: Path) -> None:
    mir1k.fetch(folder, url)


def _sample(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(musdb, "_musdb_setup", lambda: {"sample-url": url})
    musdb.fetch_sample(folder)


@pytest.mark.parametrize("corpus", ["MIR-1K", "MUSDB18"])
def test_a_corpus_from_an_evil_server(
    served: tuple[Path, str], tmp_path: Path, corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = served
    pack(folder / "a.zip", "MIR-1K/Wavfile/" if corpus == "MIR-1K" else "train/", file("../../../harm.wav"))
    fetch: Callable[[str, Path], None] = (
        _mir1k if corpus == "MIR-1K" else partial(_sample, monkeypatch=monkeypatch)
    )
    with pytest.raises(OSError, match=r"harm.wav', which would lie outside"):
        fetch(url, tmp_path / "data")
    assert not [path for path in tmp_path.rglob("*") if "harm" in path.name or "good" in path.name]
    assert not list(tmp_path.rglob("MIR-1K.zip"))  # or it would be taken next time
