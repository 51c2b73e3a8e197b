import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import STFT, Separator, UNet, audio
from svs_unet_plugin.nussl import nussl


@pytest.mark.parametrize("in_channels, bottleneck", [(1, None), (2, "blstm")])
def test_shapes_are_nussls(in_channels: int, bottleneck: str | None) -> None:
    config = svs.build_unet_mask_inference(("vocals", "drums"), in_channels, 2, bottleneck)
    mix = torch.rand(3, 100, 513, 2)
    output = nussl.ml.SeparationModel(config)({"mix_magnitude": mix})
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
    with audio.wav_writers([tmp_path / "song.wav"], 44_100, 2, song.shape[1]) as (write,):
        write(song)
    return tmp_path / "song.wav"


def saved_without_data(model: Any, path: Path) -> None:
    svs.save(model, path)


def saved_by_nussl_with_a_dataset(model: Any, path: Path) -> None:
    """As nussl's own trainer does it, from a dataset whose sample rate nobody named."""
    folder = path.parent / "data"
    for name in ("mix", "vocals"):
        (folder / name).mkdir(parents=True)
        with audio.wav_writers([folder / name / "a.wav"], 22_050, 1, 22_050) as (write,):
            write(np.random.default_rng(0).uniform(-1, 1, (1, 22_050)).astype(np.float32))
    data = nussl.datasets.MixSourceFolder(
        str(folder), stft_params=svs.stft_params(), transform=svs.training_transform()
    )
    model.save(str(path), train_data=data, val_data=data)


@pytest.mark.parametrize("save", [saved_without_data, saved_by_nussl_with_a_dataset])
def test_a_saved_model_gives_the_same_masks_in_a_fresh_process(
    network: UNet, wav: Path, tmp_path: Path, save: Any
) -> None:
    model = nussl.ml.SeparationModel(svs.build_unet_mask_inference(channels=network.channels))
    model.layers["mask"].load_state_dict(network.state_dict())
    save(model, tmp_path / "model.pth")
    masks = masks_in_a_fresh_process(wav, tmp_path / "model.pth", tmp_path / "masks.npy")
    data = nussl.AudioSignal(str(wav), stft_params=svs.stft_params())
    if save is saved_by_nussl_with_a_dataset:
        data.resample(22_050)  # nussl goes by way of the dataset's rate
    mix = svs.inference_transform()({"mix": data})["mix_magnitude"]  # (frames, bins, channels)
    with torch.no_grad():  # a channel an item, as nussl has it for models of one channel
        output = model.eval()({"mix_magnitude": mix.permute(2, 0, 1)[..., None]})
    expected = output["mask"][..., 0, 0].permute(2, 1, 0)  # (bins, frames, channels)
    np.testing.assert_array_equal(masks, expected.numpy())
    assert masks.std() > 0.03  # and they are no constant


@pytest.mark.parametrize("hop", [768, 256])
@pytest.mark.parametrize("samples", [30_000, 768 * 40])
def test_all_doors_give_one_answer(network: UNet, tmp_path: Path, hop: int, samples: int) -> None:
    """DeepMaskEstimation and Separator agree on the vocals of a mono 8192 Hz mixture, to its last frame."""
    model = nussl.ml.SeparationModel(svs.build_unet_mask_inference(channels=network.channels))
    model.layers["mask"].load_state_dict(network.state_dict())
    path, stft = tmp_path / "model.pth", STFT(hop_length=hop)
    svs.save(model, path, stft=stft)
    mixture = np.random.default_rng(0).uniform(-1, 1, (1, samples)).astype(np.float32)
    signal = nussl.AudioSignal(audio_data_array=mixture, sample_rate=8192)
    by_nussl = nussl.separation.deep.DeepMaskEstimation(signal, model_path=str(path))()[0].audio_data
    separator = Separator(path, device="cpu")
    assert separator.stft == stft
    ours = separator.separate(mixture, 8192)["vocals"]
    assert ours.shape == by_nussl.shape
    np.testing.assert_allclose(ours, by_nussl, rtol=0, atol=1e-4)


def test_plain_save_keeps_the_transforms(checkpoint_path: Path) -> None:
    _, metadata = nussl.ml.SeparationModel.load(str(checkpoint_path))
    assert metadata["sample_rate"] == 8192 and metadata["num_channels"] == 1
    assert metadata["stft_params"] == svs.stft_params()
    assert repr(metadata["train_dataset"]["transforms"]) == repr(svs.inference_transform())


def test_nothing_is_left_of_a_model_that_was_not_saved(tmp_path: Path) -> None:
    class Full:
        def save(self, path: str, *_: object) -> None:
            Path(path).write_bytes(b"half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        svs.save(Full(), tmp_path / "model.pth")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_importing_twice_is_harmless() -> None:
    script = (
        "import importlib, svs_unet_plugin.nussl as svs, nussl; importlib.reload(svs);"
        "assert nussl.separation.deep.UNetSeparation.__name__ == 'UNetSeparation';"
        "nussl.ml.SeparationModel(svs.build_unet_mask_inference(channels=2))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
