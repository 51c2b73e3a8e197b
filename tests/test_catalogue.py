"""Catalogues on Ray: whatever is killed, each song is in the results once."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import soundfile
from killing import kill_when

pytest.importorskip("pyarrow", reason="a catalogue needs pip install 'svs_unet_plugin[ray]'")
pytest.importorskip("ray", reason="a catalogue needs pip install 'svs_unet_plugin[ray]'")

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import ray

from svs_unet_plugin import Separator, catalogue, files
from svs_unet_plugin.catalogue import Worker, folder_of, read_manifest, separate_catalogue
from svs_unet_plugin.cli import main
from svs_unet_plugin.encoding import Encoding

ENDPOINT = "AWS_ENDPOINT_URL"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two workers, whose S3 is a server on this machine, if moto is here."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            from moto.server import ThreadedMotoServer
        except ImportError:
            server = None
        else:
            server = ThreadedMotoServer(port=0, verbose=False)
            server.start()
            host, port = server.get_host_and_port()
            patch.setenv(ENDPOINT, f"http://{host}:{port}")
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(name, "testing")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with catalogue._connected(None):
            yield
        if server is not None:
            server.stop()


def make_song(path: Path, seconds: float = 1.0, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal((round(16_000 * seconds), 2))
    soundfile.write(path, noise / 10, 16_000, "FLOAT")
    return path


def results(out: Path) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(out / "catalogue" / "results").to_pylist()
    assert max(Counter(row["path"] for row in rows).values()) == 1
    return {row["path"]: row for row in rows}


def test_what_kills_its_worker_is_a_row_and_nothing_else_is_lost(
    cluster: None, tmp_path: Path, checkpoint_path: Path
) -> None:
    music, out, log = tmp_path / "music", tmp_path / "stems", tmp_path / "log"
    good = [make_song(music / f"good {i}.wav", 1.0 + i / 4, i) for i in range(4)]
    fatal = ("killed once.wav", "crashes the decoder.wav")
    for name in fatal:
        make_song(music / name)
    (music / "damaged.wav").write_bytes(good[0].read_bytes()[:-9000])
    paths = [str(good[0]), *(path.name for path in good[1:]), *fatal, "damaged.wav", "missing.wav"]
    pq.write_table(pa.table({"id": range(len(paths)), "path": paths}), music / "songs.parquet")

    class Fragile(Worker):
        def separate(self, path: str) -> Any:
            with log.open("a") as begun:
                print(path, file=begun)
            if path == "killed once.wav" and log.read_text().count(path) == 1:
                part = out / folder_of(path) / f".half{files.PART_SUFFIX}"
                part.parent.mkdir(parents=True)
                part.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if path == "crashes the decoder.wav":
                os.kill(os.getpid(), signal.SIGSEGV)
            return super().separate(path)

    options: Any = {"weights": checkpoint_path, "workers": 2, "worker": Fragile}
    summary = separate_catalogue(music / "songs.parquet", out, **options)
    assert (summary.done, summary.failed, summary.before) == (5, 3, 0)
    rows = results(out)
    assert set(rows) == set(paths)
    assert {path: row["error"] for path, row in rows.items() if row["status"] == "failed"} == {
        "crashes the decoder.wav": "2 workers were killed while they separated it",
        "damaged.wav": rows["damaged.wav"]["error"],
        "missing.wav": f"no such file: {music / 'missing.wav'}",
    }
    assert "damaged.wav is truncated" in rows["damaged.wav"]["error"]
    expected = Separator(checkpoint_path).separate_file(good[3], tmp_path / "expected")
    assert rows["good 3.wav"]["duration"] == pytest.approx(1.75)
    for stem in rows["good 3.wav"]["stems"]:
        assert stem["sha256"] == files.digest(stem["path"]) == files.digest(expected[stem["stem"]])
    times = Counter(log.read_text().splitlines())
    assert times.pop("killed once.wav") == times.pop("crashes the decoder.wav") == 2
    assert set(times.values()) == {1}  # a killed worker takes nothing with it
    assert not list(out.rglob(f"*{files.PART_SUFFIX}"))

    # A new run does what is missing, and what failed only if it is asked to.
    make_song(music / "missing.wav")
    summary = separate_catalogue(music / "songs.parquet", out, **options)
    assert (summary.before, summary.failed_before) == (len(paths), 3)
    options |= {"worker": Worker, "retry_failed": True}
    summary = separate_catalogue(music / "songs.parquet", out, **options)
    assert (summary.done, summary.failed, summary.before) == (2, 1, 5)
    assert {path for path, row in results(out).items() if row["status"] == "failed"} == {"damaged.wav"}
    with pytest.raises(ValueError, match="views was 1 and is now 2"):
        separate_catalogue(music / "songs.parquet", out, weights=checkpoint_path, views=2)


def test_a_worker_writes_what_was_asked_for(
    checkpoint_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    separator = Separator(checkpoint_path, views=2)
    monkeypatch.setattr(ray, "get", lambda attempts: 1)
    form = Encoding("flac")
    job = catalogue.Job(str(tmp_path), str(tmp_path / "out"), ("vocals",), form, views=2)
    worker = Worker(separator.network, separator.stft, job, MagicMock())  # type: ignore[arg-type]
    make_song(tmp_path / "song.wav")
    row = worker.result("song.wav")
    expected = separator.separate_file(tmp_path / "song.wav", tmp_path, stems=["vocals"], encoding=form)
    assert row["status"] == "done" and [stem["stem"] for stem in row["stems"]] == ["vocals"]
    assert row["stems"][0]["sha256"] == files.digest(expected["vocals"])


def test_names_that_mean_something_elsewhere(cluster: None, tmp_path: Path, checkpoint_path: Path) -> None:
    """Patterns, and fsspec's chains of URLs; the table of results is gone on with."""
    music, out = tmp_path / "music", tmp_path / "out [1]::*"
    make_song(music / "a::b.wav")
    options: Any = {"weights": checkpoint_path, "workers": 1}
    assert separate_catalogue(music, out, **options).done == 1
    make_song(music / ("\N{GRINNING FACE}" * 60 + ".wav"))
    summary = separate_catalogue(music, out, **options)
    assert (summary.done, summary.failed, summary.before) == (1, 0, 1)
    assert len(results(out)) == 2


def test_songs_of_one_name_in_other_folders(cluster: None, tmp_path: Path, checkpoint_path: Path) -> None:
    for folder in ("a", "b"):
        make_song(tmp_path / folder / "01.wav")
    options: Any = {"weights": checkpoint_path, "workers": 1}
    separate_catalogue(tmp_path / "a", tmp_path / "out", **options)
    with pytest.raises(ValueError, match=r"songs below was .*/a' and is now .*/b'"):
        separate_catalogue(tmp_path / "b", tmp_path / "out", **options)


def test_only_what_is_listed_is_tried_again(
    cluster: None, tmp_path: Path, checkpoint_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_song(tmp_path / "01.wav")
    for name in ("gone.wav", "01.wav"):
        (tmp_path / f"{name}.csv").write_text(f"path\n{name}\n")
    options: Any = {"weights": checkpoint_path, "workers": 1}
    assert separate_catalogue(tmp_path / "gone.wav.csv", tmp_path / "out", **options).failed == 1
    command = ["separate", "--on", "ray", "--manifest", str(tmp_path / "gone.wav.csv")]
    # Nothing is left to do, and nothing was done.
    assert main([*command, "--out", str(tmp_path / "out"), "--weights", str(checkpoint_path)]) == 2
    said = "1 songs: 0 done, 0 failed, 1 listed before, of which 1 failed: --retry-failed"
    assert said in capsys.readouterr().err
    assert (
        separate_catalogue(tmp_path / "01.wav.csv", tmp_path / "out", retry_failed=True, **options).done == 1
    )
    assert {path: row["status"] for path, row in results(tmp_path / "out").items()} == {
        "gone.wav": "failed",
        "01.wav": "done",
    }


def test_a_killed_run_goes_on(cluster: None, tmp_path: Path, checkpoint_path: Path) -> None:
    """The driver of a Ray of its own is killed; a new one does the rest on another Ray."""
    music, out = tmp_path / "music", tmp_path / "music" / "stems"
    songs = {make_song(music / "in a folder" / f"{i}.wav", 4, i).relative_to(music) for i in range(8)}
    command = [
        sys.executable,
        "-m",
        "svs_unet_plugin.cli",
        "separate",
        "--on",
        "ray",
        "--manifest",
        str(music),
    ]
    command += ["--out", str(out), "--weights", str(checkpoint_path)]
    parts = out / "catalogue" / "results"
    moment = lambda: bool(list(parts.glob("*.parquet")))  # noqa: E731
    assert kill_when(moment, command, group=False), "it was over before it was killed"
    before = {row["path"]: files.digest(row["stems"][0]["path"]) for row in results(out).values()}
    assert 0 < len(before) < len(songs)
    # The second run is on a cluster that runs already.
    command += ["--address", ray.get_runtime_context().gcs_address, "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == f"{parts}\n", done.stderr
    assert f"8 songs: {8 - len(before)} done, 0 failed, {len(before)} listed before" in done.stderr
    rows = results(out)
    assert set(rows) == set(map(str, songs)) and {row["duration"] for row in rows.values()} == {4.0}
    assert all(files.digest(rows[path]["stems"][0]["path"]) == digest for path, digest in before.items())
    assert not list(out.rglob(f"*{files.PART_SUFFIX}"))


def test_songs_and_stems_in_an_object_store(cluster: None, tmp_path: Path, checkpoint_path: Path) -> None:
    pytest.importorskip("s3fs", reason="s3:// needs s3fs")
    if ENDPOINT not in os.environ:
        pytest.skip("the S3 of the test needs moto")
    import s3fs

    store = s3fs.S3FileSystem(skip_instance_cache=True)
    store.mkdir("music")
    local = make_song(tmp_path / "local.wav", seed=1)
    store.put_file(str(make_song(tmp_path / "song.wav")), "music/songs/song.wav")
    store.pipe_file("music/songs/bad.mp3", b"no song" * 99)
    lines = "\n".join(["path", "song.wav", "s3://music/songs/bad.mp3", str(local)])
    store.pipe_file("music/songs/list.csv", lines.encode())
    arguments: Any = ("s3://music/songs/list.csv", "s3://music/stems/")
    summary = separate_catalogue(*arguments, weights=checkpoint_path, stems=["vocals"], workers=1)
    assert (summary.done, summary.failed) == (2, 1)
    table = pq.read_table("music/stems/catalogue/results", filesystem=store)
    rows = {row["path"]: row for row in table.to_pylist()}
    assert rows["s3://music/songs/bad.mp3"]["error"].startswith("s3://music/songs/bad.mp3 is not audio")
    (stem,) = rows["song.wav"]["stems"]
    assert stem["path"].startswith("s3://music/stems/") and stem["path"].endswith("/vocals.wav")
    store.get_file(stem["path"], str(tmp_path / "vocals.wav"))
    expected = Separator(checkpoint_path).separate_file(tmp_path / "song.wav", tmp_path)
    assert stem["sha256"] == files.digest(tmp_path / "vocals.wav") == files.digest(expected["vocals"])
    assert separate_catalogue(*arguments, weights=checkpoint_path, stems=["vocals"]).before == 3
    with pytest.raises(ValueError, match=r"s3://music/stems/catalogue holds results made with different"):
        separate_catalogue(*arguments, weights=checkpoint_path)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--on", "ray"], "--on ray needs --manifest"),
        (["--on", "ray", "--manifest", "songs.csv", "-o", "-"], "standard output does not go with --on ray"),
        (["song.wav", "--on", "ray", "--manifest", "songs.csv"], "SONG does not go with --on ray"),
        (["--on", "ray", "--manifest", "songs.csv", "--start", "3"], "--start does not go with --on ray"),
        (["--on", "ray", "--manifest", "none.csv"], "no such manifest: none.csv"),
        (["song.wav", "--manifest", "songs.csv"], "--manifest goes with --on ray"),
        (["song.wav", "--out", "s3://a/b"], "--out s3://a/b is a URL, to which --on ray alone can write"),
        ([], "Missing argument 'SONG...'"),
    ],
)
def test_wrong_commands(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["separate", "--out", "stems", *arguments]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_manifests(tmp_path: Path) -> None:
    table = pa.table({"path": ["a.wav", "/b.mp3", "s3://c/d.flac"], "year": [1, 2, 3]})
    pq.write_table(table, tmp_path / "songs.parquet")
    pyarrow.csv.write_csv(table, tmp_path / "songs.csv")
    lines = [f'{{"path": "{path}"}}\n' for path in table["path"].to_pylist()]
    (tmp_path / "songs.jsonl").write_text("".join(lines))
    for name in ("songs.parquet", "songs.csv", "songs.jsonl"):
        paths, base = read_manifest(tmp_path / name)
        assert paths.to_pylist() == table["path"].to_pylist() and base == str(tmp_path)
    assert catalogue.located("a.wav", base) == str(tmp_path / "a.wav")
    assert catalogue.located("s3://c/d.flac", base) == "s3://c/d.flac"
    (tmp_path / "x").mkdir()
    for name in ("x/B.MP3", "x/cover.jpg", "x/out/stem.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths, base = read_manifest(tmp_path / "x", tmp_path / "x" / "out")
    assert paths.to_pylist() == ["B.MP3"] and base == str(tmp_path / "x")
    (tmp_path / "link").symlink_to(tmp_path / "x")
    assert read_manifest(tmp_path / "link", tmp_path / "x" / "out")[0].to_pylist() == ["B.MP3"]
    (tmp_path / "songs.csv").write_text("path\n0012\n0013\n")
    assert read_manifest(tmp_path / "songs.csv")[0].to_pylist() == ["0012", "0013"]
    (tmp_path / "songs.jsonl").write_text('{"path": "a.wav", "year": 1}\n{"year": "?", "path": "b.wav"}\n')
    assert read_manifest(tmp_path / "songs.jsonl")[0].to_pylist() == ["a.wav", "b.wav"]


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("none.csv", None, "no such manifest: "),
        ("songs.txt", "a.wav", "is neither a folder nor a table that ends with .parquet"),
        ("songs.csv", "file,year\na.wav,1\n", "needs a column path, the songs' paths; it has file, year"),
        ("songs.csv", "path\n", "holds no songs"),
        ("songs.csv", "path\na\nb\na\n", "lists 1 songs more than once; the first is a"),
        ("songs.csv", "path,year\na,1\n,2\n", "has 1 rows without a path"),
        ("songs.parquet", "no table", "songs.parquet can't be read as parquet: "),
        ("songs.parquet", "PAR1" + 30 * "\0" + "\x08\0\0\0PAR1", "songs.parquet can't be read as parquet: "),
        ("songs.csv", "path\n\udcff\n", "songs.csv can't be read as csv: "),
        ("songs.csv", "\udcff,path\na,b\n", "songs.csv can't be read as csv: "),
        ("songs.jsonl", '{"path": "a/\udcff.wav"}\n{"path": "b"}\n', "songs.jsonl can't be read as json: "),
        ("songs.jsonl", '{"path": {"a": 1}}', "songs.jsonl can't be read as json: "),
        ("songs.jsonl", '{"file": "a"}\n{"path": "b"}', "has 1 rows without a path"),
    ],
)
def test_wrong_manifests(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, errors="surrogateescape")
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        separate_catalogue(tmp_path / name, tmp_path / "stems")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "stems").exists()


def test_every_song_has_a_folder_of_its_own_inside() -> None:
    paths = [
        "a/b.mp3",
        "c/b.mp3",
        "a/b.wav",
        "..",
        "../..",
        "a/\n/.hidden\tsong.mp3",
        "x/" + "n" * 300 + ".mp3",
    ]
    folders = [folder_of(path) for path in paths]
    assert len(set(folders)) == len(paths)
    for folder in folders:
        (shard, name) = folder.split("/")
        assert len(shard) == 2 and name.isprintable() and not name.startswith(".") and len(name) < 99
    assert folder_of("a/b.mp3").split("/")[1].startswith("b-")
