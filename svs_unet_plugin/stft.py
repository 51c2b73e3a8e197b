"""8192 Hz analysis and synthesis: the one place with the STFT conventions.

Frames are those of ``scipy.signal.stft``, and so of nussl: periodic window, centred on multiples of the
hop, zeros beyond both ends, and a last frame at or after the last sample. That last frame matters. Plain
``torch.stft`` leaves it out, and its inverse then divides the tail of the signal by a window sum that
falls to nothing, which turns any error of a mask there into a burst.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOWS: dict[str, Callable[..., Tensor]] = {
    "hann": torch.hann_window,
    "sqrt_hann": lambda length, **kind: torch.hann_window(length, **kind).sqrt(),
    "hamming": torch.hamming_window,
    "blackman": torch.blackman_window,
    "triang": lambda length, **kind: 1 - (torch.arange(length, **kind) - length / 2).abs() / (length / 2 + 1),
    "rectangular": torch.ones,
}
"""The windows by nussl's names for them, periodic, from their length (even) and torch's dtype and device."""


HIGHEST_RATE = 768_000
"""In Hz. This and what follows keep a network of a file that is not trusted from taking all memory."""

LONGEST_WINDOW = 32_768
"""In samples."""

MOST_FRAMES = 128
"""That see a sample: so many are work enough, and no more than what the network sees around a chunk."""


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
        >>> audio = torch.rand(2, 10_000)
        >>> spectrum = stft.analyse(audio)
        >>> spectrum.shape
        torch.Size([2, 513, 15])
        >>> bool(torch.allclose(stft.synthesise(spectrum)[:, :10_000], audio, atol=1e-5))
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

    def analyse(self, audio: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """The frames ``first`` to ``last`` (not included; all by default) of a signal.

        Args:
            audio: ``(..., samples)`` at `sample_rate`.

        Returns:
            ``(..., bins, frames)``, complex, not scaled: a full-scale sine reaches `window_length` / 4.
        """
        last = self.frames(audio.shape[-1]) if last is None else last
        start = first * self.hop_length - self.window_length // 2
        end = (last - 1) * self.hop_length + self.window_length // 2
        inside = audio[..., max(start, 0) : end]
        beyond = end - max(start, 0) - inside.shape[-1]
        padded = F.pad(inside, (max(-start, 0), beyond))
        spectrum = torch.stft(
            padded.reshape(-1, padded.shape[-1]),
            n_fft=self.window_length,
            hop_length=self.hop_length,
            window=self.window(audio),
            center=False,
            return_complex=True,
        )
        return spectrum.reshape(*audio.shape[:-1], *spectrum.shape[-2:])

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """The signal from the centre of the first frame to the centre of the last.

        Least-squares inverse (D. Griffin, J. Lim: "Signal estimation from modified short-time Fourier
        transform", 1984, equation 6).

        Args:
            spectrum: ``(..., bins, frames)``, complex.

        Returns:
            ``(..., (frames - 1) * hop_length)``
        """
        window = self.window(spectrum.real)
        audio = torch.istft(
            spectrum.reshape(-1, *spectrum.shape[-2:]),
            n_fft=self.window_length,
            hop_length=self.hop_length,
            window=window,
            center=True,
        )
        return audio.reshape(*spectrum.shape[:-2], audio.shape[-1])

    def peak(self, audio: Tensor, chunk_frames: int = 4096) -> float:
        """The largest magnitude of a signal's STFT over all channels; 0.0 for silence.

        Magnitudes are divided by this number of the *mixture* before the network sees them, sources by
        the same one, unless `normalized` says otherwise.
        """
        frames = self.frames(audio.shape[-1])
        return max(
            float(self.analyse(audio, first, min(first + chunk_frames, frames)).abs().max())
            for first in range(0, frames, chunk_frames)
        )

    def divisor(self, peak: float) -> float:
        """What magnitudes are divided by before the network sees them, from what `peak` says."""
        return peak if self.normalized else float(self.window(torch.empty(0)).sum())

    def window(self, like: Tensor) -> Tensor:
        """The window ``(window_length,)``, of another tensor's type and on its device."""
        return WINDOWS[self.window_type](self.window_length, dtype=like.dtype, device=like.device)


def network_magnitudes(spectrum: Tensor, in_channels: int) -> Tensor:
    """What a network of one or two channels sees of a spectrum ``(..., channels, bins, frames)``."""
    return spectrum.abs() if in_channels == 1 else stereo_magnitudes(spectrum)


def stereo_magnitudes(spectrum: Tensor) -> Tensor:
    """What a network of two channels sees: the magnitudes of left, right, mid and side.

    Mid and side are half of the channels' sum and difference.

    Args:
        spectrum: ``(..., channels, bins, frames)``, complex; one channel is left and right at once.

    Returns:
        ``(..., 4, bins, frames)``
    """
    left, right = spectrum[..., 0, :, :], spectrum[..., -1, :, :]
    return torch.stack([left, right, (left + right) / 2, (left - right) / 2], dim=-3).abs()
