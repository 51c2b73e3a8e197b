"""What becomes of the mixture above the network's band: a source's share of it, over time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from svs_unet_plugin.stft import STFT

SILENCE = 1e-15
"""Power of a bin that weighs nothing beside anything that can be heard: -150 dB of the song's loudest."""


def treble_gain(masks: Tensor, magnitudes: Tensor) -> Tensor:
    """The gain of a source's highest octave of the band, at each frame.

    Args:
        masks: ``(estimated, channels, bins, frames)``.
        magnitudes: of the mixture, ``(channels, bins, frames)``, at most 1.

    Returns:
        ``(estimated, channels, frames)``, in [0, 1]: each mask's mean over the bins from half the band up,
        weighted by the mixture's power; the plain mean in silence, such as behind the last sample, since
        samples before it have a part of that gain.
    """
    power = magnitudes[:, magnitudes.shape[1] // 2 :].square() + SILENCE
    return (masks[:, :, -power.shape[1] :] * power).sum(-2) / power.sum(-2)


class Gain:
    """Gains that are known at a transform's frames: at any time lines between them, at any sample rate.

    Args:
        stft: the transform.
        rows: how many gains there are at a frame.
    """

    def __init__(self, stft: STFT, rows: int) -> None:
        self._stft = stft
        self._gains = torch.zeros(rows, 0)
        self._offset = 0  # the first frame that is kept

    def append(self, gains: Tensor) -> None:
        """Take the gains ``(rows, frames)`` of more frames; the first of them is the last one before."""
        self._gains = torch.cat([self._gains[:, :-1], gains], dim=-1)

    def close(self) -> None:
        """No more gains come: of a signal too short for a frame they are 0."""
        if self._gains.shape[-1] < 2:
            self._gains = torch.zeros(len(self._gains), 2)

    def at(self, start: int, end: int, sample_rate: int) -> Tensor:
        """The gains ``(rows, end - start)`` of samples at that rate; after the last frame it stays."""
        frame_length = self._stft.hop_length * sample_rate
        time = np.arange(start, end) * self._stft.sample_rate
        frame = np.minimum(time // frame_length, self._offset + self._gains.shape[-1] - 2).astype(np.int64)
        between = np.minimum((time - frame * frame_length) / frame_length, 1).astype(np.float32)
        index = torch.from_numpy(frame - self._offset)
        left, right = (self._gains.index_select(-1, index + next) for next in (0, 1))
        return torch.lerp(left, right, torch.from_numpy(between))

    def forget(self, before: int, sample_rate: int) -> None:
        """No samples of that rate before this one will be asked for."""
        frame = before * self._stft.sample_rate // (self._stft.hop_length * sample_rate)
        frame = min(frame, self._offset + self._gains.shape[-1] - 2)
        self._gains = self._gains[:, frame - self._offset :].clone()
        self._offset = frame
