"""What separation lies between: the mixture as it is, and the masks that the true sources would give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svs_unet_plugin import audio
from svs_unet_plugin.corpora.musdb import STEMS
from svs_unet_plugin.evaluation.runner import Entry, Separate, Song
from svs_unet_plugin.evaluation.store import System
from svs_unet_plugin.stft import STFT


def ideal_ratio_mask(references: np.ndarray, sample_rate: int, stft: STFT) -> np.ndarray:
    """What a network of a transform would estimate if its masks were right: |source| / Σ |source|.

    Unlike an ideal ratio mask at the songs' own rate, as nussl has it, this has nothing above the
    transform's band.

    Args:
        references: ``(sources, channels, samples)`` that add up to the mixture.
        sample_rate: in Hz.

    Returns:
        Estimates ``(sources, channels, samples)`` at the same rate, of what the transform's rate can hold.
    """
    low = audio.resample(references.astype(np.float32), sample_rate, stft.sample_rate)
    spectra = stft.analyse(low)
    magnitudes = np.abs(spectra)
    masks = magnitudes / np.maximum(magnitudes.sum(axis=0), np.finfo(magnitudes.dtype).tiny)
    estimates = stft.synthesise(masks * spectra.sum(axis=0))[..., : low.shape[-1]]
    return audio.resample(estimates, stft.sample_rate, sample_rate, references.shape[-1])


@dataclass(frozen=True)
class IdealRatioMask:
    """`ideal_ratio_mask` of vocals and accompaniment, as a system."""

    stft: STFT

    def __call__(self, song: Song) -> dict[str, np.ndarray]:
        names = ("vocals", "accompaniment")
        references = np.stack([song.sources[name] for name in names])
        estimates = ideal_ratio_mask(references, song.sample_rate, self.stft)
        return dict(zip(names, estimates, strict=True))

    def load(self) -> Separate:
        return self

    def entry(self) -> Entry:
        """As it takes part in a comparison."""
        rate = self.stft.sample_rate
        system = System(f"irm-{rate}", f"Ideal ratio mask, {rate} Hz, hop {self.stft.hop_length}", "oracle")
        return Entry(system, self.load, str(self.stft))


def mixture_as_estimate(song: Song) -> dict[str, np.ndarray]:
    """The mixture for every source: what a system is to improve on."""
    return dict.fromkeys((*STEMS, "accompaniment"), song.mixture)


def _load_mixture() -> Separate:
    return mixture_as_estimate


MIXTURE = Entry(System("mixture", "Mixture", "bound"), _load_mixture, "the mixture")
"""The mixture as it takes part in a comparison."""
