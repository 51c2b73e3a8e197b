"""BSS Eval, by the field's own implementations, and the ideal ratio mask to compare with.

E. Vincent, R. Gribonval, C. Févotte: "Performance measurement in blind audio source separation", IEEE
Transactions on Audio, Speech, and Language Processing, 2006.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch

from svs_unet_plugin import audio
from svs_unet_plugin.stft import STFT


@dataclass(frozen=True)
class Scores:
    """Ratios in dB, an array ``(sources,)`` each: signal to distortion, interference and artefacts."""

    sdr: np.ndarray
    sir: np.ndarray
    sar: np.ndarray


def sdr(references: np.ndarray, estimates: np.ndarray) -> np.ndarray:
    """Signal-to-distortion ratios of whole songs in dB: energy of the source over that of the error.

    Y. Mitsufuji et al.: "Music Demixing Challenge 2021", 2022, equation 1.

    Args:
        references, estimates: ``(sources, channels, samples)``.

    Returns:
        ``(sources,)``
    """
    error = references - estimates
    return 10 * np.log10((references**2).sum(axis=(1, 2)) / (error**2).sum(axis=(1, 2)))


def bss_eval_v3(references: np.ndarray, estimates: np.ndarray) -> Scores:
    """Scores of whole signals by mir_eval, each estimate against the reference of its place.

    Args:
        references, estimates: ``(sources, samples)``, with no silent signal among them.
    """
    from mir_eval.separation import bss_eval_sources

    with warnings.catch_warnings():  # it leaves mir_eval with 0.9, and setup.py keeps 0.8
        warnings.simplefilter("ignore", FutureWarning)
        sdr, sir, sar, _ = bss_eval_sources(references, estimates, compute_permutation=False)
    return Scores(sdr, sir, sar)


def bss_eval_v4(references: np.ndarray, estimates: np.ndarray, sample_rate: int) -> Scores:
    """Scores by museval: the median over windows of one second, without those where a source is silent.

    F.-R. Stöter, A. Liutkus, N. Ito: "The 2018 signal separation evaluation campaign", 2018.

    Take the rate that the references were recorded at: where resampling has left nothing below Nyquist, the
    filters by which SIR and SAR are told apart are not determined.

    Args:
        references, estimates: ``(sources, channels, samples)``.
        sample_rate: in Hz.

    Raises:
        ValueError: if a signal is silent from beginning to end.
    """
    import museval

    sdr, _, sir, sar = museval.evaluate(
        references.swapaxes(1, 2), estimates.swapaxes(1, 2), win=sample_rate, hop=sample_rate
    )
    return Scores(*(np.nanmedian(values, axis=1) for values in (sdr, sir, sar)))


def ideal_ratio_mask(references: np.ndarray, sample_rate: int, stft: STFT) -> np.ndarray:
    """What a network of that transform would estimate if its masks were right: |source| / Σ |source|.

    Args:
        references: ``(sources, channels, samples)`` that add up to the mixture.
        sample_rate: in Hz.

    Returns:
        Estimates ``(sources, channels, samples)`` at the same rate, of what the transform's rate can hold.
    """
    samples = references.shape[-1]
    low = audio.resample(references.astype(np.float32), sample_rate, stft.sample_rate)
    spectra = stft.analyse(torch.from_numpy(low))
    magnitudes = spectra.abs()
    masks = magnitudes / magnitudes.sum(dim=0).clamp_min(torch.finfo(magnitudes.dtype).tiny)
    estimates = stft.synthesise(masks * spectra.sum(dim=0))[..., : low.shape[-1]]
    high = audio.resample(estimates.numpy(), stft.sample_rate, sample_rate)[..., :samples]
    return np.pad(high, ((0, 0), (0, 0), (0, samples - high.shape[-1])))
