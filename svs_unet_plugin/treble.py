"""What becomes of the mixture above the network's band: a source's share of it, over time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from svs_unet_plugin.stft import STFT


def treble_gain(masks: Tensor, magnitudes: Tensor) -> Tensor:
    """The gain of a source's highest octave of the band, at each frame.

    Args:
        masks: ``(estimated, channels, bins, frames)``.
        magnitudes: of the mixture, ``(channels, bins, frames)``, at most 1.

    Returns:
        ``(estimated, channels, frames)``, in [0, 1]: each mask's mean over the bins from half the band up,
        weighted by the mixture's power.
    """
    power = magnitudes[:, magnitudes.shape[1] // 2 :].square()
    return (masks[:, :, -power.shape[1] :] * power).sum(-2) / power.sum(-2).clamp_min(1e-12)


class Gain:
    """Gains that are known at a transform's frames: at any time lines between them, at any sample rate.

    Args:
        stft: the transform.
        chunk_frames: frames from the first of a chunk to the first of the next.
    """

    def __init__(self, stft: STFT, chunk_frames: int) -> None:
        self._stft = stft
        self._chunk_frames = chunk_frames
        self._chunks: list[Tensor] = []

    def append(self, gains: Tensor) -> None:
        """Take a chunk's gains ``(rows, frames)``, with that at the first frame of the next chunk."""
        self._chunks.append(gains)

    def at(self, start: int, end: int, sample_rate: int) -> Tensor:
        """The gains ``(rows, end - start)`` of samples at that rate; after the last frame it stays."""
        frame_length = self._stft.hop_length * sample_rate
        intervals = (len(self._chunks) - 1) * self._chunk_frames + self._chunks[-1].shape[-1] - 1
        time = np.arange(start, end) * self._stft.sample_rate
        frame = np.minimum(time // frame_length, intervals - 1).astype(np.int64)
        between = np.minimum((time - frame * frame_length) / frame_length, 1).astype(np.float32)
        first, last = frame[0] // self._chunk_frames, frame[-1] // self._chunk_frames
        chunks = self._chunks[first : last + 1]
        index = torch.from_numpy(frame - first * self._chunk_frames)
        left = torch.cat([gains[:, :-1] for gains in chunks], dim=-1).index_select(-1, index)
        right = torch.cat([gains[:, 1:] for gains in chunks], dim=-1).index_select(-1, index)
        return torch.lerp(left, right, torch.from_numpy(between))
