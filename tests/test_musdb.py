import http.server
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import musdb as original
import numpy as np
import pytest
import soundfile
import stempeg

from svs_unet_plugin.cli import main
from svs_unet_plugin.corpora import musdb
from svs_unet_plugin.corpora.musdb import STREAMS
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.files import LOCK_FILE, lock

RATE = 44_100


@pytest.fixture(scope="module")
def stem_files(tmp_path_factory: pytest.TempPathFactory, song_path: Path) -> Path:
    """A real stem file, under the name of a track that musdb has for validation, and in both subsets."""
    root = tmp_path_factory.mktemp("MUSDB18")
    for subset, name in (("train", "Leaf - Summerghost"), ("test", "The Easton Ellises - Falcon 69")):
        (root / subset).mkdir()
        shutil.copyfile(song_path, root / subset / f"{name}.stem.mp4")
    return root


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three tracks as WAV files: one to test on."""
    make_corpus(tmp_path / "corpus", tracks=3, seconds=1.0, seed=0)
    return tmp_path / "corpus"


def rewrite(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, samples, RATE, subtype="PCM_16")


def found(folder: Path) -> dict[str, musdb.Check]:
    return {check.track.name: check for check in musdb.check(folder, jobs=1)}


def test_reads_what_stempeg_reads(stem_files: Path) -> None:
    tracks = musdb.find_tracks(stem_files)
    assert [(track.subset, track.name) for track in tracks] == [
        ("train", "Leaf - Summerghost"),
        ("test", "The Easton Ellises - Falcon 69"),
    ]
    stems, rate = tracks[1].read()
    expected, expected_rate = stempeg.read_stems(str(tracks[1].path))
    assert rate == expected_rate and tuple(stems) == STREAMS
    np.testing.assert_allclose(np.stack(list(stems.values())), expected.swapaxes(1, 2), atol=1e-7)


def test_checks_a_real_stem_file(stem_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = found(stem_files)["Leaf - Summerghost"]
    stems, _ = stempeg.read_stems(str(check.track.path))
    error = stems[0] - stems[1:].sum(axis=0)
    assert check.agreement == pytest.approx(10 * np.log10((stems[0] ** 2).sum() / (error**2).sum()), abs=1e-3)
    assert (check.problem, check.samples, check.channels) == (None, stems.shape[1], 2)
    assert main(["data", "check", str(stem_files), "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "2 tracks" in said and "1 to train, 1 to test on" in said
    assert "1 of those to train on are for validation" in said
    assert "MUSDB18 has 100 and 50 tracks" in said


def test_a_sound_corpus_has_nothing_to_say(corpus: Path) -> None:
    checks = musdb.check(corpus)  # two processes, where there are two cores
    assert len(checks) == 3 and all(check.problem is None and not check.notes for check in checks)
    assert "the stems add up to the mixture exactly" in musdb.summary(checks)


def test_cut_off_stem_files(stem_files: Path, tmp_path: Path) -> None:
    root = tmp_path / "broken"
    shutil.copytree(stem_files, root)
    whole = next(root.glob("test/*")).read_bytes()
    (root / "test" / "half.stem.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "test" / "empty.stem.mp4").touch()
    (root / "test" / "other.stem.mp4.part").write_bytes(whole[:1000])
    # With its index in front, a file opens however little of it is there.
    fast = tmp_path / "fast.mp4"
    copy = ["ffmpeg", "-v", "error", "-i", str(next(root.glob("train/*"))), "-map", "0:a", "-c", "copy"]
    subprocess.run([*copy, "-movflags", "+faststart", str(fast)], check=True)
    data = fast.read_bytes()
    (root / "test" / "late.stem.mp4").write_bytes(data[: int(len(data) * 0.8)])
    checks = found(root)
    assert {name for name, check in checks.items() if check.problem} == {
        "half", "empty", "other.stem.mp4.part", "late",
    }  # fmt: skip
    said = musdb.summary(list(checks.values()))
    assert "2 tracks" in said and said.count("skipped: ") == 4 and "skipped: half: " in said


def test_broken_wav_folders(corpus: Path) -> None:
    first, second, third = sorted(corpus.glob("t*/*"))
    (first / "drums.wav").unlink()
    data = (second / "bass.wav").read_bytes()
    (second / "bass.wav").write_bytes(data[: len(data) // 2])
    samples, _ = soundfile.read(third / "vocals.wav")
    rewrite(third / "vocals.wav", samples[: len(samples) - musdb.SLACK_SAMPLES - 1])
    problems = {name: check.problem for name, check in found(corpus).items()}
    assert "drums.wav is missing" in str(problems[first.name])
    assert "bass.wav is truncated" in str(problems[second.name])
    assert "the vocals ends before the" in str(problems[third.name])


def test_streams_of_different_kinds(corpus: Path) -> None:
    first, second, third = sorted(corpus.glob("t*/*"))
    samples, _ = soundfile.read(first / "vocals.wav")
    soundfile.write(first / "vocals.wav", samples, 48_000)
    rewrite(second / "vocals.wav", np.zeros((RATE, 1)))
    samples[100] = np.nan
    soundfile.write(third / "other.wav", samples, RATE, subtype="FLOAT")
    problems = {name: str(check.problem) for name, check in found(corpus).items()}
    assert "differ in sample rate" in problems[first.name] and "channels" in problems[second.name]
    assert "NaN" in problems[third.name]


def test_levels(corpus: Path) -> None:
    first, second, third = sorted(corpus.glob("t*/*"))
    silence = np.zeros((RATE, 2))
    for name in STREAMS:
        rewrite(first / f"{name}.wav", silence)
    vocals, _ = soundfile.read(second / "vocals.wav")
    mixture, _ = soundfile.read(second / "mixture.wav")
    rewrite(second / "vocals.wav", silence)
    for name in STREAMS[1:]:  # stems of another song
        other, _ = soundfile.read(second / f"{name}.wav")
        rewrite(third / f"{name}.wav", np.roll(other, 7777, axis=0) * 2)
    checks = found(corpus)
    assert "silent from beginning to end" in str(checks[first.name].problem)
    assert checks[second.name].problem is None and checks[second.name].silent == ("vocals",)
    missing = 10 * np.log10((mixture**2).sum() / (vocals**2).sum())
    assert checks[second.name].agreement == pytest.approx(missing, abs=0.01)
    assert missing < musdb.GOOD_AGREEMENT and len(checks[second.name].notes) == 2
    assert "do not add up to its mixture" in str(checks[third.name].problem)


def test_validation_tracks() -> None:
    listed = original.DB(root="nowhere").setup["validation_tracks"]
    assert musdb.validation_names([*listed[:3], "A - B"]) == sorted(listed)
    assert musdb.validation_names([f"Song {number:02d}" for number in range(15)]) == ["Song 00", "Song 01"]
    assert musdb.validation_names(["Song 2", "Song 1"]) == ["Song 1"]


def test_no_tracks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "holds no tracks: there should be" in capsys.readouterr().err


@pytest.fixture
def server(tmp_path: Path, stem_files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server of the sample; returns the folder of its one file, which musdb finds there."""
    folder = tmp_path / "served"
    folder.mkdir()
    with zipfile.ZipFile(folder / "sample.zip", "w") as archive:
        for path in stem_files.glob("*/*"):
            archive.write(path, path.relative_to(stem_files))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_port}/sample.zip"
        setup = musdb._musdb_setup()
        name = "sample.zip#MUSDB18-7-STEMS.zip"
        monkeypatch.setattr(
            musdb, "_musdb_setup", lambda: {**setup, "sample-url": address.replace("sample.zip", name)}
        )
        yield folder
        running.shutdown()


def test_downloads_the_sample(server: Path, tmp_path: Path) -> None:
    out = tmp_path / "sample"
    assert main(["data", "musdb7s", str(out)]) == 0
    assert len(original.DB(root=str(out))) == 2 and {path.name for path in out.glob("[!.]*")} == {
        "train",
        "test",
    }
    (server / "sample.zip").unlink()
    musdb.fetch_sample(out)  # what is there is not asked for again


@pytest.mark.parametrize("trouble", ["cut off", "not there"])
def test_a_download_that_fails(
    server: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], trouble: str
) -> None:
    data = (server / "sample.zip").read_bytes()
    (server / "sample.zip").unlink()
    if trouble == "cut off":
        (server / "sample.zip").write_bytes(data[: len(data) // 2])
    out = tmp_path / "sample"
    assert main(["data", "musdb7s", str(out)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "MUSDB18-7-STEMS.zip" in said and "by hand" not in said and str(out / "train") in said
    assert [path.name for path in out.iterdir()] == [LOCK_FILE]


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = {"sample-url": "http://127.0.0.1:1/sample.zip"}
    monkeypatch.setattr(musdb, "_musdb_setup", lambda: nobody)
    with pytest.raises(OSError, match=r"ConnectionError.*unzip it into"):
        musdb.fetch_sample(tmp_path)


def test_a_download_leaves_another_that_is_at_work_alone(tmp_path: Path) -> None:
    (tmp_path / ".partial-other").mkdir()
    with lock(tmp_path), pytest.raises(ValueError, match="in use by another run"):
        musdb.fetch_sample(tmp_path)
    assert (tmp_path / ".partial-other").is_dir()
