import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import STFT, Separator, UNet
from svs_unet_plugin.cli import main
from svs_unet_plugin.encoding import Encoding, writers
from svs_unet_plugin.nussl import nussl


@pytest.mark.parametrize("in_channels, bottleneck", [(1, None), (2, "blstm")])
def test_shapes_are_nussls(in_channels: int, bottleneck: str | None) -> None:
    config = svs.build_unet_mask_inference(("vocals", "drums"), in_channels, 2, bottleneck)
    mix = torch.rand(3, 100, 513, 2)
    data = {"mix_magnitude": mix, "mid_side_magnitude": torch.rand(3, 100, 513, 2)}
    output = nussl.ml.SeparationModel(config)(data)
    assert output["mask"].shape == output["estimates"].shape == (3, 100, 513, 2, 2)
    assert torch.equal(output["estimates"], output["mask"] * mix[..., None])


def test_masks_are_those_of_the_network(network: UNet) -> None:
    module = svs.UNet(channels=network.channels).eval()
    module.load_state_dict(network.state_dict())
    mix = torch.rand(2, 100, 513, 3)
    masks = module(mix)
    for item in range(2):
        for channel in range(3):
            expected = network(mix[item, :, :, channel].T[None, None])[0, 0].T
            torch.testing.assert_close(masks[item, :, :, channel, 0], expected)


LOAD = """
import sys, numpy as np
import svs_unet_plugin.nussl
import nussl
mix = nussl.AudioSignal(sys.argv[1])
separator = nussl.separation.deep.DeepMaskEstimation(mix, model_path=sys.argv[2])
separator.run()
np.save(sys.argv[3], separator.result_masks[0].mask)
"""


def masks_in_a_fresh_process(song: Path, model: Path, out: Path) -> np.ndarray:
    subprocess.run([sys.executable, "-c", LOAD, song, model, out], check=True)
    return np.load(out)


@pytest.fixture
def wav(song: np.ndarray, tmp_path: Path) -> Path:
    with writers([tmp_path / "song.wav"], Encoding(), 44_100, 2, song.shape[1]) as (write,):
        write(song)
    return tmp_path / "song.wav"


def dataset(folder: Path, sample_rate: int, transform: Any = None, hop: int = 768) -> Any:
    """One second of noise in files of a rate that the dataset is not given."""
    for name in ("mix", "vocals"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        with writers([folder / name / "a.wav"], Encoding(), sample_rate, 2, sample_rate) as (write,):
            write(np.random.default_rng(0).uniform(-1, 1, (2, sample_rate)).astype(np.float32))
    return nussl.datasets.MixSourceFolder(
        str(folder),
        stft_params=svs.stft_params(STFT(hop_length=hop)),
        transform=transform or svs.training_transform(),
    )


def saved_without_data(model: Any, folder: Path, hop: int) -> None:
    svs.save(model, folder / "model.pth", stft=STFT(hop_length=hop))


def saved_with_a_dataset(model: Any, folder: Path, hop: int) -> None:
    svs.save(model, folder / "model.pth", train_data=dataset(folder / "data", 16_000, hop=hop))


def saved_by_nussls_trainer(model: Any, folder: Path, hop: int) -> None:
    data = dataset(folder / "data", 44_100, hop=hop)
    trainer, _ = nussl.ml.train.create_train_and_validation_engines(lambda *_: {"loss": 0.0})
    nussl.ml.train.add_validate_and_checkpoint(
        str(folder), model, torch.optim.Adam(model.parameters()), data, trainer
    )
    trainer.run([{}], max_epochs=1)
    (folder / "checkpoints" / "best.model.pth").rename(folder / "model.pth")


@pytest.fixture
def model(network: UNet) -> Any:
    model = nussl.ml.SeparationModel(svs.build_unet_mask_inference(channels=network.channels))
    model.layers["mask"].load_state_dict(network.state_dict())
    return model


SAVES = pytest.mark.parametrize("save", [saved_without_data, saved_with_a_dataset, saved_by_nussls_trainer])


@SAVES
def test_a_saved_model_gives_the_same_masks_in_a_fresh_process(
    model: Any, wav: Path, tmp_path: Path, save: Any
) -> None:
    save(model, tmp_path, 768)
    masks = masks_in_a_fresh_process(wav, tmp_path / "model.pth", tmp_path / "masks.npy")
    signal = nussl.AudioSignal(str(wav), stft_params=svs.stft_params())
    mix = svs.inference_transform()({"mix": signal})["mix_magnitude"]  # (frames, bins, channels)
    with torch.no_grad():
        if save is saved_without_data:  # a channel an item, as nussl has it for models of one channel
            mask = model.eval()({"mix_magnitude": mix.permute(2, 0, 1)[..., None]})["mask"]
            expected = mask[..., 0, 0].permute(2, 1, 0)  # (bins, frames, channels)
        else:
            mask = model.eval()({"mix_magnitude": mix[None]})["mask"]
            expected = mask[0, ..., 0].permute(1, 0, 2)
    np.testing.assert_array_equal(masks, expected.numpy())
    assert masks.std() > 0.03  # and they are no constant


@SAVES
@pytest.mark.parametrize("hop", [768, 256])
@pytest.mark.parametrize("samples", [30_000, 768 * 40])
def test_all_doors_give_one_answer(model: Any, tmp_path: Path, save: Any, hop: int, samples: int) -> None:
    """DeepMaskEstimation and Separator agree on the vocals of a mono 8192 Hz mixture, to its last frame."""
    save(model, tmp_path, hop)
    path = tmp_path / "model.pth"
    mixture = np.random.default_rng(0).uniform(-1, 1, (1, samples)).astype(np.float32)
    signal = nussl.AudioSignal(audio_data_array=mixture, sample_rate=8192)
    by_nussl = nussl.separation.deep.DeepMaskEstimation(signal, model_path=str(path))()[0].audio_data
    separator = Separator(path, device="cpu")
    assert separator.stft == STFT(hop_length=hop)
    ours = separator.separate(mixture, 8192)["vocals"]
    assert ours.shape == by_nussl.shape
    np.testing.assert_allclose(ours, by_nussl, rtol=0, atol=1e-4)


def test_a_network_of_two_channels_takes_no_more_in_nussl(make_network: Callable[..., UNet]) -> None:
    model = svs.from_network(make_network(in_channels=2))
    with pytest.raises(ValueError, match="takes one or two channels and their mid and side, got 3 channels"):
        model({"mix_magnitude": torch.rand(1, 64, 513, 3), "mid_side_magnitude": torch.rand(1, 64, 513, 2)})
    data = {"mix": nussl.AudioSignal(audio_data_array=np.zeros((3, 9000)), sample_rate=8192)}
    with pytest.raises(tfm.TransformException, match="has 3 channels, 2 are the most"):
        svs.inference_transform(in_channels=2)(data)


tfm = nussl.datasets.transforms


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize(
    "rate, window, hop, kind",
    [(44_100, 512, 128, "sqrt_hann"), (22_050, 2048, 1024, "hamming"), (8192, 1000, 700, "triang")],
)
def test_all_doors_give_one_answer_whatever_the_transform(
    model: Any, tmp_path: Path, rate: int, window: int, hop: int, kind: str, normalized: bool, capsys: Any
) -> None:
    """As nussl's own training script saves a model: with another window and rate, and no common scale."""
    steps = [tfm.SumSources([["bass", "drums"]]), tfm.MagnitudeSpectrumApproximation()]
    steps += [svs.NormalizeMagnitude()] if normalized else []
    params = nussl.STFTParams(window, hop, kind)
    metadata = {"sample_rate": rate, "num_channels": 1, "stft_params": params}
    metadata["train_dataset"] = {"transforms": tfm.Compose([*steps, tfm.ToSeparationModel()])}
    path = str(tmp_path / "model.pth")
    model.save(path, metadata)
    mixture = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 6005)).astype(np.float32)
    signal = nussl.AudioSignal(audio_data_array=mixture, sample_rate=rate)
    expected = nussl.separation.deep.DeepMaskEstimation(signal, model_path=path)()[0]
    separator = svs.UNetSeparation(signal, path)
    assert separator.separator.stft == STFT(rate, window, hop, kind, normalized=normalized)
    assert main(["info", path]) == 0
    plain = "" if normalized else ", plain magnitudes"
    assert f"{rate} Hz, window {window}, hop {hop}, {kind}{plain}\n" in capsys.readouterr().out
    vocals, accompaniment = separator()
    np.testing.assert_allclose(vocals.audio_data, expected.audio_data, rtol=0, atol=1e-4)
    np.testing.assert_allclose((signal - vocals).audio_data, accompaniment.audio_data, atol=1e-6)


def test_the_separator_refuses_what_it_would_get_wrong(model: Any, tmp_path: Path) -> None:
    metadata = {
        "sample_rate": 8192,
        "num_channels": 1,
        "stft_params": nussl.STFTParams(1024, 512, "bartlett"),
    }
    metadata["train_dataset"] = {"transforms": tfm.Compose([tfm.ToSeparationModel()])}
    model.save(str(tmp_path / "model.pth"), metadata)
    with pytest.raises(ValueError, match=r"window_type must be one of hann, sqrt_hann.*got 'bartlett'"):
        Separator(tmp_path / "model.pth")


def test_another_network_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    config = nussl.ml.networks.builders.build_recurrent_mask_inference(257, 4, 1, False, 0.0, 2, "sigmoid")
    nussl.ml.SeparationModel(config).save(str(tmp_path / "blstm.pth"))
    with pytest.raises(ValueError, match=r"it has no UNet in it; nussl\.separation\.deep has what opens"):
        Separator(tmp_path / "blstm.pth")


def test_transforms_within_transforms_are_seen(model: Any, tmp_path: Path) -> None:
    nested = tfm.Compose([svs.SelectSources(["vocals"]), svs.inference_transform()])
    model.save(str(tmp_path / "model.pth"), train_data=dataset(tmp_path / "data", 44_100, nested))
    assert Separator(tmp_path / "model.pth").stft == STFT()


def test_plain_save_keeps_the_transforms(checkpoint_path: Path) -> None:
    _, metadata = nussl.ml.SeparationModel.load(str(checkpoint_path))
    assert metadata["sample_rate"] == 8192 and metadata["num_channels"] == 1
    assert metadata["stft_params"] == svs.stft_params()
    assert repr(metadata["train_dataset"]["transforms"]) == repr(svs.inference_transform())


def test_nothing_is_left_of_a_model_that_was_not_saved(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: object) -> None:
        path.write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    for save, transform in ((svs.save, {"stft": STFT()}), (nussl.ml.SeparationModel.save, {})):
        with pytest.raises(OSError, match="no space left"):
            save(model, str(tmp_path / "model.pth"), **transform)
    assert not list(tmp_path.iterdir())


def test_the_transform_is_given_once(model: Any, tmp_path: Path) -> None:
    """Without it, weights of one hop were saved as those of another."""
    data = dataset(tmp_path / "data", 8192)
    for given in ({}, {"train_data": data, "stft": STFT()}):
        with pytest.raises(ValueError, match=r"give either train_data.* or .* stft=svs_unet_plugin\.STFT\("):
            svs.save(model, tmp_path / "model.pth", **given)
    assert not (tmp_path / "model.pth").exists()


def test_importing_twice_is_harmless() -> None:
    script = (
        "import importlib, svs_unet_plugin.nussl as svs, nussl; importlib.reload(svs);"
        "assert nussl.separation.deep.UNetSeparation.__name__ == 'UNetSeparation';"
        "nussl.ml.SeparationModel(svs.build_unet_mask_inference(channels=2))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
