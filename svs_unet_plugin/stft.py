"""8192 Hz analysis and synthesis: the one place with the STFT conventions.

In NumPy, for separation; `torch_stft` has the same for tensors. Frames are those of ``scipy.signal.stft``,
and so of nussl: periodic window, centred on multiples of the hop, zeros beyond both ends, and a last frame
at or after the last sample. That last frame matters. Plain ``torch.stft`` leaves it out, and its inverse
then divides the tail of the signal by a window sum that falls to nothing, which turns any error of a mask
there into a burst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from svs_unet_plugin.threads import each


def _cosines(*factors: float) -> Callable[[int], np.ndarray]:
    """A periodic window that is a sum of cosines, by their factors."""

    def window(length: int) -> np.ndarray:
        phase = 2 * np.pi * np.arange(length) / length
        cosines = [factor * np.cos(order * phase) for order, factor in enumerate(factors)]
        return np.sum(cosines, axis=0)

    return window


WINDOWS: dict[str, Callable[[int], np.ndarray]] = {
    "hann": _cosines(0.5, -0.5),
    "sqrt_hann": lambda length: np.sqrt(_cosines(0.5, -0.5)(length)),
    "hamming": _cosines(0.54, -0.46),
    "blackman": _cosines(0.42, -0.5, 0.08),
    "triang": lambda length: 1 - np.abs(np.arange(length) - length / 2) / (length / 2 + 1),
    "rectangular": np.ones,
}
"""The windows by nussl's names for them, periodic, from their length, which is even."""


HIGHEST_RATE = 768_000
"""In Hz. This and what follows keep a network of a file that is not trusted from taking all memory."""

LONGEST_WINDOW = 32_768
"""In samples."""

MOST_FRAMES = 128
"""That see a sample: so many are work enough, and no more than what the network sees around a chunk."""


FRAMES_AT_A_TIME = 256
"""Of an FFT: their megabyte, of windows of 1024 samples, stays in the processor's cache."""


@dataclass(frozen=True)
class STFT:
    """The short-time Fourier transform that a network was trained on.

    The defaults are those of Jansson et al. 2017. A hop of 256 has no gaps between its squared windows
    and so forgives more of a mask's errors, at three times the work.

    Args:
        sample_rate: in Hz, at most `HIGHEST_RATE`.
        window_length: of the periodic window, in samples; even, and at most `LONGEST_WINDOW`.
        hop_length: between frames, in samples; below the window length, so that every sample is seen, and at
            least the window length over `MOST_FRAMES`.
        window_type: one of `WINDOWS`.
        normalized: whether the network was trained on magnitudes that were divided by the song's largest;
            if not, on plain ones of scipy and nussl, which are divided by the sum of the window.

    Raises:
        TypeError: if a length is no whole number.
        ValueError: if an argument is out of its range.

    Example:
        >>> stft = STFT()
        >>> audio = np.random.default_rng(0).uniform(-1, 1, (2, 10_000)).astype(np.float32)
        >>> spectrum = stft.analyse(audio)
        >>> spectrum.shape
        (2, 513, 15)
        >>> np.allclose(stft.synthesise(spectrum)[:, :10_000], audio, atol=1e-5)
        True
    """

    sample_rate: int = 8192
    window_length: int = 1024
    hop_length: int = 768
    window_type: str = "hann"
    normalized: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.sample_rate <= HIGHEST_RATE:
            raise ValueError(f"sample_rate must lie from 1 to {HIGHEST_RATE} Hz, got {self.sample_rate}")
        if self.sample_rate % 1:
            raise ValueError(f"sample_rate must be a whole number of Hz, got {self.sample_rate}")
        for name in ("window_length", "hop_length"):
            if not isinstance(getattr(self, name), Integral):
                raise TypeError(f"{name} must be a whole number of samples, got {getattr(self, name)!r}")
        if not 2 <= self.window_length <= LONGEST_WINDOW or self.window_length % 2:
            raise ValueError(
                f"window_length must be an even number of samples up to {LONGEST_WINDOW}, "
                f"got {self.window_length}"
            )
        if not 1 <= self.hop_length < self.window_length:
            raise ValueError(
                f"hop_length must be at least 1 and below the window's {self.window_length} samples, "
                f"got {self.hop_length}"
            )
        if self.window_length > MOST_FRAMES * self.hop_length:
            raise ValueError(
                f"hop_length must be at least 1/{MOST_FRAMES} of the window's {self.window_length} samples, "
                f"got {self.hop_length}"
            )
        if self.window_type not in WINDOWS:
            raise ValueError(f"window_type must be one of {', '.join(WINDOWS)}, got {self.window_type!r}")

    @property
    def bins(self) -> int:
        """Frequencies of a frame, DC and Nyquist included."""
        return self.window_length // 2 + 1

    def frames(self, samples: int) -> int:
        """Frames of a signal of that many samples."""
        return -(-samples // self.hop_length) + 1

    def analyse(self, audio: np.ndarray, first: int = 0, last: int | None = None) -> np.ndarray:
        """The frames ``first`` to ``last`` (not included; all by default) of a signal.

        Args:
            audio: ``(..., samples)`` at `sample_rate`.

        Returns:
            ``(..., bins, frames)``, complex, not scaled: a full-scale sine reaches `window_length` / 4.

        Raises:
            TypeError: if the audio is not floating point.
        """
        if audio.dtype.kind != "f":
            raise TypeError(f"audio must be floating point, got {audio.dtype}")
        start, end = self.span(first, self.frames(audio.shape[-1]) if last is None else last)
        padded = np.zeros((*audio.shape[:-1], end - start), audio.dtype)
        inside = audio[..., max(start, 0) : end]
        padded[..., max(-start, 0) : max(-start, 0) + inside.shape[-1]] = inside
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.window_length, axis=-1)
        frames = frames[..., :: self.hop_length, :]
        spectrum = np.empty((*frames.shape[:-1], self.bins), np.result_type(audio.dtype, np.complex64))
        # By its default norm, NumPy (2.4) computes in double precision, in three times the time.
        window = (self.window() * self.window_length).astype(audio.dtype)

        def analyse_row(row: tuple[int, ...]) -> None:
            for block in blocks(frames.shape[-2]):
                np.fft.rfft(frames[row][block] * window, norm="forward", out=spectrum[row][block])

        each(analyse_row, np.ndindex(frames.shape[:-2]))
        return spectrum.swapaxes(-1, -2)

    def synthesise(self, spectrum: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
        """The signal from the centre of the first frame to the centre of the last.

        Least-squares inverse (D. Griffin, J. Lim: "Signal estimation from modified short-time Fourier
        transform", 1984, equation 6).

        Args:
            spectrum: ``(..., bins, frames)``, complex.
            masks: what it is multiplied by before, ``(..., bins, frames)``; nothing by default.

        Returns:
            ``(..., (frames - 1) * hop_length)``
        """
        if masks is None:
            masks = np.ones((1, 1), spectrum.real.dtype)
        shape = np.broadcast_shapes(spectrum.shape, masks.shape)
        # Bin beside bin in memory, as the inverse FFT takes them.
        spectra, factors = (np.broadcast_to(x, shape).swapaxes(-1, -2) for x in (spectrum, masks))
        count, hop = shape[-1], self.hop_length
        window = self.window().astype(np.result_type(spectrum.real, masks))
        weights = self._overlapped(np.broadcast_to(window**2, (count, self.window_length)))
        signal = np.zeros((*shape[:-2], len(weights)), window.dtype)

        def synthesise_row(row: tuple[int, ...]) -> None:
            for block in blocks(count):
                frames = np.fft.irfft(spectra[row][block] * factors[row][block], n=self.window_length)
                piece = self._overlapped(frames * window)
                signal[row][block.start * hop :][: len(piece)] += piece

        each(synthesise_row, np.ndindex(shape[:-2]))
        used = slice(self.window_length // 2, self.window_length // 2 + (count - 1) * hop)
        return signal[..., used] / weights[used]

    def _overlapped(self, frames: np.ndarray) -> np.ndarray:
        """Frames ``(frames, window_length)`` at their places and added up, from the start of the first."""
        hop, pieces = self.hop_length, -(-self.window_length // self.hop_length)
        total = np.zeros((len(frames) - 1 + pieces, hop), frames.dtype)
        for i in range(pieces):
            piece = frames[:, i * hop : (i + 1) * hop]
            total[i : i + len(frames), : piece.shape[1]] += piece
        return total.reshape(-1)

    def span(self, first: int, last: int) -> tuple[int, int]:
        """The samples of the frames ``first`` to ``last`` (not included), also beyond a signal's ends."""
        half = self.window_length // 2
        return first * self.hop_length - half, (last - 1) * self.hop_length + half

    def divisor(self, peak: float) -> float:
        """What magnitudes are divided by before the network sees them.

        Args:
            peak: the largest magnitude of the *mixture*, by which sources are divided, too.
        """
        return peak if self.normalized else float(self.window().sum())

    def window(self) -> np.ndarray:
        """The window ``(window_length,)``."""
        return WINDOWS[self.window_type](self.window_length)


def blocks(frames: int) -> Iterator[slice]:
    """So many frames, `FRAMES_AT_A_TIME`."""
    for start in range(0, frames, FRAMES_AT_A_TIME):
        yield slice(start, min(start + FRAMES_AT_A_TIME, frames))


def network_magnitudes(spectrum: Any, in_channels: int) -> Any:
    """What a network of one or two channels sees of a spectrum ``(..., channels, bins, frames)``."""
    return abs(spectrum) if in_channels == 1 else stereo_magnitudes(spectrum)


def stereo_magnitudes(spectrum: Any) -> Any:
    """What a network of two channels sees: the magnitudes of left, right, mid and side.

    Mid and side are half of the channels' sum and difference.

    Args:
        spectrum: an array or a tensor ``(..., channels, bins, frames)``, complex; one channel is left and
            right at once.

    Returns:
        ``(..., 4, bins, frames)``
    """
    left, right = spectrum[..., 0, :, :], spectrum[..., -1, :, :]
    if isinstance(spectrum, np.ndarray):
        stack = np.stack
    else:
        from torch import stack  # type: ignore[assignment]
    return stack([abs(left), abs(right), abs(left + right) / 2, abs(left - right) / 2], -3)
