import os
import shutil
import sys
from pathlib import Path

import musdb as original
import numpy as np
import pytest
import soundfile
from killing import kill_when
from scipy.signal import resample_poly

from svs_unet_plugin import audio
from svs_unet_plugin.cli import main
from svs_unet_plugin.corpora import musdb
from svs_unet_plugin.corpora.musdb import STREAMS
from svs_unet_plugin.corpora.prepare import QUIET, Settings, open_prepared, prepare, segments, trim
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.files import lock

TRACKS = 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tracks to train on, of which the first is for validation, and two to test on."""
    out = tmp_path_factory.mktemp("corpus")
    make_corpus(out, TRACKS, seconds=2.0, seed=0)
    return out


@pytest.fixture(scope="module")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare(corpus, out, jobs=1)
    return out


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_is_in_the_layout_of_musdb18_hq(corpus: Path, prepared: Path) -> None:
    before, after = (original.DB(str(folder), is_wav=True) for folder in (corpus, prepared))
    assert [(track.subset, track.name) for track in before] == [(track.subset, track.name) for track in after]
    for track in (after[0], after[-1]):
        assert track.rate == 8192 and track.stems.shape == (5, 2 * 8192, 2)
    assert set(os.listdir(prepared)) == {
        "train", "test", "records", "prepared.json", "settings.json", ".lock",
    }  # fmt: skip


def test_resamples(corpus: Path, prepared: Path) -> None:
    for stream in STREAMS:
        high, _ = soundfile.read(next(corpus.glob(f"test/*/{stream}.wav")), always_2d=True)
        low, rate = soundfile.read(next(prepared.glob(f"test/*/{stream}.wav")), always_2d=True)
        # scipy's filter is not soxr's: they agree where both pass, below 3.5 kHz, to 40 dB.
        expected = resample_poly(high, 2048, 11025)
        assert rate == 8192 and low.shape == expected[: len(low)].shape == (2 * 8192, 2)
        spectra = [np.fft.rfft(signal * np.hanning(len(low))[:, None], axis=0)[:7000] for signal in
                   (low, expected[: len(low)])]  # fmt: skip
        assert np.linalg.norm(spectra[0] - spectra[1]) < 0.01 * np.linalg.norm(spectra[1])


def test_stems_add_up(prepared: Path) -> None:
    for track in musdb.find_tracks(prepared):
        stems, _ = track.read()
        error = stems["mixture"] - sum(stems[name] for name in STREAMS[1:])
        assert np.abs(error).max() < 1e-5  # resampling is linear, but for the rounding of float32


def test_any_number_of_processes_gives_the_same_bytes(corpus: Path, prepared: Path, tmp_path: Path) -> None:
    assert main(["data", "prepare", str(corpus), str(tmp_path / "out"), "--jobs", "2"]) == 0
    assert files(tmp_path / "out") == files(prepared)


def test_splits(prepared: Path) -> None:
    found = open_prepared(prepared)
    names = [[track.name[-4:] for track in part] for part in (found.train, found.valid, found.test)]
    assert names == [["0003", "0004", "0005", "0006", "0007"], ["0001"], ["0002", "0008"]]
    assert found.settings.sample_rate == 8192 and not found.skipped and not found.notes


def test_keeps_the_split_of_musdb(corpus: Path, tmp_path: Path) -> None:
    source = tmp_path / "MUSDB18"
    shutil.copytree(corpus, source)
    held = musdb.validation_names(["Leaf - Summerghost"])[:2]
    for folder, name in zip(sorted((source / "train").iterdir())[2:], held, strict=False):
        folder.rename(folder.with_name(name))
    found = prepare(source, tmp_path / "out", Settings(segment_seconds=0.7), jobs=1)
    assert [track.name for track in found.valid] == held
    database = original.DB(str(tmp_path / "out"), is_wav=True, subsets="train", split="valid")
    assert [track.name for track in database] == held
    database = original.DB(str(tmp_path / "out"), is_wav=True, subsets="train", split="train")
    assert [track.name for track in database] == [track.name for track in found.train]
    assert len(found.train) == 4 * 3  # three segments of 0.7 s cover 2 s


def test_reads_stem_files(tmp_path: Path, song_path: Path) -> None:
    (tmp_path / "in" / "test").mkdir(parents=True)
    shutil.copyfile(song_path, tmp_path / "in" / "test" / "A - B.stem.mp4")
    found = prepare(tmp_path / "in", tmp_path / "out")
    stems, rate = found.test[0].read()
    expected_stems = original.DB(str(tmp_path / "in"))[0].stems.astype(np.float32)
    for stream, name in enumerate(STREAMS):
        expected = audio.resample(expected_stems[stream].T, 44_100, 8192)
        assert rate == 8192
        # musdb rounds and clips to 16 bits: 2⁻¹⁵, and the song is beyond full scale by 2 %.
        np.testing.assert_allclose(stems[name], expected, atol=0.03)
        assert np.median(np.abs(stems[name] - expected)) < 2**-15


def test_segments_cover_a_song() -> None:
    samples = np.arange(2 * 25).reshape(1, 2, 25)
    pieces = segments(samples, 10)
    assert [piece[0, 0].tolist() for piece in pieces] == [
        list(range(0, 10)), list(range(10, 20)), list(range(15, 25)),
    ]  # fmt: skip
    assert [len(segments(samples, length)) for length in (5, 12, 13, 25, 30)] == [5, 3, 2, 1, 1]


def test_trims_silences_of_the_mixture() -> None:
    samples = np.ones((5, 2, 100))
    samples[1:] = np.arange(100)
    samples[0, :, 20:50] = QUIET / 2
    samples[0, 0, 70:95] = 0  # one channel still sounds
    samples[0, :, 95:] = 0
    trimmed = trim(samples, 10)
    assert trimmed[1, 0].tolist() == [*range(25), *range(45, 100)]
    assert trim(samples, 4)[3, 1].tolist() == [*range(22), *range(48, 97), 98, 99]


def test_trims_only_what_is_to_train_on(corpus: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    shutil.copytree(corpus, source)
    for name in STREAMS:
        for path in source.glob(f"t*/*/{name}.wav"):
            samples, rate = soundfile.read(path)
            samples[: rate // 2] = 0
            soundfile.write(path, samples, rate)
    found = prepare(source, tmp_path / "out", Settings(trim_seconds=0.1), jobs=1)
    for part, least, most in ((found.train, 1.0, 1.7), (found.valid, 2.0, 2.0), (found.test, 2.0, 2.0)):
        for track in part:
            assert least <= track.read()[0]["mixture"].shape[1] / 8192 <= most


def test_names_what_it_skips(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    shutil.copytree(corpus, source)
    broken = next((source / "test").iterdir())
    (broken / "vocals.wav").unlink()
    assert main(["data", "prepare", str(source), str(tmp_path / "out"), "--jobs", "1"]) == 0
    assert f"skipped: test/{broken.name}: " in capsys.readouterr().err
    found = open_prepared(tmp_path / "out")
    assert list(found.skipped) == [f"test/{broken.name}"] and len(found.test) == 1
    shutil.copyfile(next(corpus.glob("test/*/vocals.wav")), broken / "vocals.wav")  # of the same length
    prepare(source, tmp_path / "out", jobs=1)
    assert not open_prepared(tmp_path / "out").skipped


@pytest.mark.parametrize("seconds", [None, 0.7])
def test_nothing_is_left_of_a_track_that_was_damaged_since(
    corpus: Path, tmp_path: Path, seconds: float | None
) -> None:
    source = Path(shutil.copytree(corpus, tmp_path / "in"))
    settings = Settings(segment_seconds=seconds)
    before = prepare(source, tmp_path / "out", settings, jobs=1)
    (damaged,) = source.glob("train/*0003")
    (damaged / "vocals.wav").write_bytes(b"no audio")
    found = prepare(source, tmp_path / "out", settings, jobs=1)
    assert list(found.skipped) == [f"train/{damaged.name}"]
    left = [track.name for track in before.train if not track.name.startswith(damaged.name)]
    assert [track.name for track in found.train] == left != [track.name for track in before.train]


def test_a_piece_that_was_lost_is_made_again(corpus: Path, tmp_path: Path) -> None:
    settings = Settings(segment_seconds=0.7)
    before = prepare(corpus, tmp_path / "out", settings, jobs=1)
    shutil.rmtree(before.train[1].path)
    assert prepare(corpus, tmp_path / "out", settings, jobs=1).train == before.train


@pytest.mark.parametrize("seconds", [None, 0.7])
def test_killed_and_started_again(corpus: Path, tmp_path: Path, seconds: float | None) -> None:
    source = tmp_path / "in"
    shutil.copytree(corpus, source)
    samples, rate = soundfile.read(next(source.glob("train/*7/drums.wav")))
    soundfile.write(next(source.glob("train/*7/drums.wav")), samples * 0, rate)  # something to note
    (source / "train" / "half.stem.mp4").touch()  # something to skip
    prepare(source, tmp_path / "undisturbed", Settings(segment_seconds=seconds), jobs=1)
    out = tmp_path / "out"
    program = ["-m", "svs_unet_plugin.cli", "data", "prepare", str(source), str(out), "--jobs", "2"]
    command = [sys.executable, *program]
    if seconds is not None:
        command += ["--segment", str(seconds)]
    for tracks in range(2):
        assert kill_when(lambda tracks=tracks: len(list(out.glob("t*/*"))) > tracks, command)  # type: ignore[misc]
        for folder in out.glob("t*/*"):  # none is half
            assert {path.name for path in folder.iterdir()} == {f"{name}.wav" for name in STREAMS}
        with pytest.raises(ValueError, match="not finished"):
            open_prepared(out)
    prepare(source, out, Settings(segment_seconds=seconds), jobs=2)
    assert files(out) == files(tmp_path / "undisturbed")


def test_a_track_that_lost_a_file_is_made_again(corpus: Path, prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(prepared, out)
    next(out.glob("train/*/bass.wav")).unlink()
    kept = next(out.glob("test/*/bass.wav"))
    before = kept.stat().st_mtime_ns
    prepare(corpus, out, jobs=1)
    assert files(out) == files(prepared) and kept.stat().st_mtime_ns == before


def test_folders_of_something_else(corpus: Path, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"settings\.segment_seconds was None and is now 1\.0"):
        prepare(corpus, prepared, Settings(segment_seconds=1.0))
    with pytest.raises(ValueError, match="made with different settings"):
        prepare(corpus, corpus)
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "song.wav").touch()
    with pytest.raises(ValueError, match=r"holds song\.wav, which is no part of prepared tracks"):
        prepare(corpus, tmp_path / "songs")
    with pytest.raises(ValueError, match="segment_seconds must be more than 0, got -1"):
        prepare(corpus, tmp_path / "out", Settings(segment_seconds=-1))
    with pytest.raises(ValueError, match="is no folder of prepared tracks"):
        open_prepared(corpus)


def test_the_source_is_recorded(corpus: Path, tmp_path: Path) -> None:
    """Two folders of one name are not taken for each other, and a file that changed is prepared again."""
    one, other = (Path(shutil.copytree(corpus, tmp_path / name / "musdb")) for name in ("one", "other"))
    prepare(one, tmp_path / "out", jobs=1)
    with pytest.raises(ValueError, match=rf"source was '{one}' and is now '{other}'"):
        prepare(other, tmp_path / "out", jobs=1)
    changed, kept = sorted((one / "test").iterdir())
    shutil.copyfile(changed / "drums.wav", changed / "vocals.wav")
    when = (tmp_path / "out" / "test" / kept.name / "vocals.wav").stat().st_mtime_ns
    prepare(one, tmp_path / "out", jobs=1)
    folder = tmp_path / "out" / "test"
    low = {name: (folder / changed.name / f"{name}.wav").read_bytes() for name in ("drums", "vocals")}
    assert low["drums"] == low["vocals"]
    assert (folder / kept.name / "vocals.wav").stat().st_mtime_ns == when


def test_pieces_of_a_song_that_was_longer_are_removed(corpus: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(corpus, tmp_path / "in"))
    prepare(source, tmp_path / "out", Settings(segment_seconds=0.7), jobs=1)
    (song,) = source.glob("train/*0003")
    for path in song.iterdir():
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples[: rate // 2], rate)
    prepare(source, tmp_path / "out", Settings(segment_seconds=0.7), jobs=1)
    assert [path.name[-3:] for path in (tmp_path / "out").glob(f"train/{song.name} *")] == ["001"]


def test_two_runs_do_not_share_a_folder(corpus: Path, tmp_path: Path) -> None:
    with lock(tmp_path / "out"), pytest.raises(ValueError, match="is in use by another run"):
        prepare(corpus, tmp_path / "out", jobs=1)
    assert len(prepare(corpus, tmp_path / "out", jobs=1).train) == 5


def test_a_folder_whose_source_has_changed_is_not_finished(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(corpus, source)
    prepare(source, out, jobs=1)
    os.utime(next(source.glob("train/*/bass.wav")), (0, 0))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("svs_unet_plugin.corpora.prepare._Writer.write", stop)
        prepare(source, out, jobs=1)
    with pytest.raises(ValueError, match="not finished"):
        open_prepared(out)
    assert len(prepare(source, out, jobs=1).test) == 2
    lost = sorted((source / "test").iterdir())[0]
    shutil.rmtree(lost)
    with pytest.raises(ValueError, match=f"no longer has test/{lost.name}"):
        prepare(source, out, jobs=1)
