"""synthetic songs: they must sound enough like pop to learn from, and the corpus must be what MUSDB18 is."""

import shutil
from pathlib import Path

import musdb
import numpy as np
import pytest
import soundfile
import stempeg
from scipy.signal import istft, resample_poly, stft

from svs_unet_plugin.corpora.musdb import STREAMS, validation_names
from svs_unet_plugin.corpora.synthetic import corpus as synthetic
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.corpora.synthetic.song import make_song

RATE = 44100
SECONDS = 2.0
"""Of a corpus: long enough for a phrase, short enough to make many."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracks, one of each subset."""
    out = tmp_path_factory.mktemp("corpus")
    make_corpus(out, tracks=2, seconds=SECONDS, seed=3)
    return out


@pytest.fixture(scope="module")
def songs() -> list[dict[str, np.ndarray]]:
    """Twelve songs of 12 s, two to four phrases each: enough for shares of time and mean levels."""
    return [make_song(seed, 12.0) for seed in range(12)]


def files(folder: Path) -> dict[str, bytes]:
    """Every file's name and bytes, but for the README, which counts the tracks."""
    found = (
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("README.txt", "settings.json", "setup.yaml", ".lock")
    )
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    return float(10.0 * np.log10(np.sum(reference**2) / np.sum((reference - estimate) ** 2)))


def band(song: dict[str, np.ndarray]) -> np.ndarray:
    return song["drums"] + song["bass"] + song["other"]


def frame_levels(signal: np.ndarray) -> np.ndarray:
    """RMS of each 50 ms of the mono signal, relative to the loudest, in dB."""
    size = RATE // 20
    mono = signal.mean(axis=0)
    frames = mono[: len(mono) // size * size].reshape(-1, size)
    levels = np.sqrt(np.mean(frames**2, axis=1))
    return 20.0 * np.log10(levels / levels.max() + 1e-6)


def fundamentals(vocals: np.ndarray) -> np.ndarray:
    """Frequencies in Hz of the clearly voiced frames, by the first high peak of the autocorrelation."""
    mono = resample_poly(vocals.mean(axis=0), 80, 441)  # to 8000 Hz
    size = 512  # 64 ms: seven periods of the lowest note
    frames = np.lib.stride_tricks.sliding_window_view(mono, size)[::size] * np.hanning(size)
    lags = np.fft.irfft(np.abs(np.fft.rfft(frames, 2 * size)) ** 2)[:, :91]  # 88 Hz and up, all that is sung
    loud = lags[:, 0] > 0.25 * lags[:, 0].mean()  # not the room's tail
    lags = lags[loud] / lags[loud, :1]
    inner = lags[:, 1:-1]
    peaks = (inner > lags[:, :-2]) & (inner >= lags[:, 2:]) & (inner > 0.6)
    # Of a period and its multiples the first counts; a formant's own peaks, before it, are lower.
    peaks &= inner > 0.9 * np.where(peaks, inner, 0.0).max(axis=1, keepdims=True)
    return 8000.0 / (peaks[peaks.any(axis=1)].argmax(axis=1) + 1)


def test_same_seed_same_bytes_however_many_tracks(corpus: Path, tmp_path: Path) -> None:
    make_corpus(tmp_path, tracks=3, seconds=SECONDS, seed=3)
    again = files(tmp_path)
    assert {name: again[name] for name in files(corpus)} == files(corpus)
    assert len(again) == 15  # three tracks of five files: nothing else is left behind
    assert len(set(again.values())) == 15  # no track repeats another


def test_another_seed_is_another_song() -> None:
    assert not np.array_equal(make_song(1, 1.0)["vocals"], make_song(2, 1.0)["vocals"])


def test_songs_stay_as_they_are() -> None:
    """A seed gives the same song as ever, or SYNTHESIS_VERSION is raised; to 0.1 dB, as machines differ."""
    levels = {name: 10.0 * np.log10(np.mean(stem**2)) for name, stem in make_song(0, 3.0, 8000).items()}
    assert levels == pytest.approx(
        {"vocals": -20.18, "drums": -20.12, "bass": -20.42, "other": -26.36}, abs=0.1
    )


def test_processes_give_the_same_bytes(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "SECONDS_A_WORKER", 1.0)  # so that 4 s of music are worth two processes
    monkeypatch.setattr(synthetic, "cpus", lambda: 2)
    make_corpus(tmp_path, tracks=2, seconds=SECONDS, seed=3)
    assert files(tmp_path) == files(corpus)


def test_musdb_reads_the_corpus(corpus: Path) -> None:
    tracks = musdb.DB(str(corpus), is_wav=True)
    assert [track.subset for track in tracks] == ["train", "test"]
    for track in tracks:
        assert track.name.startswith("Synthetic")
        assert track.rate == RATE
        streams = track.stems
        assert streams.shape == (5, SECONDS * RATE, 2)
        # musdb reads 16 bits; the mixture was added from the rounded stems, so that not one bit is off.
        assert np.abs(streams[0] - streams[1:].sum(axis=0)).max() < 0.5 / 32768


@pytest.mark.parametrize("stems", [False, True])
def test_some_tracks_are_for_validation(tmp_path: Path, stems: bool) -> None:
    """The same ones for musdb, for nussl's dataset, and for the recipes, which prepare the corpus."""
    if stems and shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    make_corpus(tmp_path, tracks=3, seconds=1.0, seed=0, stems=stems, sample_rate=44100)
    split = {"is_wav": not stems, "subsets": ["train"]}
    database = [
        musdb.DB(str(tmp_path), setup_file="setup.yaml", split=name, **split) for name in ("train", "valid")
    ]
    assert [[track.name for track in tracks] for tracks in database] == [
        ["Synthetic Band - Song 0003"],
        ["Synthetic Band - Song 0001"],
    ]
    assert len(database[1][0].targets["accompaniment"].audio) >= 44100
    nussl = pytest.importorskip("svs_unet_plugin.nussl").nussl
    for name, tracks in zip(("train", "valid"), database, strict=True):
        data = nussl.datasets.MUSDB18(str(tmp_path), split=name, download=True, **split)  # it is there
        assert [data[0]["mix"].file_name] == [f"{tracks[0].name}"]
        assert sorted(data[0]["sources"]) == ["bass", "drums", "other", "vocals"]
    names = [track.name for track in musdb.DB(str(tmp_path), **split)]
    assert validation_names(names) == [database[1][0].name]


def test_one_track_in_six_is_for_testing(tmp_path: Path) -> None:
    paths = make_corpus(tmp_path, tracks=12, seconds=1.0, seed=0, sample_rate=8000)
    assert [number for number, path in enumerate(paths, 1) if path.parent.name == "test"] == [2, 8]
    assert all((path / f"{name}.wav").is_file() for path in paths for name in STREAMS)


def test_wav_files_are_like_musdb18_hq(corpus: Path) -> None:
    for path in corpus.rglob("*.wav"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 2, "PCM_16")


def test_readme_says_that_the_songs_are_made_up(corpus: Path) -> None:
    text = (corpus / "README.txt").read_text()
    assert "synthetic" in text
    assert "--tracks 2 --seconds 2.0 --seed 3" in text


def test_levels_are_those_of_pop(songs: list[dict[str, np.ndarray]]) -> None:
    mixture = [sdr(song["vocals"], song["vocals"] + band(song)) for song in songs]
    # Drawn within 3 dB of -3.5 dB; the panned room correlates the two by a little, hence 0.5 dB of slack.
    assert -7.0 < min(mixture) and max(mixture) < 0.0
    # Four standard errors of twelve draws with a deviation of 1.5 dB.
    assert np.mean(mixture) == pytest.approx(-3.5, abs=1.7)
    for song in songs:
        assert all(stem.shape == (2, 12 * RATE) and stem.dtype == np.float32 for stem in song.values())
        assert 0.6 < np.abs(song["vocals"] + band(song)).max() < 0.96  # loud, but no clipping
        assert all(np.abs(stem).max() < 0.96 for stem in song.values())


def test_an_ideal_mask_separates_as_well_as_in_pop(songs: list[dict[str, np.ndarray]]) -> None:
    """Far below, no network could learn it; far above, the voice would not overlap with the band at all."""
    scores = []
    for song in songs:
        voice, rest = (resample_poly(part.mean(axis=0), 2048, 11025) for part in (song["vocals"], band(song)))
        # Periodic Hann of 1024 at hop 768, as in the paper.
        _, _, v = stft(voice, nperseg=1024, noverlap=256)
        _, _, a = stft(rest, nperseg=1024, noverlap=256)
        mask = np.abs(v) / (np.abs(v) + np.abs(a) + 1e-12)
        estimate = istft(mask * (v + a), nperseg=1024, noverlap=256)[1][: len(voice)]
        scores.append(sdr(voice, estimate))
    # Songs of 20 s: 15.6 dB with a deviation of 2.6 from song to song (13.7 dB by museval's medians). The
    # mean of twelve may be four standard errors off, one song three deviations.
    assert 12.6 < np.mean(scores) < 18.6
    assert min(scores) > 7.8


def test_the_voice_rests_between_phrases(songs: list[dict[str, np.ndarray]]) -> None:
    shares = []
    for song in songs:
        sounding = frame_levels(song["vocals"]) > -30.0
        shares.append(sounding.mean())
        # A rest of a beat and more, at the fastest tempo 0.43 s: eight frames in a row.
        assert np.convolve(~sounding, np.ones(8), "valid").max() == 8
    assert 0.55 < np.mean(shares) < 0.75  # the share of singing in a pop song's verse and chorus


def test_the_voice_sings_a_melody(songs: list[dict[str, np.ndarray]]) -> None:
    for song in songs:
        frequencies = fundamentals(song["vocals"])
        assert len(frequencies) > 30  # two seconds of clear vowels in twelve seconds
        # Folded into one octave, because an autocorrelation may take a note for its octave.
        classes = np.round(12.0 * np.log2(frequencies / 440.0)).astype(int) % 12
        shares = np.bincount(classes, minlength=12) / len(classes)
        # One note with vibrato and scoops stays within a semitone: 0.98 and more. Songs: 0.39 to 0.82.
        assert (np.roll(shares, 1) + shares + np.roll(shares, -1)).max() < 0.9


def test_the_band_plays_where_the_voice_sings(songs: list[dict[str, np.ndarray]]) -> None:
    """Otherwise a filter would do."""
    for song in songs:
        power = np.abs(np.fft.rfft(song["other"].mean(axis=0))) ** 2
        hertz = np.fft.rfftfreq(12 * RATE, 1 / RATE)
        sung = power[(hertz > 110.0) & (hertz < 1300.0)].sum()  # the voice's first two partials
        assert sung > 0.5 * power.sum()


def test_stem_files_hold_five_aligned_streams(corpus: Path, tmp_path: Path) -> None:
    make_corpus(tmp_path / "a", tracks=2, seconds=SECONDS, seed=3, stems=True)
    make_corpus(tmp_path / "b", tracks=2, seconds=SECONDS, seed=3, stems=True)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(files(tmp_path / "a")) == 2  # and no WAV files
    tracks = musdb.DB(str(tmp_path / "a"))
    assert [track.subset for track in tracks] == ["train", "test"]
    for track in tracks:
        streams, rate = stempeg.read_stems(track.path)
        assert rate == RATE
        assert streams.shape[0] == 5 and streams.shape[2] == 2
        length = int(SECONDS * RATE)
        assert length <= streams.shape[1] < length + 1024  # AAC fills its last frame of 1024 samples
        for name, stream in zip(STREAMS, streams, strict=True):
            wav, _ = soundfile.read(corpus / track.subset / track.name / f"{name}.wav")
            # 256 kbit/s keep the waveform to about 20 dB; a stream out of order or place would be near 0 dB.
            assert sdr(wav, stream[:length]) > 12.0


def test_stopped_run_is_finished_by_the_next(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = soundfile.write, []

    def stopped(*args: object, **kwargs: object) -> None:
        calls.append(args)
        if len(calls) == 8:  # the third file of the second track
            raise KeyboardInterrupt
        write(*args, **kwargs)

    monkeypatch.setattr(synthetic.soundfile, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        make_corpus(tmp_path, tracks=2, seconds=SECONDS, seed=3)
    first, second = (next((corpus / subset).iterdir()).name for subset in ("train", "test"))
    assert (tmp_path / "train" / first).is_dir()
    assert not (tmp_path / "test" / second).exists()  # the half-written track has no final name
    assert len(musdb.DB(str(tmp_path), is_wav=True)) == 1  # nor does musdb find it

    monkeypatch.undo()
    made = (tmp_path / "train" / first / "mixture.wav").stat().st_mtime_ns
    make_corpus(tmp_path, tracks=2, seconds=SECONDS, seed=3)
    assert files(tmp_path) == files(corpus)
    assert (tmp_path / "train" / first / "mixture.wav").stat().st_mtime_ns == made  # whole tracks are kept


def test_damaged_track_is_made_again(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(corpus, out)
    next(out.glob("test/*/drums.wav")).unlink()
    shutil.rmtree(next(out.glob("train/*")))
    make_corpus(out, tracks=2, seconds=SECONDS, seed=3)
    assert files(out) == files(corpus)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tracks": 0}, "number of tracks must be 1 or more, got 0"),
        ({"seconds": 0.5}, "1 second or more, not 0.5"),
        ({"seconds": float("nan")}, "1 second or more, not nan"),
        ({"seconds": float("inf")}, "1 second or more, not inf"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
        ({"sample_rate": 4000}, "8000 Hz or more, not 4000"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_corpus(tmp_path / "out", **{"tracks": 1, "seconds": 1.0, "seed": 0, **arguments})
    assert not (tmp_path / "out").exists()


def test_folder_of_something_else_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"seed was 3 and is now 4"):
        make_corpus(corpus, tracks=2, seconds=SECONDS, seed=4)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="holds train, which is no part of synthetic songs"):
        make_corpus(tmp_path, tracks=2, seconds=SECONDS, seed=3)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_stem_files_without_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="ffmpeg"):
        make_corpus(tmp_path / "out", tracks=1, seconds=1.0, seed=0, stems=True)
