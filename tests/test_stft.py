import numpy as np
import pytest
import scipy.signal
import torch

from svs_unet_plugin import STFT


@pytest.mark.parametrize("samples", [1024, 8192, 10_000, 12_288])
@pytest.mark.parametrize("hop", [768, 256])
@pytest.mark.parametrize("kind", ["hann", "hamming", "blackman", "triang", "rectangular"])
def test_equals_scipy(samples: int, hop: int, kind: str) -> None:
    audio = np.random.default_rng(0).standard_normal((2, samples)).astype(np.float32)
    spectrum = STFT(hop_length=hop, window_type=kind).analyse(torch.from_numpy(audio)).numpy()
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
    audio = torch.rand(3, samples, dtype=torch.float64) - 0.5
    spectrum = stft.analyse(audio)
    assert spectrum.shape == (3, 513, stft.frames(samples))
    torch.testing.assert_close(stft.synthesise(spectrum)[:, :samples], audio, rtol=0, atol=1e-6)


def test_some_frames_are_those_frames() -> None:
    stft = STFT()
    audio = torch.rand(2, 20_000)
    frames = stft.frames(20_000)
    for first, last in [(0, 3), (5, 6), (frames - 2, frames), (0, frames)]:
        torch.testing.assert_close(stft.analyse(audio, first, last), stft.analyse(audio)[..., first:last])


def test_peak_of_a_sine_and_of_silence() -> None:
    # A full-scale sine on a bin reaches a quarter of the window: half for the sine, half for Hann's mean.
    sine = torch.sin(2 * torch.pi * 100 / 1024 * torch.arange(20_000, dtype=torch.float64))[None]
    assert STFT().peak(sine) == pytest.approx(256, rel=1e-3)
    assert STFT().peak(sine, chunk_frames=1) == pytest.approx(STFT().peak(sine), rel=1e-12)
    assert STFT().peak(torch.zeros(1, 5)) == 0


@pytest.mark.parametrize("hop", [768, 256])
def test_masks_do_as_well_at_the_end_as_in_the_middle(hop: int) -> None:
    """The two traps of a large hop: a tail that is divided by nothing, and gaps between windows."""
    generator = torch.Generator().manual_seed(0)
    stft = STFT(hop_length=hop)
    for samples in range(40_000, 40_000 + hop, 97):  # every way that a signal can end within a hop
        target, other = torch.randn(2, samples, generator=generator) * torch.tensor([[1.0], [0.3]])
        spectra = stft.analyse(torch.stack([target, other]))
        mask = spectra[0].abs() / spectra.abs().sum(dim=0)
        estimate = stft.synthesise(mask * spectra.sum(dim=0))[:samples]
        error = (estimate - target).square()
        tail = round(0.2 * 8192)
        # Less than twice the error; without the last frame it is some hundred times and more.
        assert error[-tail:].mean() < 2 * error[tail:-tail].mean()


@pytest.mark.parametrize(
    "arguments",
    [
        {"sample_rate": 0},
        {"sample_rate": 10**9},
        {"sample_rate": float("nan")},
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
