"""recipes/musdb18/nussl/compare.py, from its command line and by its parts."""

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import museval
import numpy as np
import pytest
import soundfile
from killing import kill_when

from svs_unet_plugin import Separator
from svs_unet_plugin.corpora import musdb
from svs_unet_plugin.corpora.prepare import Prepared, open_prepared, prepare
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.evaluation import store
from svs_unet_plugin.evaluation.runner import Song, read_song
from svs_unet_plugin.nussl import nussl
from svs_unet_plugin.training import configuration
from svs_unet_plugin.training.history import read_losses

RECIPE = Path(__file__).parent.parent / "recipes" / "musdb18" / "nussl"
BLSTM = "blstm"
RATE = 16_000
SYSTEMS = ("unet", "blstm", "repet-sim", "irm-full-band", "irm-8192", "mixture")


@pytest.fixture(scope="module")
def compare() -> Any:
    sys.path.insert(0, str(RECIPE))
    try:
        yield importlib.import_module("compare")
    finally:
        sys.path.remove(str(RECIPE))
        for name in ("compare", "eval", "train"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six songs of five seconds, one of them to test on, and a U-Net that was trained for a step."""
    folder = tmp_path_factory.mktemp("compare")
    make_corpus(folder / "corpus", 6, seconds=5.0, seed=0, sample_rate=RATE)
    prepare(folder / "corpus", folder / "prepared", jobs=1)
    short = {
        "epochs": 1, "epoch_steps": 1, "batch_size": 2, "excerpt_frames": 64, "channels": 4,
        "scaper.mixtures": 0,
    }  # fmt: skip
    run(
        "train.py",
        *("--exp_dir", folder / "exp", "--data_dir", folder / "prepared"),
        *("--conf", RECIPE / "local" / "conf_demo.yml"),
        *(word for key, value in short.items() for word in (f"--{key}", value)),
    )
    return folder


def command(script: str, *options: object) -> list[str]:
    return [sys.executable, str(RECIPE / script), *map(str, options)]


def run(script: str, *options: object) -> str:
    done = subprocess.run(command(script, *options), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def options_in(folder: Path) -> list[object]:
    return [
        *("--exp_dir", folder / "exp", "--data_dir", folder / "prepared", "--source", folder / "corpus"),
        *("--jobs", 2, "--epochs", 1, "--only", ",".join(SYSTEMS)),
    ]


def test_killed_and_started_again(folder: Path) -> None:
    """All systems get all their scores, each once; and these are what museval and nussl say of the audio."""
    results = folder / "exp" / "results"
    assert kill_when(
        lambda: bool(list(results.glob("*/test/*.json"))), command("compare.py", *options_in(folder))
    )
    kept = {path: path.stat().st_mtime_ns for path in results.glob("*/test/*.json")}
    assert 0 < len(kept) < len(SYSTEMS)
    kept |= {path: path.stat().st_mtime_ns for path in (folder / "exp" / "compared").glob("*/best_model.pth")}

    said = run("compare.py", *options_in(folder))
    assert "| Residual U-Net | " in said and said.endswith(f"{folder / 'exp' / 'report.html'}\n")
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    systems = {system.id: system for system in store.read_systems(results)}
    assert set(systems) == set(SYSTEMS)
    assert all(system.seconds_per_minute > 0 for system in systems.values())
    # A process with torch and nussl in it has more than 100 MB; none of these needs 4 GB for five seconds.
    assert all(100 < system.peak_memory_mb < 4_000 for system in systems.values())
    assert systems["unet"].parameters == sum(
        parameter.numel() for parameter in Separator(folder / "exp" / "best_model.pth").network.parameters()
    )
    assert len(read_losses(store.losses_file(results, "blstm")).train) == 1  # type: ignore[union-attr]
    scores = store.read_scores(results)
    assert scores.groupby("system").track.nunique().to_dict() == dict.fromkeys(SYSTEMS, 1)

    track = next(t for t in musdb.find_tracks(folder / "corpus") if t.subset == "test")
    check_directly(read_song(track), folder, results)
    heard = store.audio_files(results, "irm-full-band", track.name)
    assert set(heard) == {"vocals", "drums", "bass", "other", "accompaniment"}
    assert set(store.audio_files(results, store.REFERENCE, track.name)) == {*heard, "mixture"}


def check_directly(song: Song, folder: Path, results: Path) -> None:
    """A track's scores of two systems, by museval and nussl alone, on estimates made without the recipe."""
    mixture = nussl.AudioSignal(audio_data_array=song.mixture.astype(float), sample_rate=song.sample_rate)
    background, foreground = nussl.separation.primitive.RepetSim(mixture)()
    ours = Separator(folder / "exp" / "best_model.pth").separate(song.mixture, song.sample_rate)
    names = ("vocals", "accompaniment")
    references = np.stack([song.sources[name] for name in names])
    for id, estimates in (
        ("repet-sim", np.stack([foreground.audio_data, background.audio_data])),
        ("unet", np.stack([ours[name] for name in names])),
    ):
        table = store.read_scores(results).set_index(["system", "track", "source", "metric"]).score
        found = table.loc[id, song.name]
        bss = museval.evaluate(
            references.swapaxes(1, 2), estimates.swapaxes(1, 2), win=RATE, hop=RATE, padding=False
        )
        for metric, values in zip(("SDR", "ISR", "SIR", "SAR"), bss, strict=True):
            np.testing.assert_allclose(
                [found[name, metric] for name in names], np.nanmedian(values, axis=1), atol=2e-4
            )
        scale = nussl.evaluation.BSSEvalScale(
            *(
                [nussl.AudioSignal(audio_data_array=x.astype(float), sample_rate=RATE) for x in signals]
                for signals in (references, estimates)
            ),
            source_labels=list(names),
        ).evaluate()
        for name in names:
            for metric in ("SI-SDR", "SNR", "SI-SDRi"):
                assert found[name, metric] == pytest.approx(np.mean(scale[name][metric]), abs=1e-3)


def test_blstm_is_nussls_own(compare: Any, folder: Path) -> None:
    """As long as the song, at its place, with less in it above 4 kHz than a millionth."""
    best = folder / "exp" / "compared" / "blstm-1" / "best_model.pth"
    if not best.exists():
        run("compare.py", *options_in(folder)[:-1], BLSTM)
    track = next(t for t in musdb.find_tracks(folder / "corpus") if t.subset == "test")
    song = read_song(track)
    separate = compare.DeepMask(best, compare.STFT(hop_length=256))()
    estimates = separate(song)
    np.testing.assert_allclose(estimates["vocals"] + estimates["accompaniment"], song.mixture, atol=1e-6)
    spectrum = np.abs(np.fft.rfft(estimates["vocals"][0])) ** 2
    assert spectrum[int(len(spectrum) * 4_200 / 8_000) :].sum() < 1e-6 * spectrum.sum()
    # Sigmoids of an untrained network are near a half: the estimate is near half of the mixture below 4 kHz.
    low = np.fft.rfft(song.mixture[0])
    low[int(len(low) * 3_800 / 8_000) :] = 0
    half = np.fft.irfft(low, song.mixture.shape[1])
    similarity = (half * estimates["vocals"][0]).sum() / np.sqrt(
        (half**2).sum() * (estimates["vocals"][0] ** 2).sum()
    )
    assert similarity > 0.95


@pytest.mark.parametrize(
    ("number", "seconds", "known", "real"),
    [(50, 61, True, True), (50, 7, True, False), (49, 61, True, False), (50, 61, False, False)],
)
def test_the_real_test_split_is_known(
    compare: Any, folder: Path, tmp_path: Path, number: int, seconds: int, known: bool, real: bool
) -> None:
    names = sorted(compare.MUSDB18_TEST_NAMES) if known else []
    names += [f"Band - Song {i}" for i in range(number - len(names))]
    tracks = [musdb.Track(tmp_path / "test" / name, "test") for name in names]
    for track in tracks:
        track.path.mkdir(parents=True)
        soundfile.write(track.path / "mixture.wav", np.zeros(seconds * 8192), 8192)
    prepared: Prepared = replace(open_prepared(folder / "prepared"), folder=tmp_path, test=tracks)
    assert compare.is_musdb18_test(prepared, tracks) is real


def test_other_networks_can_be_trained_for_longer(compare: Any, folder: Path) -> None:
    """Also by a one-cycle schedule, which can't be resumed with another length."""
    prepared, experiment = open_prepared(folder / "prepared"), folder / "exp"
    conf = configuration.read(experiment)
    assert "epochs" not in conf.training.may_change
    for epochs in (2, 3):
        others = compare.other_networks(conf, conf.stft(), epochs)
        (plain,) = (other for other in others if other.id == "unet-plain")
        assert not plain.is_trained(experiment)
        compare.train_all([plain], prepared, experiment, "cpu", 1)
        assert plain.is_trained(experiment)
        losses = plain.entry(experiment).losses
        assert losses is not None and len(losses.train) == epochs
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        compare.other_networks(conf, conf.stft(), 0)


def test_bad_options(folder: Path) -> None:
    options = [*options_in(folder)[:-1], "unet,magic"]
    done = subprocess.run(command("compare.py", *options), capture_output=True, text=True)
    assert done.returncode == 1 and "there is no system magic" in done.stderr
    options = ["--exp_dir", folder / "nowhere", *options_in(folder)[2:]]
    done = subprocess.run(command("compare.py", *options), capture_output=True, text=True)
    assert (
        done.returncode == 1
        and "conf.yml is missing: train the experiment first" in done.stderr
        and "Traceback" not in done.stderr
    )
