import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import museval
import numpy as np
import pytest
import simplejson
from scipy.signal import butter, sosfilt

from svs_unet_plugin.corpora.musdb import Track, find_tracks
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.evaluation import runner as scoring
from svs_unet_plugin.evaluation import store as folders
from svs_unet_plugin.evaluation.runner import Song, alarms, read_song, score, score_tracks
from svs_unet_plugin.evaluation.store import System

RATE = 44_100


@dataclass(frozen=True)
class Filtered:
    """A system for tests: what is in the voice's band is the vocals, times a gain."""

    gain: float = 1.0

    def __call__(self, song: Song) -> Mapping[str, np.ndarray]:
        band = butter(2, [200, 4000], "bandpass", fs=song.sample_rate, output="sos")
        vocals = self.gain * sosfilt(band, song.mixture)
        return {"vocals": vocals, "accompaniment": song.mixture - vocals}


def four_stems(song: Song) -> Mapping[str, np.ndarray]:
    """Each true stem with a fifth of the mixture in it."""
    return {name: 0.8 * source + 0.2 * song.mixture for name, source in song.sources.items()}


def untouched(song: Song) -> Mapping[str, np.ndarray]:
    return {"vocals": song.mixture, "accompaniment": song.mixture}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    make_corpus(out, 8, seconds=1.0, seed=0)
    return out


@pytest.fixture(scope="module")
def test_tracks(corpus: Path) -> list[Track]:
    tracks = [track for track in find_tracks(corpus) if track.subset == "test"]
    assert len(tracks) == 2
    return tracks


@pytest.fixture
def song(test_tracks: list[Track]) -> Song:
    return read_song(test_tracks[0])


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("separate", [Filtered(), four_stems])
def test_is_museval_s_own_file(corpus: Path, song: Song, tmp_path: Path, separate: scoring.Separate) -> None:
    import musdb

    estimates = separate(song)
    scoring.score_song(tmp_path, "some", song, estimates)
    track = next(track for track in musdb.DB(str(corpus), is_wav=True) if track.name == song.name)
    museval.eval_mus_track(
        track, {name: value.T for name, value in estimates.items()}, output_dir=str(tmp_path / "museval")
    )
    ours, theirs = (
        simplejson.loads((tmp_path / kind / "test" / f"{song.name}.json").read_text())
        for kind in ("some", "museval")
    )
    assert [target["name"] for target in ours["targets"]] == [target["name"] for target in theirs["targets"]]
    for our, their in zip(ours["targets"], theirs["targets"], strict=True):
        assert len(our["frames"]) == len(their["frames"]) == 1
        for one, other in zip(our["frames"], their["frames"], strict=True):
            # musdb's references went through 16 bits, as the files did: the same numbers, summed as floats.
            assert one["metrics"] == pytest.approx(other["metrics"], abs=1e-3, nan_ok=True)
    if separate is four_stems:  # the vocals' scores are those against the accompaniment
        pair = {name: (song.sources[name], estimates[name]) for name in ("vocals", "accompaniment")}
        expected = scoring.scale_scores(
            {name: sources[0] for name, sources in pair.items()},
            {name: sources[1] for name, sources in pair.items()},
            RATE,
        )
        scale = json.loads(folders.scale_file(tmp_path, "some", song.name).read_text())
        assert set(scale) == set(estimates)
        for name in pair:
            for metric, values in expected[name].items():
                assert scale[name][metric] == pytest.approx(values, abs=1e-5)
    store = museval.EvalStore()
    store.add_eval_dir(tmp_path / "some")
    assert store.agg_frames_tracks_scores()["vocals"]["SDR"] > -5


def test_agrees_with_museval_and_nussl_called_directly(song: Song, tmp_path: Path) -> None:
    from svs_unet_plugin.nussl import nussl

    estimates = Filtered()(song)
    scoring.score_song(tmp_path, "some", song, estimates)
    folders.write_system(tmp_path, System("some", "Some", "classical"))
    scores = folders.read_scores(tmp_path).set_index(["source", "metric"]).score

    names = ["vocals", "accompaniment"]
    references = np.stack([song.sources[name].T for name in names])
    found = museval.evaluate(references, np.stack([estimates[name].T for name in names]), RATE, RATE)
    for metric, values in zip(("SDR", "ISR", "SIR", "SAR"), found, strict=True):
        for name, frames in zip(names, values, strict=True):
            assert scores[name, metric] == pytest.approx(np.nanmedian(frames), abs=1e-4)

    signals = [
        [nussl.AudioSignal(audio_data_array=kind[name], sample_rate=RATE) for name in names]
        for kind in (song.sources, estimates)
    ]
    direct = nussl.evaluation.BSSEvalScale(*signals, source_labels=names).evaluate()
    for name in names:
        for metric in folders.SCALE_METRICS:
            assert scores[name, metric] == pytest.approx(np.mean(direct[name][metric]), abs=1e-3)
    # And with the definition, of one channel.
    reference, estimate = song.sources["vocals"][0], estimates["vocals"][0]
    reference, estimate = reference - reference.mean(), estimate - estimate.mean()
    target = (estimate @ reference) / (reference @ reference) * reference
    expected = 10 * np.log10((target**2).sum() / ((estimate - target) ** 2).sum())
    written = json.loads(folders.scale_file(tmp_path, "some", song.name).read_text())
    assert written["vocals"]["SI-SDR"][0] == pytest.approx(expected, abs=1e-2)


def test_finished_tracks_are_not_done_again(test_tracks: list[Track], tmp_path: Path) -> None:
    one = test_tracks[:1]
    score_tracks(tmp_path, "some", one, Filtered(), made_of="1", jobs=1)
    path = folders.bss_file(tmp_path, "some", one[0].name)
    before, when = path.read_bytes(), path.stat().st_mtime_ns
    score_tracks(tmp_path, "some", test_tracks, Filtered(), made_of="1", jobs=1)
    assert path.stat().st_mtime_ns == when and scoring.is_scored(tmp_path, "some", test_tracks[1].name)
    score_tracks(tmp_path, "some", one, Filtered(gain=0.5), made_of="2", jobs=1)
    assert path.read_bytes() != before and not scoring.is_scored(tmp_path, "some", test_tracks[1].name)


SCRIPT = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
from test_tracks import Filtered, find_tracks, score_tracks
if __name__ == "__main__":
    tracks = find_tracks(sys.argv[2])[:4]
    score_tracks(pathlib.Path(sys.argv[3]), "some", tracks, Filtered(), made_of="x", jobs=2)
"""


def test_killed_and_started_again(corpus: Path, tmp_path: Path) -> None:
    tracks = find_tracks(corpus)[:4]
    score_tracks(tmp_path / "undisturbed", "some", tracks, Filtered(), made_of="x", jobs=1)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    out = tmp_path / "out"
    command = [sys.executable, script, Path(__file__).parent, corpus, out]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not list(out.glob("some/test/*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for path in out.glob("some/*/*.json"):
        json.loads(path.read_text())
    assert not scoring.is_scored(out, "some", tracks[-1].name)
    score_tracks(out, "some", tracks, Filtered(), made_of="x", jobs=1)
    for hidden in out.rglob(".*.part"):  # of the process that was killed
        hidden.unlink()
    assert written(out) == written(tmp_path / "undisturbed")


def test_silence(song: Song) -> None:
    """What is silent has no scores, and the others those that museval gives without it."""
    silent, names = np.zeros_like(song.mixture), ("vocals", "drums", "bass", "other")
    estimates = {name: 0.7 * song.sources[name] + 0.3 * song.mixture for name in names}
    references = {**{name: song.sources[name] for name in names}, "bass": silent}
    store = scoring.museval_scores("A - B", references, {**estimates, "other": silent}, RATE)
    scores = store.df.groupby(["target", "metric"]).score.apply(np.nanmedian).unstack()
    heard = np.stack([references[name].T for name in ("vocals", "drums", "other")])
    found = museval.evaluate(heard, np.stack([estimates[n].T for n in ("vocals", "drums", "other")]))
    for metric, values in zip(("SDR", "ISR", "SIR", "SAR"), found, strict=True):
        for name, frames in zip(("vocals", "drums"), values, strict=False):
            assert scores[metric][name] == pytest.approx(np.nanmedian(frames), abs=1e-4)
        assert np.isnan(scores[metric]["bass"]) and np.isnan(scores[metric]["other"])


def test_a_song_without_vocals(song: Song, tmp_path: Path) -> None:
    references = {"vocals": np.zeros_like(song.mixture), "accompaniment": song.mixture}
    score(tmp_path, "some", "A - B", references, untouched(song), RATE)
    folders.write_system(tmp_path, System("some", "Some", "classical"))
    scores = folders.read_scores(tmp_path).set_index(["source", "metric"]).score
    assert np.isnan(scores["vocals", "SDR"]) and np.isnan(scores["vocals", "SI-SDR"])


def test_a_channel_without_vocals(song: Song) -> None:
    left_only = song.sources["vocals"] * np.array([[1], [0]], np.float32)
    references = {"vocals": left_only, "accompaniment": song.mixture}
    scores = scoring.scale_scores(references, untouched(song), RATE)
    both = scoring.scale_scores({**references, "vocals": song.sources["vocals"]}, untouched(song), RATE)
    assert np.isnan(scores["vocals"]["SI-SIR"]).all() and np.isnan(scores["vocals"]["SI-SDR"][1])
    assert scores["vocals"]["SI-SDR"][0] == pytest.approx(both["vocals"]["SI-SDR"][0], abs=1e-9)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda vocals: vocals[:, :-1], r"should be \(channels, samples\)"),
        (lambda vocals: vocals[:1], r"got \(1, "),
        (lambda vocals: vocals * np.nan, "NaN or infinite"),
        (lambda vocals: vocals.mean(axis=0, keepdims=True).repeat(2, axis=0), "one channel copied into 2"),
    ],
)
def test_bad_estimates(song: Song, tmp_path: Path, change: object, message: str) -> None:
    estimates = {"vocals": change(song.sources["vocals"]), "accompaniment": song.mixture}  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        scoring.score_song(tmp_path, "some", song, estimates)
    with pytest.raises(ValueError, match="two sources at least"):
        scoring.score_song(tmp_path, "some", song, {"vocals": song.mixture})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "separate, expected",
    [
        (four_stems, []),
        (untouched, ["some does nothing, or next to it"]),
        (lambda song: {name: stem / 2 for name, stem in untouched(song).items()}, ["does nothing"]),
        (lambda song: {name: stem / 4 for name, stem in four_stems(song).items()}, ["wrong level"]),
    ],
)
def test_alarms(song: Song, tmp_path: Path, separate: scoring.Separate, expected: list[str]) -> None:
    folders.write_system(tmp_path, System("some", "Some", "trained"))
    estimates = separate(song)
    scoring.score_song(
        tmp_path, "some", song, {name: estimates[name] for name in ("vocals", "accompaniment")}
    )
    found = alarms(tmp_path, "some")
    assert len(found) == len(expected), found
    for said, words in zip(found, expected, strict=True):
        assert words in said
