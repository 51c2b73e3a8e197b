"""What becomes of the mixture above the network's band: a source's share of it, over time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from svs_unet_plugin.stft import STFT

SILENCE = 1e-15
"""Power of a bin that weighs nothing beside anything that can be heard: -150 dB of the song's loudest."""


def treble_gain(masks: np.ndarray, magnitudes: np.ndarray) -> np.ndarray:
    """The gain of a source's highest octave of the band, at each frame.

    Args:
        masks: ``(estimated, channels, bins, frames)``.
        magnitudes: of the mixture, ``(channels, bins, frames)``, at most 1.

    Returns:
        ``(estimated, channels, frames)``, in [0, 1]: each mask's mean over the bins from half the band up,
        weighted by the mixture's power; the plain mean in silence, such as behind the last sample, since
        samples before it have a part of that gain.
    """
    power = magnitudes[:, magnitudes.shape[1] // 2 :] ** 2 + np.float32(SILENCE)
    gain: np.ndarray = (masks[:, :, -power.shape[1] :] * power).sum(-2) / power.sum(-2)
    return gain


class Gain:
    """Gains that are known at a transform's frames: at any time lines between them, at any sample rate.

    Args:
        stft: the transform.
        rows: how many gains there are at a frame.
    """

    def __init__(self, stft: STFT, rows: int) -> None:
        self._stft = stft
        self._gains = np.zeros((rows, 0), np.float32)
        self._offset = 0  # the first frame that is kept

    def append(self, gains: np.ndarray) -> None:
        """Take the gains ``(rows, frames)`` of more frames; the first of them is the last one before."""
        self._gains = np.concatenate([self._gains[:, :-1], gains], axis=-1)

    def close(self) -> None:
        """No more gains come: of a signal too short for a frame they are 0."""
        if self._gains.shape[-1] < 2:
            self._gains = np.zeros((len(self._gains), 2), np.float32)

    def at(self, start: int, end: int, sample_rate: int) -> np.ndarray:
        """The gains ``(rows, end - start)`` of samples at that rate; after the last frame it stays."""
        rate, frame_length = self._stft.sample_rate, self._stft.hop_length * sample_rate
        frames = np.arange(start * rate // frame_length, (end - 1) * rate // frame_length + 1)
        bounds = np.array([start, *-(-frames[1:] * frame_length // rate), end])  # around the samples of each
        here, there = np.minimum([frames, frames + 1], self._offset + self._gains.shape[1] - 1) - self._offset
        steps = self._gains[:, there] - self._gains[:, here]
        since = (bounds[:-1] * (rate / frame_length) - frames).astype(np.float32)
        firsts = self._gains[:, here] + steps * since
        ramp = np.arange(np.diff(bounds).max(), dtype=np.float32) * np.float32(rate / frame_length)
        lines = steps[..., None] * ramp
        lines += firsts[..., None]
        joined = np.empty((len(lines), end - start), np.float32)
        for i, (begin, stop) in enumerate(pairwise(bounds - start)):
            joined[:, begin:stop] = lines[:, i, : stop - begin]
        return joined

    def forget(self, before: int, sample_rate: int) -> None:
        """No samples of that rate before this one will be asked for."""
        frame = before * self._stft.sample_rate // (self._stft.hop_length * sample_rate)
        frame = min(frame, self._offset + self._gains.shape[-1] - 2)
        self._gains = self._gains[:, frame - self._offset :].copy()
        self._offset = frame
