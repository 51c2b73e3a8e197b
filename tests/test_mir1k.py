import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile

from svs_unet_plugin import audio
from svs_unet_plugin.cli import main
from svs_unet_plugin.corpora import mir1k
from svs_unet_plugin.files import lock

CLIPS = ("abjones_1_01.flac", "amy_3_02.wav", "stool_2_10.wav")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, name in enumerate(CLIPS):
        samples = np.random.default_rng(number).integers(-9000, 9000, (8000, 2)).astype(np.int16)
        soundfile.write(folder / name, samples, 16_000)
    return folder


def test_sorts_clips_for_nussl(clips: Path, tmp_path: Path) -> None:
    from svs_unet_plugin.nussl import nussl

    (clips / "._abjones_1_01.wav").write_bytes(b"as macOS leaves them beside each file")
    assert main(["data", "mir1k", str(clips), str(tmp_path / "out")]) == 0
    train = nussl.datasets.MixSourceFolder(str(tmp_path / "out" / "train"))
    assert train.items == ["abjones_1_01.wav", "amy_3_02.wav"]
    samples, _ = soundfile.read(clips / CLIPS[0])
    item = train[0]
    assert item["mix"].sample_rate == 16_000
    np.testing.assert_allclose(item["mix"].audio_data[0], samples.mean(axis=1), atol=1e-7)
    np.testing.assert_allclose(item["sources"]["accompaniment"].audio_data[0], samples[:, 0] / 2, atol=1e-7)
    np.testing.assert_allclose(item["sources"]["vocals"].audio_data[0], samples[:, 1] / 2, atol=1e-7)
    assert [path.name for path in (tmp_path / "out" / "test" / "mix").iterdir()] == ["stool_2_10.wav"]


def test_goes_on_where_it_was_stopped(clips: Path, tmp_path: Path) -> None:
    mir1k.prepare(clips, tmp_path / "out")
    kept, lost = (tmp_path / "out" / "train" / "mix" / f"{name}.wav" for name in ("abjones_1_01", "amy_3_02"))
    before, whole = kept.stat().st_mtime_ns, audio.read(lost)[0]
    lost.unlink()
    mir1k.prepare(clips, tmp_path / "out")
    assert kept.stat().st_mtime_ns == before
    np.testing.assert_array_equal(audio.read(lost)[0], whole)


def test_bad_folders(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no clips of MIR-1K"):
        mir1k.prepare(tmp_path, tmp_path / "out")
    mir1k.prepare(clips, tmp_path / "out")
    soundfile.write(clips / "abjones_1_02.wav", np.zeros(10), 16_000)
    with pytest.raises(ValueError, match=r"holds clips of MIR-1K made with different settings: clips was"):
        mir1k.prepare(clips, tmp_path / "out")
    with pytest.raises(ValueError, match=r"abjones_1_02\.wav has 1 channels"):
        mir1k.prepare(clips, tmp_path / "other")


def test_pitch_and_tempo_change_apart(clips: Path, tmp_path: Path) -> None:
    seconds = np.arange(3 * 16_000) / 16_000
    tones = 0.3 * np.sin(2 * np.pi * np.outer(seconds, (300, 400)))
    soundfile.write(clips / CLIPS[1], tones, 16_000)
    mir1k.prepare(clips, tmp_path / "data")
    out = tmp_path / "stretched"
    mixes = [tmp_path / "data" / "train" / "mix" / "amy_3_02.wav"]
    mir1k.stretch(mixes, out, versions=3, seed=1)

    moves = np.random.default_rng(1).uniform((-4, -0.45), (4, 0.45), (3, 2))
    assert np.ptp(moves[:, 0]) > 1 and np.ptp(moves[:, 1]) > 0.1
    paths = sorted((out / "mix").iterdir())
    assert [path.name for path in paths] == [f"amy_3_02_{version}.wav" for version in range(3)]
    for path, (semitones, octaves) in zip(paths, moves, strict=True):
        mix, vocals, accompaniment = (
            audio.read(out / name / path.name)[0][0] for name in ("mix", "vocals", "accompaniment")
        )
        assert len(mix) == pytest.approx(len(tones) / 2**octaves, rel=0.02)
        np.testing.assert_allclose(mix, vocals + accompaniment, atol=1e-6)
        for signal, frequency in ((vocals, 400), (accompaniment, 300)):
            peak = np.abs(np.fft.rfft(signal * np.hanning(len(signal)))).argmax() * 16_000 / len(signal)
            assert peak == pytest.approx(frequency * 2 ** (semitones / 12), rel=0.01)

    before = paths[0].read_bytes()
    paths[0].unlink()
    kept = paths[1].stat().st_mtime_ns
    mir1k.stretch(mixes, out, versions=3, seed=1)
    assert paths[0].read_bytes() == before and paths[1].stat().st_mtime_ns == kept


def test_stretched_clips_with_different_settings(clips: Path, tmp_path: Path) -> None:
    mir1k.prepare(clips, tmp_path / "data")
    mixes = sorted((tmp_path / "data" / "train" / "mix").iterdir())
    mir1k.stretch(mixes, tmp_path / "out", versions=1)
    with pytest.raises(ValueError, match="versions was 1 and is now 2"):
        mir1k.stretch(mixes, tmp_path / "out", versions=2)


def test_two_downloads_into_one_folder(tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(ValueError, match="in use by another run"):
        mir1k.fetch(tmp_path, "http://127.0.0.1:1/MIR-1K.zip")


def test_says_which_ffmpeg_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "ffmpeg"
    other.write_text("#!/bin/sh\necho ' ..C atempo            A->A       Adjust audio tempo.'")
    other.chmod(0o755)
    for path in (tmp_path, tmp_path / "nothing"):
        monkeypatch.setenv("PATH", str(path))
        with pytest.raises(ValueError, match="`ffmpeg -filters` names rubberband"):
            mir1k.stretch([], tmp_path / "out", versions=1)


@pytest.fixture
def server(clips: Path, tmp_path: Path) -> Iterator[str]:
    """A server of an archive like the original."""
    folder = tmp_path / "served"
    folder.mkdir()
    with zipfile.ZipFile(folder / "MIR-1K.zip", "w") as archive:
        for path in clips.iterdir():
            archive.write(path, f"MIR-1K/Wavfile/{path.name}")
        archive.writestr("MIR-1K/readme.txt", "not needed")
    (folder / "half.zip").write_bytes((folder / "MIR-1K.zip").read_bytes()[:5000])
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_download(server: str, tmp_path: Path) -> None:
    for _ in range(2):
        folder = mir1k.fetch(tmp_path / "data", f"{server}/MIR-1K.zip")
        assert sorted(path.name for path in folder.iterdir()) == sorted(CLIPS)
    mir1k.prepare(folder, tmp_path / "out")
    # It is not asked for again.
    assert mir1k.fetch(tmp_path / "data", "http://127.0.0.1:1/MIR-1K.zip") == folder


@pytest.mark.parametrize("name", ["missing.zip", "half.zip"])
def test_download_that_fails(server: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"could not be had from .* with --source"):
        mir1k.fetch(tmp_path / "data", f"{server}/{name}")
    assert len(list(mir1k.fetch(tmp_path / "data", f"{server}/MIR-1K.zip").iterdir())) == len(CLIPS)


def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"ConnectionError.*where there is a network"):
        mir1k.fetch(tmp_path / "data", "http://127.0.0.1:1/MIR-1K.zip")
