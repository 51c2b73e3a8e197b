import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import museval
import numpy as np
import pytest
import simplejson
from killing import kill_when
from systems import Filtered, Heavy

from svs_unet_plugin.corpora.musdb import Track, find_tracks
from svs_unet_plugin.corpora.prepare import prepare
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.evaluation import costs, runner, store
from svs_unet_plugin.evaluation.costs import measure, peak_memory
from svs_unet_plugin.evaluation.experiment import evaluate
from svs_unet_plugin.evaluation.metrics import SCALE_METRICS, museval_scores, scale_scores
from svs_unet_plugin.evaluation.report import write_report
from svs_unet_plugin.evaluation.report.tables import best_of_each_kind, system_table
from svs_unet_plugin.evaluation.runner import (
    Entry,
    Song,
    Weights,
    alarms,
    liveliest_second,
    network_entry,
    read_song,
    run,
    score,
)
from svs_unet_plugin.evaluation.store import System
from svs_unet_plugin.training.configuration import RecipeParser, keep, scoring_parser

RATE = 44_100


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
def test_is_museval_s_own_file(corpus: Path, song: Song, tmp_path: Path, separate: runner.Separate) -> None:
    import musdb

    estimates = separate(song)
    score(tmp_path, "some", song, estimates)
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
        expected = scale_scores(
            {name: sources[0] for name, sources in pair.items()},
            {name: sources[1] for name, sources in pair.items()},
        )
        scale = json.loads(store.scale_file(tmp_path, "some", song.name).read_text())
        assert set(scale) == set(estimates)
        for name in pair:
            for metric, values in expected[name].items():
                assert scale[name][metric] == pytest.approx(values, abs=1e-5)
    eval_store = museval.EvalStore()
    eval_store.add_eval_dir(tmp_path / "some")
    assert eval_store.agg_frames_tracks_scores()["vocals"]["SDR"] > -5


def test_agrees_with_museval_and_nussl_called_directly(song: Song, tmp_path: Path) -> None:
    from svs_unet_plugin.nussl import nussl

    estimates = Filtered()(song)
    score(tmp_path, "some", song, estimates)
    store.write_system(tmp_path, System("some", "Some", "classical"))
    scores = store.read_scores(tmp_path).set_index(["source", "metric"]).score

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
        for metric in SCALE_METRICS:
            assert scores[name, metric] == pytest.approx(np.mean(direct[name][metric]), abs=1e-3)
    # And with the definition, of one channel.
    reference, estimate = song.sources["vocals"][0], estimates["vocals"][0]
    reference, estimate = reference - reference.mean(), estimate - estimate.mean()
    target = (estimate @ reference) / (reference @ reference) * reference
    expected = 10 * np.log10((target**2).sum() / ((estimate - target) ** 2).sum())
    written = json.loads(store.scale_file(tmp_path, "some", song.name).read_text())
    assert written["vocals"]["SI-SDR"][0] == pytest.approx(expected, abs=1e-2)


def files(results: Path, tracks: list[Track], id: str = "some") -> list[Path]:
    return [store.bss_file(results, id, track.name) for track in tracks]


def test_finished_tracks_are_not_done_again(test_tracks: list[Track], tmp_path: Path) -> None:
    run(tmp_path, [Filtered().entry()], test_tracks[:1], 1)
    one, other = files(tmp_path, test_tracks)
    when = one.stat().st_mtime_ns
    run(tmp_path, [Filtered().entry()], test_tracks, 1)
    assert one.stat().st_mtime_ns == when and other.is_file()


def test_what_was_scored_earlier_does_not_count(test_tracks: list[Track], tmp_path: Path) -> None:
    """Of other tracks and systems: a report, medians and alarms are of those that are asked for."""
    run(tmp_path, [Filtered().entry(), Filtered(gain=0.1).entry("other")], test_tracks, 1, listened=2)
    run(tmp_path, [Filtered().entry()], test_tracks[:1], 1, listened=1)
    names = [test_tracks[0].name]
    assert "medians over 2 tracks" in system_table(tmp_path, "some")
    table = system_table(tmp_path, "some", names)
    assert "medians over 1 tracks" in table
    (system,) = store.read_systems(tmp_path, ["some"])
    scores = store.read_scores(tmp_path, [system], names)
    assert set(scores.track) == set(names)
    snr = scores.set_index(["source", "metric"]).score["vocals", "SNR"]
    assert f" {snr:.2f} |" in next(line for line in table.splitlines() if line.startswith("| vocals"))
    assert alarms(tmp_path, "some", names[:0]) != alarms(tmp_path, "some", names)

    report = write_report(tmp_path, tmp_path / "report", "Some", ids=["some"], tracks=names)
    rows = report.csv.read_text()
    assert names[0] in rows and test_tracks[1].name not in rows and "other," not in rows
    assert "Medians over 1 tracks" in report.markdown.read_text()
    assert test_tracks[1].name not in report.page.read_text()


def test_an_evaluation_is_of_the_tracks_that_it_is_asked_for(
    corpus: Path, tmp_path: Path, checkpoint_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an alarm for a network of random numbers."""
    prepared, experiment = tmp_path / "prepared", tmp_path / "experiment"
    prepare(corpus, prepared, jobs=1)
    parser = RecipeParser("Test")
    keep(parser.configuration(parser.parse_args(["--channels", "4"])), experiment, prepared)
    shutil.copyfile(checkpoint_path, experiment / "best_model.pth")
    given = ["--exp_dir", experiment, "--data_dir", prepared, "--source", corpus, "--jobs", 1]
    for number, more in ((2, []), (1, ["--tracks", 1])):
        options = scoring_parser("Test").parse_args([*map(str, [*given, *more])])
        scores = evaluate(options, "net")
        said = capsys.readouterr().out
        assert f"U-Net, medians over {number} tracks" in said and "\nALARM: net " in said
        assert scores.track.nunique() == number and {"vocals", "accompaniment"} == set(scores.source)


@pytest.mark.parametrize("number", ["0", "-1"])
def test_a_number_of_tracks_that_is_none(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--exp_dir", "a", "--data_dir", "b", "--source", "c", "--tracks", number]
    with pytest.raises(SystemExit, match="2"):
        scoring_parser("Test").parse_args(given)
    assert 'Parser key "tracks"' in capsys.readouterr().err


def test_files_of_somebody_else_are_not_deleted(test_tracks: list[Track], tmp_path: Path) -> None:
    entry = Filtered().entry()
    (tmp_path / entry.system.id).mkdir()
    (tmp_path / entry.system.id / "best.pth").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"holds best\.pth, which is no part of results"):
        run(tmp_path, [entry], test_tracks[:1], 1)
    assert (tmp_path / entry.system.id / "best.pth").read_bytes() == b"weights"
    with pytest.raises(ValueError, match="each system needs an id of its own"):
        run(tmp_path, [entry, entry], test_tracks[:1], 1)


def test_what_decides_the_scores_is_recorded(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores are computed anew when the system, the metrics, or the track's files are different."""
    songs = Path(shutil.copytree(corpus, tmp_path / "songs"))
    tracks = [track for track in find_tracks(songs) if track.subset == "test"]
    one, other = files(tmp_path, tracks)
    run(tmp_path, [Filtered().entry()], tracks, 1)
    before, when = one.read_bytes(), other.stat().st_mtime_ns

    run(tmp_path, [Filtered(gain=0.5).entry()], tracks[:1], 1)
    assert one.read_bytes() != before and not other.exists()
    assert "some is scored anew: identity was 'Filtered(gain=1.0)'" in capsys.readouterr().err
    run(tmp_path, [Filtered().entry()], tracks, 1)
    assert one.read_bytes() == before

    capsys.readouterr()
    when = other.stat().st_mtime_ns
    (path,) = tracks[0].path.glob("vocals.wav")
    shutil.copyfile(tracks[0].path / "drums.wav", path)
    run(tmp_path, [Filtered().entry()], tracks, 1)
    assert f"scored anew on {tracks[0].name}, whose files have changed" in capsys.readouterr().err
    assert one.read_bytes() != before and other.stat().st_mtime_ns == when

    monkeypatch.setattr(runner, "SCORING_VERSION", -1)
    run(tmp_path, [Filtered().entry()], tracks, 1)
    assert "scoring was 2 and is now -1" in capsys.readouterr().err
    assert other.stat().st_mtime_ns != when

    when = other.stat().st_mtime_ns
    versions = runner.version
    monkeypatch.setattr(runner, "version", lambda name: "0" if name == "svs_unet_plugin" else versions(name))
    run(tmp_path, [Filtered().entry()], tracks, 1)
    assert "svs_unet_plugin_version was " in capsys.readouterr().err
    assert other.stat().st_mtime_ns != when


@pytest.mark.parametrize(
    "entry", [Filtered(gain=0.5).entry(), Filtered().entry("other")], ids=["changed", "new"]
)
def test_reference_excerpts_follow_the_files(corpus: Path, tmp_path: Path, entry: Entry) -> None:
    """Also where nothing of the system that is run is kept."""
    songs = Path(shutil.copytree(corpus, tmp_path / "songs"))
    (track,) = [track for track in find_tracks(songs) if track.subset == "test"][:1]
    out = tmp_path / "out"
    run(out, [Filtered().entry()], [track], 1, listened=1)
    path = store.audio_files(out, store.REFERENCE, track.name)["vocals"]
    before, when = path.read_bytes(), path.stat().st_mtime_ns
    run(out, [Filtered().entry()], [track], 1, listened=1)
    assert path.stat().st_mtime_ns == when
    shutil.copyfile(track.path / "drums.wav", track.path / "vocals.wav")
    run(out, [entry], [track], 1, listened=1)
    assert path.read_bytes() != before


def test_outdated_scores_that_cannot_be_deleted(
    test_tracks: list[Track], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not recorded as scores of the new system."""
    run(tmp_path, [Filtered().entry()], test_tracks[:1], 1)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr("os.rmdir", refuse)
    with pytest.raises(PermissionError, match="not yours"):
        run(tmp_path, [Filtered(gain=0.5).entry()], test_tracks[:1], 1)


def test_retrained_weights_are_loaded_again(
    test_tracks: list[Track], tmp_path: Path, checkpoint_path: Path, make_network: Callable[..., Any]
) -> None:
    """In one process, under one name."""
    import svs_unet_plugin.nussl as svs
    from svs_unet_plugin import STFT

    weights = tmp_path / "weights.pth"
    shutil.copyfile(checkpoint_path, weights)
    run(tmp_path / "results", [network_entry("net", "Net", weights)], test_tracks[:1], 1)
    (path,) = files(tmp_path / "results", test_tracks[:1], "net")
    before = path.read_bytes()
    network = make_network()
    network.decoder[-1].bias.data += 1
    svs.save(svs.from_network(network), weights, stft=STFT())
    run(tmp_path / "results", [network_entry("net", "Net", weights)], test_tracks[:1], 1)
    assert path.read_bytes() != before
    assert isinstance(network_entry("net", "Net", weights).load, Weights)


def test_costs_are_without_loading(tmp_path: Path) -> None:
    make_corpus(tmp_path / "songs", 2, seconds=7.0, seed=0, sample_rate=8192)
    tracks = [track for track in find_tracks(tmp_path / "songs") if track.subset == "test"]
    log = tmp_path / "log"
    entry = Entry(System("heavy", "Heavy", "classical"), Heavy(log), "1")
    run(tmp_path / "results", [entry], tracks, 1, costs=True)
    # In a process of its own: loaded once, a warm-up of five seconds, then what is measured; then for the
    # scores.
    assert log.read_text() == "load 5 s, 7 s, load 7 s, "
    (system,) = store.read_systems(tmp_path / "results")
    assert system.seconds_per_minute is not None and system.seconds_per_minute > 0
    assert system.peak_memory_mb is not None and 400 < system.peak_memory_mb < 4000
    run(tmp_path / "results", [entry], tracks, 1, costs=True)
    assert log.read_text().count("load") == 2


def test_the_clock_runs_for_the_song_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that the system itself advances: loading takes 100 s, the warm-up 10 s, the song 1 s."""
    now = 0.0
    monkeypatch.setattr(costs, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(costs.torch, "set_num_threads", lambda threads: None)  # of the other tests' process

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    def load() -> Callable[[float], None]:
        wait(100.0)
        return wait

    assert measure(load, 10.0, 1.0).seconds == 1.0


def test_memory_is_of_the_process_itself() -> None:
    """A large parent is not counted, as ``getrusage`` would do on Linux."""
    large = np.ones(150_000_000)  # 1.2 GB
    assert peak_memory() > large.nbytes
    ask = "from svs_unet_plugin.evaluation.costs import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert 100e6 < int(child.stdout) < large.nbytes


def test_excerpts_are_where_both_are_loud(test_tracks: list[Track], tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    quiet = 1e-3 * generator.standard_normal((2, 30 * 1_000))
    vocals, accompaniment = quiet.copy(), quiet.copy()
    vocals[:, 5_000:25_000] *= 1_000
    accompaniment[:, 15_000:] *= 1_000
    song = Song("a", 1_000, vocals + accompaniment, {"vocals": vocals, "accompaniment": accompaniment})
    assert 15 <= liveliest_second(song) <= 19  # six seconds within 15 … 25
    short = song.excerpt(0.0, 4.0)
    assert short.mixture.shape == (2, 4_000)
    assert liveliest_second(short) == 0
    run(tmp_path, [Filtered().entry()], test_tracks, 1, listened=1)
    assert store.audio_tracks(tmp_path) == [test_tracks[0].name]
    assert set(store.audio_files(tmp_path, "some", test_tracks[0].name)) == {"vocals", "accompaniment"}
    assert not store.audio_files(tmp_path, "some", test_tracks[1].name)


SCRIPT = """
import sys, pathlib
from systems import Filtered
from svs_unet_plugin.corpora.musdb import find_tracks
from svs_unet_plugin.evaluation.runner import run
if __name__ == "__main__":
    run(pathlib.Path(sys.argv[2]), [Filtered().entry()], find_tracks(sys.argv[1])[:4], 1, listened=2)
"""


def test_killed_and_started_again(corpus: Path, tmp_path: Path) -> None:
    tracks, out = find_tracks(corpus)[:4], tmp_path / "out"
    run(tmp_path / "undisturbed", [Filtered().entry()], tracks, 1, listened=2)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    assert kill_when(
        lambda: bool(list(out.glob("some/test/*.json"))), [sys.executable, str(script), str(corpus), str(out)]
    )
    for path in out.glob("some/*/*.json"):
        json.loads(path.read_text())
    assert not files(out, tracks)[-1].exists()
    (out / "some" / "test" / ".0.part").write_text("{")  # what a kill in the middle of a file leaves
    run(out, [Filtered().entry()], tracks, 1, listened=2)
    assert written(out) == written(tmp_path / "undisturbed")


def test_silence(song: Song) -> None:
    """What is silent has no scores, and the others those that museval gives without it."""
    silent, names = np.zeros_like(song.mixture), ("vocals", "drums", "bass", "other")
    estimates = {name: 0.7 * song.sources[name] + 0.3 * song.mixture for name in names}
    references = {**{name: song.sources[name] for name in names}, "bass": silent}
    found_scores = museval_scores("A - B", references, {**estimates, "other": silent}, RATE)
    scores = found_scores.df.groupby(["target", "metric"]).score.apply(np.nanmedian).unstack()
    heard = np.stack([references[name].T for name in ("vocals", "drums", "other")])
    found = museval.evaluate(heard, np.stack([estimates[n].T for n in ("vocals", "drums", "other")]))
    for metric, values in zip(("SDR", "ISR", "SIR", "SAR"), found, strict=True):
        for name, frames in zip(("vocals", "drums"), values, strict=False):
            assert scores[metric][name] == pytest.approx(np.nanmedian(frames), abs=1e-4)
        assert np.isnan(scores[metric]["bass"]) and np.isnan(scores[metric]["other"])


def test_a_song_without_vocals(song: Song, tmp_path: Path) -> None:
    references = {"vocals": np.zeros_like(song.mixture), "accompaniment": song.mixture}
    score(tmp_path, "some", Song("A - B", RATE, song.mixture, references), untouched(song))
    store.write_system(tmp_path, System("some", "Some", "classical"))
    scores = store.read_scores(tmp_path).set_index(["source", "metric"]).score
    assert np.isnan(scores["vocals", "SDR"]) and np.isnan(scores["vocals", "SI-SDR"])


def test_a_song_of_vocals_alone(song: Song, tmp_path: Path) -> None:
    vocals = song.sources["vocals"]
    references = {"vocals": vocals, "accompaniment": np.zeros_like(vocals)}
    estimates = {"vocals": 0.9 * vocals, "accompaniment": 0.1 * vocals}
    score(tmp_path, "some", Song("A - B", RATE, vocals, references), estimates)
    store.write_system(tmp_path, System("some", "Some", "trained"))
    scores = store.read_scores(tmp_path).set_index(["source", "metric"]).score
    assert np.isnan(scores["accompaniment", "SDR"]) and np.isnan(scores["vocals", "SDR"])
    assert best_of_each_kind(store.read_systems(tmp_path), store.read_scores(tmp_path)) == []
    (said,) = alarms(tmp_path, "some")
    assert "has no scores of vocals" in said


def test_a_channel_without_vocals(song: Song) -> None:
    left_only = song.sources["vocals"] * np.array([[1], [0]], np.float32)
    references = {"vocals": left_only, "accompaniment": song.mixture}
    scores = scale_scores(references, untouched(song))
    both = scale_scores({**references, "vocals": song.sources["vocals"]}, untouched(song))
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
        score(tmp_path, "some", song, estimates)
    with pytest.raises(ValueError, match="two sources at least"):
        score(tmp_path, "some", song, {"vocals": song.mixture})
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
def test_alarms(song: Song, tmp_path: Path, separate: runner.Separate, expected: list[str]) -> None:
    store.write_system(tmp_path, System("some", "Some", "trained"))
    estimates = separate(song)
    score(tmp_path, "some", song, {name: estimates[name] for name in ("vocals", "accompaniment")})
    found = alarms(tmp_path, "some")
    assert len(found) == len(expected), found
    for said, words in zip(found, expected, strict=True):
        assert words in said
