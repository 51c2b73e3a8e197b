import math
from pathlib import Path

import museval
import numpy as np
import pytest
import soundfile

from svs_unet_plugin.evaluation import store
from svs_unet_plugin.evaluation.store import System

TRACKS = ("Band - One", "Band - Two", "Band - Three")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of three tracks of noise, as museval writes them."""
    folder = tmp_path_factory.mktemp("results")
    store.write_system(folder, System("u-net", "U-Net", "trained", 1_000, 0.5, 300.0))
    generator = np.random.default_rng(0)
    for i, track in enumerate(TRACKS):
        references = generator.standard_normal((2, 4_000, 1))
        references[0, 1_000:2_000] = 0  # a second of silence, of which no score is defined
        estimates = references + 0.1 * (i + 1) * generator.standard_normal(references.shape)
        scores = museval.evaluate(references, estimates, win=1_000, hop=1_000)
        track_store = museval.TrackStore(track)
        for j, source in enumerate(("vocals", "accompaniment")):
            names = ("SDR", "ISR", "SIR", "SAR")
            track_store.add_target(
                source, {name: values[j].tolist() for name, values in zip(names, scores, strict=True)}
            )
        path = store.bss_file(folder, "u-net", track)
        path.parent.mkdir(parents=True, exist_ok=True)
        track_store.save(path)
    return folder


def test_medians_are_musevals(folder: Path) -> None:
    """The windows' medians, and those of the tracks, are what museval makes of the same folder."""
    museval_store = museval.EvalStore()
    museval_store.add_eval_dir(folder / "u-net")
    scores = store.read_scores(folder)
    ours = scores.set_index(["track", "source", "metric"]).score.sort_index()
    theirs = museval_store.agg_frames_scores().rename_axis(["track", "source", "metric"]).sort_index()
    assert list(ours.index) == list(theirs.index)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert np.isnan(museval_store.df.score).any()  # of the silent second, which must not count
    by_track = scores.groupby(["source", "metric"]).score.median()
    expected = museval_store.agg_frames_tracks_scores().rename_axis(["source", "metric"])
    np.testing.assert_allclose(by_track.sort_index(), expected.sort_index(), atol=1e-12)


def test_scale_scores(tmp_path: Path) -> None:
    system = System("a", "A", "classical")
    store.write_system(tmp_path, system)
    store.write_scale(tmp_path, "a", "Band - One", {"vocals": {"SI-SDR": [1.0, 3.0], "MIX-SNR": [9.0, 9.0]}})
    rows = store.read_scores(tmp_path).values.tolist()
    assert rows == [["a", "Band - One", "vocals", "SI-SDR", 2.0]]


def test_no_score_where_none_is_defined(tmp_path: Path) -> None:
    store.write_system(tmp_path, System("a", "A", "classical"))
    track_store = museval.TrackStore("Band - One")
    nothing = [math.nan, math.inf]
    track_store.add_target("vocals", dict.fromkeys(store.BSS_METRICS, nothing))
    store.bss_file(tmp_path, "a", "x").parent.mkdir()
    track_store.save(store.bss_file(tmp_path, "a", "Band - One"))
    assert store.read_scores(tmp_path).score.isna().all()


@pytest.mark.parametrize(
    "system",
    [
        System("mixture", "Mixture", "bound"),
        System("U-Net_4", "U-Net, four stems", "trained", 9_822_884, 1.25, 512.5),
    ],
)
def test_systems_come_back(system: System, tmp_path: Path) -> None:
    store.write_system(tmp_path, system)
    (tmp_path / store.REFERENCE / "audio").mkdir(parents=True)  # is no system
    assert store.read_systems(tmp_path) == [system]


def test_audio_comes_back(tmp_path: Path) -> None:
    samples = np.array([[0.5, -0.25, 2.0], [0.0, 0.125, -2.0]], dtype=np.float32)
    store.write_audio(tmp_path, store.REFERENCE, "Band - One", "mixture", samples, 8_000)
    path = store.write_audio(tmp_path, "u-net", "Band - One", "vocals", samples, 8_000)
    assert store.audio_tracks(tmp_path) == ["Band - One"]
    assert store.audio_files(tmp_path, "u-net", "Band - One") == {"vocals": path}
    assert store.audio_files(tmp_path, "u-net", "Band - Two") == {}
    read, rate = soundfile.read(path)
    assert rate == 8_000
    np.testing.assert_allclose(read.T, samples.clip(-1, 1), atol=2**-15)  # a step of 16 bits


@pytest.mark.parametrize("name", ["", "a b", "../up", "ü", "reference"])
def test_bad_ids(name: str) -> None:
    with pytest.raises(ValueError, match="a system's id"):
        System(name, "x", "trained")


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no results"):
        store.read_systems(tmp_path)
    with pytest.raises(ValueError, match="kind is one of trained"):
        System("a", "A", "magic")  # type: ignore[arg-type]
    store.write_system(tmp_path, System("a", "A", "classical"))
    store.scale_file(tmp_path, "a", "x").parent.mkdir()
    huge = '{"vocals": {"SI-SDR": [1%s]}}' % ("0" * 400)
    for content in ("[1]", '{"vocals": 1}', huge, "[" * 100_000):
        store.scale_file(tmp_path, "a", "x").write_text(content)
        with pytest.raises(ValueError, match=r"x\.json is no file of scores"):
            store.read_scores(tmp_path)
    for content in ('{"name": "A"}', '{"name": "A", "kind": "magic", "a\\nb": 1}', "[1]", '{"a":' * 100_000):
        (tmp_path / "a" / "system.json").write_text(content)
        with pytest.raises(
            ValueError, match=r"system\.json (does not describe|is no description of) a system"
        ) as caught:
            store.read_systems(tmp_path)
        assert "\n" not in str(caught.value)
