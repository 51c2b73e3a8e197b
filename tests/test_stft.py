import numpy as np
import pytest
import scipy.signal
import torch

from svs_unet_plugin import STFT, torch_stft


@pytest.mark.parametrize("samples", [1024, 8192, 10_000, 12_288])
@pytest.mark.parametrize("hop", [768, 256])
@pytest.mark.parametrize("kind", ["hann", "hamming", "blackman", "triang", "rectangular"])
def test_equals_scipy(samples: int, hop: int, kind: str) -> None:
    audio = np.random.default_rng(0).standard_normal((2, samples)).astype(np.float32)
    spectrum = STFT(hop_length=hop, window_type=kind).analyse(audio)
    assert spectrum.dtype == np.complex64
    _, _, expected = scipy.signal.stft(audio, nperseg=1024, noverlap=1024 - hop, window=kind)
    # scipy divides by the sum of the window.
    np.testing.assert_allclose(spectrum / scipy.signal.get_window(kind, 1024).sum(), expected, atol=1e-6)


def test_the_largest_magnitude_that_a_network_sees() -> None:
    assert STFT().divisor(256.0) == 256
    assert STFT(normalized=False).divisor(256.0) == 512  # the window's sum, as scipy has it


@pytest.mark.parametrize("samples", [1, 2, 767, 768, 769, 1025, 9999])
@pytest.mark.parametrize("hop", [768, 256, 1023, 8])
def test_gives_the_signal_back(samples: int, hop: int) -> None:
    stft = STFT(hop_length=hop)
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (3, samples))
    spectrum = stft.analyse(audio)
    assert spectrum.shape == (3, 513, stft.frames(samples))
    np.testing.assert_allclose(stft.synthesise(spectrum)[:, :samples], audio, rtol=0, atol=1e-6)


def test_masks_of_synthesis() -> None:
    stft, generator = STFT(hop_length=256), np.random.default_rng(0)
    spectrum = stft.analyse(generator.uniform(-0.5, 0.5, (2, 100_000)).astype(np.float32))
    masks = generator.random((3, 2, 513, spectrum.shape[-1]))
    masked = stft.synthesise(spectrum, masks)
    assert masked.dtype == np.float64
    np.testing.assert_allclose(masked, stft.synthesise(masks * spectrum), rtol=0, atol=1e-9)


@pytest.mark.parametrize("samples", [1, 769, 9999])
@pytest.mark.parametrize("hop, kind", [(768, "hann"), (256, "sqrt_hann"), (700, "hamming")])
def test_tensors_have_the_same(samples: int, hop: int, kind: str) -> None:
    stft = STFT(hop_length=hop, window_type=kind)
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 3, samples))
    spectrum, tensor = stft.analyse(audio), torch.from_numpy(audio)
    np.testing.assert_allclose(torch_stft.analyse(stft, tensor), spectrum, atol=1e-9)
    back = torch_stft.synthesise(stft, torch.from_numpy(spectrum))
    np.testing.assert_allclose(back, stft.synthesise(spectrum), rtol=0, atol=1e-9)
    margin = torch.nn.functional.pad(tensor, (512, hop * (stft.frames(samples) - 1) + 512 - samples))
    np.testing.assert_allclose(torch_stft.frames(stft, margin), spectrum, atol=1e-9)


def test_some_frames_are_those_frames() -> None:
    stft = STFT()
    audio = np.random.default_rng(0).uniform(-1, 1, (2, 20_000))
    frames = stft.frames(20_000)
    for first, last in [(0, 3), (5, 6), (frames - 2, frames), (0, frames)]:
        np.testing.assert_allclose(
            stft.analyse(audio, first, last), stft.analyse(audio)[..., first:last], atol=1e-12
        )


def test_magnitude_of_a_sine() -> None:
    # A full-scale sine on a bin reaches a quarter of the window: half for the sine, half for Hann's mean.
    sine = np.sin(2 * np.pi * 100 / 1024 * np.arange(20_000))[None]
    assert np.abs(STFT().analyse(sine)).max() == pytest.approx(256, rel=1e-3)


@pytest.mark.parametrize("hop", [768, 256])
def test_masks_do_as_well_at_the_end_as_in_the_middle(hop: int) -> None:
    """The two traps of a large hop: a tail that is divided by nothing, and gaps between windows."""
    generator = np.random.default_rng(0)
    stft = STFT(hop_length=hop)
    for samples in range(40_000, 40_000 + hop, 97):  # every way that a signal can end within a hop
        target, other = generator.standard_normal((2, samples)) * [[1.0], [0.3]]
        spectra = stft.analyse(np.stack([target, other]))
        mask = np.abs(spectra[0]) / np.maximum(np.abs(spectra).sum(axis=0), 1e-12)
        estimate = stft.synthesise(mask * spectra.sum(axis=0))[:samples]
        error = (estimate - target) ** 2
        tail = round(0.2 * 8192)
        # Less than twice the error; without the last frame it is some hundred times and more.
        assert error[-tail:].mean() < 2 * error[tail:-tail].mean()


@pytest.mark.parametrize(
    "arguments",
    [
        {"sample_rate": 0},
        {"sample_rate": 10**9},
        {"sample_rate": float("nan")},
        {"sample_rate": 8192.5},
        {"window_length": 2**31},
        {"window_length": 1024.0},
        {"hop_length": 1},
        {"hop_length": "256"},
        {"window_length": 7},
        {"hop_length": 1024},
        {"hop_length": 0},
        {"window_type": "hanning"},
    ],
)
def test_bad_arguments(arguments: dict) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(arguments))):
        STFT(**arguments)


def test_whole_numbers_are_no_audio() -> None:
    with pytest.raises(TypeError, match="audio must be floating point, got int16"):
        STFT().analyse(np.zeros(3000, np.int16))
