import json
from pathlib import Path

import numpy as np
import pytest
import torch

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import Separator, UNet
from svs_unet_plugin.nussl import UNetSeparation, nussl


def signal(samples: np.ndarray, sample_rate: int = 44_100) -> nussl.AudioSignal:
    return nussl.AudioSignal(audio_data_array=samples, sample_rate=sample_rate)


def test_answers_like_the_separator(checkpoint_path: Path, song: np.ndarray) -> None:
    mix = signal(song)
    estimates = nussl.separation.deep.UNetSeparation(mix, checkpoint_path)()
    expected = Separator(checkpoint_path).separate(song, 44_100)
    for estimate, stem in zip(estimates, expected.values(), strict=True):
        np.testing.assert_array_equal(estimate.audio_data, stem)
        assert estimate.sample_rate == 44_100
    np.testing.assert_allclose((mix - estimates[0]).audio_data, estimates[1].audio_data, atol=1e-6)
    np.testing.assert_array_equal(mix.audio_data, song)


@pytest.mark.parametrize("shape", [(1, 1), (2, 700), (3, 9000)])
@pytest.mark.parametrize("sample_rate", [8000, 48_000])
def test_any_mixture(network: UNet, shape: tuple[int, int], sample_rate: int) -> None:
    mixture = np.random.default_rng(0).uniform(-1, 1, shape)
    vocals, accompaniment = UNetSeparation(signal(mixture, sample_rate), network)()
    assert vocals.audio_data.shape == accompaniment.audio_data.shape == shape
    np.testing.assert_allclose(vocals.audio_data + accompaniment.audio_data, mixture, atol=1e-6)


def test_silence(network: UNet) -> None:
    for estimate in UNetSeparation(signal(np.zeros((2, 9000))), network)():
        assert not estimate.audio_data.any()


def test_binary_masks_are_not_all_ones(network: UNet, song: np.ndarray) -> None:
    soft, binary = (UNetSeparation(signal(song), network, mask_type=kind)()[0] for kind in ("soft", "binary"))
    assert np.abs(binary.audio_data - soft.audio_data).max() > 0.01
    assert np.abs(binary.audio_data - song).max() > 0.1


def test_another_mixture_through_the_same_object(network: UNet, song: np.ndarray) -> None:
    separator = UNetSeparation(signal(song), network)
    with pytest.raises(nussl.separation.SeparationException, match="call run"):
        separator.make_audio_signals()
    separator()
    shorter = separator(audio_signal=signal(song[:, :9000]))
    assert [estimate.signal_length for estimate in shorter] == [9000, 9000]
    assert separator.get_metadata()["sources"] == ["vocals", "accompaniment"]


def test_metrics_are_kept_with_the_model(network: UNet, song: np.ndarray, tmp_path: Path) -> None:
    """As nussl's users do after an evaluation; what is saved then separates as before."""
    separator = UNetSeparation(nussl.AudioSignal(), network)  # a mixture comes later
    vocals, accompaniment = separator(audio_signal=signal(song))
    scores = nussl.evaluation.BSSEvalScale([accompaniment, vocals], [vocals, accompaniment]).evaluate()
    (tmp_path / "song.json").write_text(json.dumps(scores))
    frame = nussl.evaluation.aggregate_score_files([str(tmp_path / "song.json")])
    (tmp_path / "mix").mkdir()
    data = nussl.datasets.MixSourceFolder(str(tmp_path))
    assert nussl.evaluation.associate_metrics(separator.model, frame, data) is separator.model
    path = separator.model.save(str(tmp_path / "model.pth"))
    _, metadata = nussl.ml.SeparationModel.load(path)
    assert metadata["evaluation"]["SI-SDR"]["mean"] == pytest.approx(frame["SI-SDR"].mean())
    np.testing.assert_array_equal(UNetSeparation(signal(song), path)()[0].audio_data, vocals.audio_data)


def test_bad_mask_type(network: UNet) -> None:
    with pytest.raises(ValueError, match="'soft' or 'binary', got 'hard'"):
        UNetSeparation(signal(np.zeros((1, 9))), network, mask_type="hard")


def test_a_network_of_nussl(song: np.ndarray) -> None:
    """Whose axes are nussl's."""
    torch.manual_seed(0)
    for in_channels in (1, 2):
        config = svs.build_unet_mask_inference(channels=2, in_channels=in_channels)
        network = nussl.ml.SeparationModel(config).layers["mask"].eval()
        plain = UNet(**network.arguments())
        plain.load_state_dict(network.state_dict())
        found = Separator(network, device="cpu").separate(song[:, :30_000], 44_100)
        expected = Separator(plain.eval(), device="cpu").separate(song[:, :30_000], 44_100)
        np.testing.assert_array_equal(found["vocals"], expected["vocals"])
