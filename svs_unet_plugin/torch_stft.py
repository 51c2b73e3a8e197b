"""What `STFT` does, for tensors: differentiable, and on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from svs_unet_plugin.stft import STFT


def analyse(stft: STFT, audio: Tensor) -> Tensor:
    """`STFT.analyse` of a whole signal ``(..., samples)``: ``(..., bins, frames)``."""
    samples = audio.shape[-1]
    start, end = stft.span(0, stft.frames(samples))
    return frames(stft, F.pad(audio, (-start, end - samples)))


def frames(stft: STFT, audio: Tensor) -> Tensor:
    """The frames ``(..., bins, frames)`` that lie wholly within a signal ``(..., samples)``."""
    spectrum = torch.stft(
        audio.reshape(-1, audio.shape[-1]),
        n_fft=stft.window_length,
        hop_length=stft.hop_length,
        window=window(stft, audio),
        center=False,
        return_complex=True,
    )
    return spectrum.reshape(*audio.shape[:-1], *spectrum.shape[-2:])


def synthesise(stft: STFT, spectrum: Tensor) -> Tensor:
    """`STFT.synthesise` of ``(..., bins, frames)``: ``(..., (frames - 1) * hop_length)``."""
    audio = torch.istft(
        spectrum.reshape(-1, *spectrum.shape[-2:]),
        n_fft=stft.window_length,
        hop_length=stft.hop_length,
        window=window(stft, spectrum.real),
        center=True,
    )
    return audio.reshape(*spectrum.shape[:-2], audio.shape[-1])


def window(stft: STFT, like: Tensor) -> Tensor:
    """The window ``(window_length,)``, of another tensor's type and on its device."""
    return torch.from_numpy(stft.window()).to(like)
