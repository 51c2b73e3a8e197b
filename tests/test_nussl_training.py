from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import kill_script_when

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import STFT, Separator, audio
from svs_unet_plugin.encoding import Encoding, writers
from svs_unet_plugin.files import lock
from svs_unet_plugin.nussl import nussl, training
from svs_unet_plugin.training.history import Losses, read_losses

SETTINGS = svs.TrainSettings(epochs=3, epoch_steps=2, batch_size=2, schedule="one-cycle", learning_rate=0.01)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four songs in which the vocals are noise above 2 kHz, and the accompaniment noise below."""
    folder = tmp_path_factory.mktemp("songs")
    generator = np.random.default_rng(0)
    for name in ("mix", "vocals", "accompaniment"):
        (folder / name).mkdir()
    for number in range(4):
        low, high = np.fft.rfft(generator.standard_normal((2, 60_000)))
        low[15_000:], high[:15_000] = 0, 0
        stems = {"accompaniment": np.fft.irfft(low) / 10, "vocals": np.fft.irfft(high) / 10}
        stems["mix"] = stems["accompaniment"] + stems["vocals"]
        for name, samples in stems.items():
            with writers([folder / name / f"{number}.wav"], Encoding(), 8192, 1, 60_000) as (write,):
                write(samples[None].astype(np.float32))
    return folder


def train(
    songs: Path, out: Path, settings: svs.TrainSettings = SETTINGS, *, remix: bool = False, **options: Any
) -> Path:
    def dataset(part: str, excerpt_frames: int | None) -> Any:
        return nussl.datasets.MixSourceFolder(
            str(songs),
            stft_params=svs.stft_params(),
            transform=svs.training_transform(excerpt_frames=excerpt_frames, cache=out / "cache" / part),
        )

    nussl.utils.seed(0)
    model = nussl.ml.SeparationModel(svs.build_unet_mask_inference(channels=2))
    validation = dataset("valid", None)
    if remix:
        folder = nussl.datasets.MixSourceFolder(str(songs))
        data: Any = svs.Remix(folder, settings=svs.ExcerptSettings(excerpt_frames=70, filtered=0.5))
    else:
        data = dataset("train", 70)
    options = {"device": "cpu", "progress": False, **options}
    return svs.train(model, data, validation, out, settings, **options)


def state(out: Path) -> dict:
    return torch.load(out / "checkpoints" / "latest.state.pth", weights_only=True)


def assert_same_state(one: dict, other: dict) -> None:
    assert one["history"] == other["history"]
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    torch.testing.assert_close(one["optimizer"], other["optimizer"], rtol=0, atol=0)
    assert torch.equal(one["random"]["torch"], other["random"]["torch"])
    assert one["random"]["python"] == other["random"]["python"]


def test_learns_to_separate(songs: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=8, epoch_steps=15, batch_size=4)
    best = train(songs, tmp_path, settings)
    history = state(tmp_path)["history"]
    assert history["validation/loss"][-1] < 0.5 * history["validation/loss"][0]
    mixture, _ = audio.read(songs / "mix" / "0.wav")
    vocals, _ = audio.read(songs / "vocals" / "0.wav")
    error = Separator(best).separate(mixture, 8192)["vocals"] - vocals
    # The sources are equally loud, so that a mask of 1/2 everywhere reaches 3 dB.
    assert 10 * np.log10((vocals**2).mean() / (error**2).mean()) > 6


def test_what_a_run_leaves_behind(songs: Path, tmp_path: Path) -> None:
    best = train(songs, tmp_path)
    assert best == tmp_path / "checkpoints" / "best.model.pth"
    assert {path.name for path in best.parent.iterdir()} == {
        "best.model.pth", "latest.model.pth", "latest.state.pth", "settings.json", ".lock",
    }  # fmt: skip
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").glob("events*"))
    _, metadata = nussl.ml.SeparationModel.load(str(best.parent / "latest.model.pth"))
    assert metadata["trainer.state_dict"]["epoch"] == 3
    history = metadata["trainer.state.epoch_history"]
    assert history == state(tmp_path)["history"] and len(history["validation/loss"]) == 3
    # One-cycle: the rate begins at 1/25 of its height, and ends below.
    assert max(history["learning_rate"]) > 3 * history["learning_rate"][-1]


SCRIPT = """
import sys, pathlib
from test_nussl_training import SETTINGS, replace, train
train(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), replace(SETTINGS, epochs=8),
workers=int(sys.argv[3]), remix=sys.argv[4] == "True")
"""


@pytest.mark.parametrize("workers, remix", [(0, False), (2, False), (2, True)])
def test_is_resumed_exactly_after_kill_9(songs: Path, tmp_path: Path, workers: int, remix: bool) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = replace(SETTINGS, epochs=8)
    # What is drawn does not depend on the number of workers.
    train(songs, whole, settings, workers=0 if remix else workers, remix=remix)
    latest = killed / "checkpoints" / "latest.state.pth"
    assert kill_script_when(latest.exists, SCRIPT, songs, killed, workers, remix)
    done = len(state(killed)["history"]["train/loss"])
    assert 1 <= done < 8
    train(songs, killed, settings, workers=workers, remix=remix)
    assert_same_state(state(killed), state(whole))
    assert (killed / "losses.csv").read_bytes() == (whole / "losses.csv").read_bytes()
    # And once it has come to its end, there is nothing more to do.
    before = (killed / "checkpoints" / "latest.state.pth").stat().st_mtime_ns
    train(songs, killed, settings, workers=workers, remix=remix)
    assert (killed / "checkpoints" / "latest.state.pth").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["write_losses", "plot_losses"])
def test_losses_are_complete_after_a_kill_in_the_last_epoch(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also where the run ends between two of the files that an epoch leaves."""
    write = getattr(training, name)

    def killed(path: Path, losses: Losses, *arguments: Any) -> None:
        if len(losses.train) == SETTINGS.epochs:
            raise KeyboardInterrupt
        write(path, losses, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, name, killed)
        train(songs, tmp_path)
    drawn = []
    monkeypatch.setattr(training, "plot_losses", lambda path, losses, loss: drawn.append(losses))
    train(songs, tmp_path)
    losses = read_losses(tmp_path / "losses.csv")
    assert losses is not None and len(losses.train) == SETTINGS.epochs and drawn == [losses]


def test_the_seed_decides(songs: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        train(songs, tmp_path / name, replace(SETTINGS, seed=seed))
    assert_same_state(state(tmp_path / "one"), state(tmp_path / "same"))
    assert state(tmp_path / "one")["history"] != state(tmp_path / "other")["history"]


def test_another_run_is_not_mixed_up_with_it(songs: Path, tmp_path: Path) -> None:
    train(songs, tmp_path)
    with pytest.raises(
        ValueError, match=r"learning_rate was 0\.01 and is now 0\.02; seed was 0 and is now 7"
    ):
        train(songs, tmp_path, replace(SETTINGS, learning_rate=0.02, seed=7))


def test_another_network_or_other_data_is_not_mixed_up_with_it(songs: Path, tmp_path: Path) -> None:
    train(songs, tmp_path)
    data = nussl.datasets.MixSourceFolder(
        str(songs),
        stft_params=svs.stft_params(STFT(hop_length=256)),
        transform=svs.training_transform(("accompaniment",), excerpt_frames=64),
    )
    model = nussl.ml.SeparationModel(svs.build_unet_mask_inference(channels=4))
    with pytest.raises(ValueError, match=r"network was .*; STFT was .*; transform was "):
        svs.train(model, data, data, tmp_path, SETTINGS, device="cpu")


def test_other_songs_are_not_mixed_up_with_it(songs: Path, tmp_path: Path) -> None:
    train(songs, tmp_path, remix=True)
    folder = nussl.datasets.MixSourceFolder(str(songs))
    data = svs.Remix([folder[0]], settings=svs.ExcerptSettings(excerpt_frames=70, filtered=0.5))
    model = nussl.ml.SeparationModel(svs.build_unet_mask_inference(channels=2))
    with pytest.raises(
        ValueError,
        match=r"transform was .*songs=.* and is now .*songs=.*; validation_items was 4 and is now 1",
    ):
        svs.train(model, data, data, tmp_path, SETTINGS, device="cpu")


def test_two_runs_do_not_share_a_folder_and_a_refused_one_leaves_no_lock(songs: Path, tmp_path: Path) -> None:
    with lock(tmp_path / "checkpoints"), pytest.raises(ValueError, match="is in use by another run"):
        train(songs, tmp_path)
    with pytest.raises(RuntimeError, match="nowhere"):
        train(songs, tmp_path, device="nowhere")  # after the lock was taken
    assert (tmp_path / "checkpoints" / "settings.json").exists()
    train(songs, tmp_path)


def test_epochs_may_grow_where_the_schedule_does_not_depend_on_them(songs: Path, tmp_path: Path) -> None:
    plateau = replace(SETTINGS, schedule="plateau", epochs=2)
    train(songs, tmp_path / "plateau", plateau)
    train(songs, tmp_path / "plateau", replace(plateau, epochs=3))
    train(songs, tmp_path / "whole", replace(plateau, epochs=3))
    assert_same_state(state(tmp_path / "plateau"), state(tmp_path / "whole"))
    train(songs, tmp_path / "plateau", plateau)  # fewer than there are: nothing is left to be done
    assert_same_state(state(tmp_path / "plateau"), state(tmp_path / "whole"))
    train(songs, tmp_path / "one-cycle")
    with pytest.raises(ValueError, match="epochs was 3 and is now 4"):
        train(songs, tmp_path / "one-cycle", replace(SETTINGS, epochs=4))


def test_stops_when_the_time_is_up(songs: Path, tmp_path: Path) -> None:
    train(songs, tmp_path, replace(SETTINGS, minutes=1e-6))
    assert len(state(tmp_path)["history"]["train/loss"]) == 1


def test_stops_when_nothing_gets_better(songs: Path, tmp_path: Path) -> None:
    # Hardly a learning rate: the loss only follows the statistics of the normalisation, up and down.
    settings = replace(SETTINGS, epochs=50, schedule="plateau", patience=2, learning_rate=1e-7)
    train(songs, tmp_path, settings)
    validation = state(tmp_path)["history"]["validation/loss"]
    assert len(validation) < 50 and min(validation) == validation[-3] and len(validation) >= 3
    assert min(state(tmp_path)["history"]["learning_rate"]) < 1e-7


def test_gradients_are_clipped(songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    step = torch.optim.Adam.step

    def recorded(self: Any, *args: Any) -> Any:
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.cat(gradients).norm()))
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    train(songs, tmp_path / "free", replace(SETTINGS, max_norm=None))
    free, limit = list(norms), min(norms) / 2
    norms.clear()
    train(songs, tmp_path / "clipped", replace(SETTINGS, max_norm=limit))
    assert len(norms) == len(free) == 6
    np.testing.assert_allclose(norms, limit, rtol=1e-3)


def test_mixed_precision(songs: Path, tmp_path: Path) -> None:
    for mixed in (False, True):
        train(songs, tmp_path / str(mixed), replace(SETTINGS, mixed_precision=mixed))
    exact, rounded = (np.array(state(tmp_path / name)["history"]["train/loss"]) for name in ("False", "True"))
    assert not np.array_equal(exact, rounded)
    # bfloat16 has 8 bits: the loss differs, but by no more than a few of its last places.
    np.testing.assert_allclose(rounded, exact, rtol=0.05)


def test_trains_on_remixed_songs_and_knows_them_again(songs: Path, tmp_path: Path) -> None:
    def remix(gain: float) -> Any:
        return svs.Remix(
            nussl.datasets.MixSourceFolder(str(songs)),
            settings=svs.ExcerptSettings(gain=gain),
            phase_sensitive=True,
        )

    settings = replace(SETTINGS, loss="snr", epochs=4, epoch_steps=4)
    validation = nussl.datasets.MixSourceFolder(
        str(songs),
        stft_params=svs.stft_params(),
        transform=svs.training_transform(excerpt_frames=None, phase_sensitive=True),
    )

    def run(out: Path, gain: float = 6.0, epochs: int = 4) -> list[float]:
        nussl.utils.seed(0)
        model = nussl.ml.SeparationModel(svs.build_unet_mask_inference(channels=2))
        svs.train(
            model,
            remix(gain),
            validation,
            out,
            replace(settings, epochs=epochs),
            device="cpu",
            progress=False,
        )
        return state(out)["history"]["validation/loss"]

    losses = run(tmp_path / "once")
    assert run(tmp_path / "again") == losses
    with pytest.raises(ValueError, match=r"gain=6\.0.* and is now .*gain=3\.0"):
        run(tmp_path / "once", gain=3.0)
    # What it leaves behind opens everywhere.
    assert Separator(tmp_path / "once" / "checkpoints" / "best.model.pth").stft == STFT()
