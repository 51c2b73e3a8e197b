"""Names of files are only names, to a shell, to ffmpeg and to a terminal; none in a file is followed."""

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from svs_unet_plugin import Separator
from svs_unet_plugin.audio import track_name
from svs_unet_plugin.catalogue import Job, Worker, folder_of, read_manifest
from svs_unet_plugin.cli import main
from svs_unet_plugin.corpora.musdb import STREAMS
from svs_unet_plugin.corpora.prepare import open_prepared
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.encoding import Encoding
from svs_unet_plugin.mixing.excerpts import mapped_songs

NAMES = [
    *("-y", "--help", "-i", "-", "- -o out", ";touch harm;", "$(touch harm)", "`touch harm`", "|touch harm"),
    *(
        'it\'s "both"',
        "two\nlines",
        "carriage\rreturn\ttab",
        "\x1b[2J\x1b]0;title\x07",
        "..",
        "...",
        ". .",
        "~root",
    ),
    *(
        os.fsdecode(b"latin \xe9 \xff"),
        "%d %s %n",
        "{stem} {0.__class__}",
        "[ab]*?",
        "a&b>c<d",
        "\\..\\up",
        "CON",
    ),
    *(
        "concat:a|b",
        "file:b",
        "pipe:0",
        "data:a,b",
        "subfile,,start,0,end,9,,:b",
        "http:b",
        "a=b,c",
        " blank ",
    ),
    *("\u202egpj", "\u2028line", "song.mp3", "#hash?query=1", "@list", "ünïcödé 歌 🎵"),
]

FEW = [
    "-y",
    "$(touch harm);",
    "'\"",
    "two\nlines",
    os.fsdecode(b"latin \xff"),
    "concat:a|b",
    "data:a,b",
    "%d{stem}",
]
"""Of each kind one."""

pytestmark = [
    pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves"),
]


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tenth of a second of stereo, which ffmpeg decodes."""
    path = tmp_path_factory.mktemp("song") / "song.mp3"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.3, 0.3, (4410, 2)), 44_100)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def said(capsysbinary: pytest.CaptureFixture[bytes]) -> pytest.CaptureFixture[bytes]:
    """What is printed: the bytes of a name are what they are."""
    return capsysbinary


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def songs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, song: bytes) -> list[str]:
    """Names of songs in the current folder."""
    (tmp_path / "songs").mkdir()
    monkeypatch.chdir(tmp_path / "songs")
    names = [f"{name}.mp3" for name in NAMES]
    for name in names:
        Path(name).write_bytes(song)
    return names


@pytest.mark.parametrize("how", ["by name", "in a folder"])
def test_songs(how: str, songs: list[str], checkpoint_path: Path, said: pytest.CaptureFixture[bytes]) -> None:
    """Decoded by ffmpeg and by libsndfile, their stems encoded by ffmpeg, in folders of their names."""
    if how == "in a folder":  # where names that begin with a dot are hidden
        songs = [name for name in songs if not name.startswith(".")]
    given = songs if how == "by name" else [".."]
    options = ["-w", str(checkpoint_path), "--format", "mp3", "--stems", "vocals", "--recursive", "--quiet"]
    assert main(["separate", *options, "-o", "../stems", "--", *given]) == 0, said.readouterr().err
    made = files(Path("../stems"))
    below = "" if how == "by name" else "songs/"
    assert made == {f"{below}{track_name(Path(name))}/vocals.mp3" for name in songs}
    assert files(Path("..")) - {f"stems/{path}" for path in made} == {f"songs/{name}.mp3" for name in NAMES}


@pytest.mark.parametrize("name", FEW)
def test_weights_and_folders_of_stems(
    name: str, song: bytes, checkpoint_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("song.mp3").write_bytes(song)
    weights = f"{name}.pth"
    Path(weights).write_bytes(checkpoint_path.read_bytes())
    options = ["--weights", weights, "--format", "mp3", "--stems", "vocals"]
    options += ["--filename", "{track} {weights} {stem}.{ext}"]
    assert main(["separate", *options, "--out", name, "song.mp3"]) == 0
    assert main(["info", "--", weights]) == 0
    assert main(["data", "demo", "--tracks", "1", "--seconds", "1", "--stems", "--", f"{name}data"]) == 0
    (made,) = files(Path(name))
    assert made.startswith("song ") and made.endswith(" vocals.mp3")
    assert len(list(Path(f"{name}data").glob("t*/*.stem.mp4"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [name, f"{name}data", weights, "song.mp3"]
    )


def test_errors_are_lines_that_do_nothing_to_a_terminal(
    songs: list[str], checkpoint_path: Path, said: pytest.CaptureFixture[bytes]
) -> None:
    for name in songs:
        Path(name).write_text("no song")
    Path("\n\x1b").mkdir()
    assert main(["separate", "-w", str(checkpoint_path), "-o", "../stems", "--", *songs, "\n\x1b"]) == 2
    assert main(["info", "nothing\x1b[2J"]) == 2
    lines = said.readouterr().err.removesuffix(b"\n").split(b"\n")
    assert len(lines) == len(songs) + 3  # a folder without songs, the sum, and the last command
    assert not [line for line in lines if re.search(rb"[\x00-\x1f\x7f]", line)]


def test_paths_in_a_manifest(
    song: bytes, checkpoint_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are songs; what they lead to may lie outside of the manifest's folder, their stems may not."""
    monkeypatch.chdir(tmp_path)
    Path("lists").mkdir()
    names = [f"{name}.mp3" for name in FEW if "\udc80" > max(name)]  # a table has no other
    names = [*(f"songs/{name}" for name in names), "../outside.mp3", "songs/../songs/../../outside.mp3"]
    for name in names:
        path = Path("lists", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(song)
    pq.write_table(pa.table({"path": names}), "lists/manifest.parquet")
    paths, base = read_manifest("lists/manifest.parquet")
    assert paths.to_pylist() == names
    # What a worker of Ray's does with each, in this process.
    worker = object.__new__(Worker)
    worker.separator = Separator(checkpoint_path, "cpu")
    worker.job = Job(base, str(tmp_path / "stems"), ("vocals",), Encoding("mp3"), 1)
    before = files(tmp_path)
    for name in names:
        _, (written,) = worker.separate(name)
        assert Path(written["path"]) == tmp_path / "stems" / folder_of(name) / "vocals.mp3"
    made = files(tmp_path) - before
    assert made == {f"stems/{folder_of(name)}/vocals.mp3" for name in names} and len(made) == len(names)
    assert all(path.isprintable() and ".." not in Path(path).parts for path in made)


@pytest.mark.parametrize("kind", ["folders", "files"])
def test_tracks_of_a_corpus(kind: str, tmp_path: Path) -> None:
    """Checked and prepared, by their names, from WAV folders and from stem files."""
    corpus, out = tmp_path / "corpus", tmp_path / "prepared"
    (track,) = make_corpus(tmp_path / "made", 1, 1.0, 0, stems=kind == "files")
    for subset in ("train", "test"):
        (corpus / subset).mkdir(parents=True)
    for name in FEW:
        if kind == "files":
            shutil.copyfile(track, corpus / "train" / f"{name}.stem.mp4")
        else:
            shutil.copytree(track, corpus / "train" / name)
    before = files(tmp_path)
    assert main(["data", "check", str(corpus), "--jobs", "1"]) == 0
    assert main(["data", "prepare", str(corpus), str(out), "--jobs", "1"]) == 0
    made = {path for path in files(tmp_path) - before if path.endswith(".wav")}
    assert made == {f"prepared/train/{name}/{stream}.wav" for name in FEW for stream in STREAMS}
    prepared = open_prepared(out)
    songs = mapped_songs([*prepared.train, *prepared.valid], STREAMS)
    assert len(songs) == len(FEW)


LISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{private}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{private}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="audio/mp4"><Representation id="1" '
    'bandwidth="1"><BaseURL>{private}</BaseURL></Representation></AdaptationSet></Period></MPD>',
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_files_is_no_song(
    kind: str, song: bytes, checkpoint_path: Path, tmp_path: Path, said: pytest.CaptureFixture[bytes]
) -> None:
    """By all doors: a command, a catalogue's worker and a corpus; the page's is in its own tests."""
    private = tmp_path / "private.mp3"
    private.write_bytes(song)
    content = LISTS[kind].format(private=private)
    for folder in ("corpus/train", "corpus/test"):
        (tmp_path / folder).mkdir(parents=True)
    lists = [tmp_path / f"a.{extension}" for extension in ("mp3", "wav", "m4a", kind)]
    lists.append(tmp_path / "corpus" / "train" / "A track.stem.mp4")
    worker = object.__new__(Worker)
    worker.separator = Separator(checkpoint_path, "cpu")
    worker.job = Job(str(tmp_path), str(tmp_path / "stems"), ("vocals",), Encoding(), 1)
    for path in lists:
        path.write_text(content)
        with pytest.raises(ValueError, match="is not audio that can be read"):
            worker.separate(str(path))
    command = ["separate", *map(str, lists), "-o", str(tmp_path / "stems"), "-w", str(checkpoint_path)]
    assert main(command) == 2
    main(["data", "check", str(tmp_path / "corpus"), "--jobs", "1"])
    assert b"skipped: A track:" in said.readouterr().out
    assert not (tmp_path / "stems").exists()
