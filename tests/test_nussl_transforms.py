import re

import numpy as np
import pytest

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import STFT, audio
from svs_unet_plugin.nussl import nussl

LABELS = ("bass", "drums", "other", "vocals")


def item(sample_rate: int = 44_100, silent: bool = False) -> dict:
    """An item as nussl's MUSDB18 gives it: a second of stereo noise for each stem, and their sum."""
    generator = np.random.default_rng(0)
    scale = 0.0 if silent else 0.1
    stems = {name: scale * generator.standard_normal((2, sample_rate)).astype(np.float32) for name in LABELS}

    def signal(samples: np.ndarray) -> nussl.AudioSignal:
        return nussl.AudioSignal(
            audio_data_array=samples, sample_rate=sample_rate, stft_params=svs.stft_params()
        )

    return {
        "mix": signal(sum(stems.values())),
        "sources": {name: signal(samples) for name, samples in stems.items()},
        "metadata": {"labels": list(LABELS)},
    }


def magnitude(samples: np.ndarray) -> np.ndarray:
    """(frames, bins, channels), by an STFT that is not nussl's, at 8192 Hz."""

    low = audio.resample(samples, 44_100, 8192)
    return np.abs(STFT().analyse(low)).transpose(2, 1, 0)


@pytest.mark.parametrize(
    "names", [("vocals",), ("vocals", "accompaniment"), ("vocals", "drums", "bass", "other")]
)
def test_training_transform_scales_all_by_the_mixture(names: tuple[str, ...]) -> None:
    data = item()
    stems = {name: signal.audio_data for name, signal in data["sources"].items()}
    stems["accompaniment"] = stems["bass"] + stems["drums"] + stems["other"]
    out = svs.training_transform(names, excerpt_frames=None)(item())
    mixture = magnitude(sum(stems[name] for name in LABELS))
    peak = mixture.max()
    np.testing.assert_allclose(out["mix_magnitude"].numpy(), mixture / peak, atol=2e-3)
    assert out["mix_magnitude"].max() == 1
    # The last axis follows the alphabet, as nussl has it.
    expected = np.stack([magnitude(stems[name]) / peak for name in sorted(names)], axis=-1)
    np.testing.assert_allclose(out["source_magnitudes"].numpy(), expected, atol=2e-3)


def test_silence_stays_silence() -> None:
    out = svs.training_transform(excerpt_frames=None)(item(silent=True))
    assert not out["mix_magnitude"].any() and not out["source_magnitudes"].any()


@pytest.mark.parametrize("frames", [5, 200])
def test_excerpts_have_their_length(frames: int) -> None:
    out = svs.training_transform(excerpt_frames=frames)(item())
    # A second at 8192 Hz has 12 frames: the excerpt is a part of them, or they are padded.
    assert out["mix_magnitude"].shape == (frames, 513, 2)
    assert out["source_magnitudes"].shape == (frames, 513, 2, 1)


@pytest.mark.parametrize("sample_rate", [8192, 16_000, 48_000])
def test_any_rate_comes_to_8192_hz(sample_rate: int) -> None:
    data = svs.ToSampleRate()(item(sample_rate))
    for signal in (data["mix"], *data["sources"].values()):
        assert (signal.sample_rate, signal.signal_length) == (8192, 8192)


def test_scaper_labels_are_added_up() -> None:
    data = item()
    data["sources"] = {f"{name}::0": signal for name, signal in data["sources"].items()}
    data["sources"]["vocals::1"] = data["sources"]["drums::0"]
    chosen = svs.SelectSources(["vocals"])(data)["sources"]
    original = item()["sources"]
    np.testing.assert_allclose(
        chosen["vocals"].audio_data, original["vocals"].audio_data + original["drums"].audio_data
    )


def test_a_source_that_is_not_there() -> None:
    with pytest.raises(nussl.datasets.transforms.TransformException, match="no source is called 'piano'"):
        svs.SelectSources(["piano"])(item())


def test_inference_transform_needs_only_a_mixture() -> None:
    out = svs.inference_transform()({"mix": item()["mix"]})
    assert list(out) == ["mix_magnitude"] and out["mix_magnitude"].shape == (12, 513, 2)


def test_every_step_says_what_it_is() -> None:
    shown = repr(svs.training_transform())
    for step in ("SelectSources(names=['vocals'])", "ToSampleRate(sample_rate=8192)", "NormalizeMagnitude()"):
        assert step in shown
    assert not re.search(r"object at 0x", shown)


def test_registered_with_nussl() -> None:
    for transform in (svs.SelectSources, svs.ToSampleRate, svs.NormalizeMagnitude):
        assert getattr(nussl.datasets.transforms, transform.__name__) is transform
