"""Pitched sound from one stored period, and the slow curves that steer it."""

import numpy as np
from scipy.fft import irfft
from scipy.ndimage import gaussian_filter1d

CONTROL_RATE = 200
"""Points a second at which pitch, loudness and formants are drawn before they are read at the audio rate."""

TABLE_SIZE = 16384
"""Points in a stored period: enough that reading the nearest one adds noise only far below the harmonics."""


def wavetable(harmonics: np.ndarray) -> np.ndarray:
    """Return one period of the sound with these complex amplitudes, at an RMS of 1.

    Args:
        harmonics: ``(harmonics,)`` complex or real, the fundamental first.

    Returns:
        ``(TABLE_SIZE,)`` float32.
    """
    spectrum = np.zeros(TABLE_SIZE // 2 + 1, complex)
    spectrum[1 : len(harmonics) + 1] = harmonics
    period = irfft(spectrum)
    return (period / np.sqrt(np.mean(period**2))).astype(np.float32)


def oscillate(table: np.ndarray, frequency: np.ndarray, sample_rate: int) -> np.ndarray:
    """Read a period again and again at a moving frequency.

    Args:
        table: ``(points,)``, from `wavetable`.
        frequency: ``(samples,)``, in Hz.
        sample_rate: in Hz.

    Returns:
        ``(samples,)`` float32.
    """
    cycles = np.cumsum(frequency / sample_rate)
    return table[((cycles % 1.0) * len(table)).astype(np.int32)]


def hertz(midi: np.ndarray) -> np.ndarray:
    """Return the frequency in Hz of MIDI note numbers (69 is A4, 440 Hz)."""
    return 440.0 * 2.0 ** ((midi - 69.0) / 12.0)


def smooth(curve: np.ndarray, seconds: float) -> np.ndarray:
    """Blur control curves ``(points, ...)`` over time by a Gaussian of this deviation."""
    return gaussian_filter1d(curve, seconds * CONTROL_RATE, axis=0, mode="nearest")


def wander(rng: np.random.Generator, points: int, seconds: float) -> np.ndarray:
    """Return a random control curve ``(points,)`` of deviation 1 whose changes take about ``seconds``."""
    sigma = seconds * CONTROL_RATE
    # A Gaussian blur of deviation sigma leaves 1 / (2 sqrt(pi) sigma) of white noise's variance.
    return smooth(rng.standard_normal(points), seconds) * np.sqrt(2.0 * np.sqrt(np.pi) * sigma)


def to_audio(curve: np.ndarray, samples: int, sample_rate: int) -> np.ndarray:
    """Read a control curve ``(points,)`` at the audio rate -> ``(samples,)``."""
    return np.interp(np.arange(samples) * (CONTROL_RATE / sample_rate), np.arange(len(curve)), curve)
