"""Metrics, by the field's own implementations where these need no host.

E. Vincent, R. Gribonval, C. Févotte: "Performance measurement in blind audio source separation", IEEE
Transactions on Audio, Speech, and Language Processing, 2006: BSS Eval.
F.-R. Stöter, A. Liutkus, N. Ito: "The 2018 signal separation evaluation campaign", 2018: BSS Eval v4.
J. Le Roux, S. Wisdom, H. Erdogan, J. R. Hershey: "SDR – half-baked or well done?", ICASSP 2019: SI-SDR and
others.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from svs_unet_plugin.module_view import module_view

BSS_METRICS = ("SDR", "SIR", "ISR", "SAR")
"""Of BSS Eval v4 by museval."""

SCALE_METRICS = ("SI-SDR", "SI-SIR", "SI-SAR", "SD-SDR", "SNR", "SRR", "SI-SDRi", "SD-SDRi", "SNRi")
"""Of `scale_scores`; an ``i`` at the end is for improvement over the mixture."""

TARGETS = ("vocals", "drums", "bass", "other", "accompaniment")
"""Sources as musdb orders its targets, which is the order in museval's files."""

LARGEST_CONDITION = 1e12
"""Of the sources' correlations; above it, what tells a source from the others is rounding, −120 dB of it."""


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


def museval_scores(
    track: str, references: Mapping[str, np.ndarray], estimates: Mapping[str, np.ndarray], sample_rate: int
) -> Any:
    """museval's ``TrackStore`` of a track, as ``museval.eval_mus_track`` makes it.

    museval refuses silence, and so a source or an estimate that is silent from beginning to end gets NaN.
    The others' scores are not touched by that: nothing can be a distortion that sounds like silence.

    Args:
        references, estimates: ``(channels, samples)`` by source.
        sample_rate: in Hz.
    """
    museval = import_museval()

    @dataclass(frozen=True)
    class Target:
        audio: np.ndarray

    @dataclass(frozen=True)
    class MusdbTrack:
        name: str
        rate: int
        targets: dict[str, Target]

    wanted = [name for name in in_order(references) if name in estimates]
    heard = [name for name in wanted if references[name].any()]
    if not {"vocals", "accompaniment"} <= set(heard):  # one of them alone is no comparison
        heard = [name for name in heard if name != "accompaniment"]
    targets = {name: Target(references[name].T) for name in heard}
    shown = {
        name: (estimates[name] if estimates[name].any() else references[name]).T for name in heard
    }  # a score depends on one estimate, but on all references
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means over windows in which there is nothing
        warnings.simplefilter("ignore", UserWarning)  # that one source is no comparison
        store = museval.eval_mus_track(MusdbTrack(track, sample_rate, targets), shown)
    unscored = {name for name in wanted if name not in heard or not estimates[name].any()}
    unscored |= set(wanted) - {found["name"] for found in store.scores["targets"]}  # museval leaves one out
    store.scores["targets"] = [found for found in store.scores["targets"] if found["name"] not in unscored]
    windows = max(references[wanted[0]].shape[1] // sample_rate, 1)
    for name in wanted:
        if name in unscored:
            store.add_target(name, dict.fromkeys(BSS_METRICS, [np.nan] * windows))
    store.validate()
    return store


def scale_scores(
    references: Mapping[str, np.ndarray], estimates: Mapping[str, np.ndarray]
) -> dict[str, dict[str, list[float]]]:
    """`SCALE_METRICS` in dB for each channel, as nussl's BSSEvalScale has them; NaN where one is not defined.

    A source that is silent has none, and what is silent in one channel leaves SI-SIR and SI-SAR undefined, as
    do sources of which one is made of the others.

    Args:
        references, estimates: ``(channels, samples)`` by source; the references add up to the mixture.
    """
    names = in_order(references)
    heard = [name for name in names if references[name].any()]
    channels = len(references[names[0]])
    undefined = {name: dict.fromkeys(SCALE_METRICS, [np.nan] * channels) for name in names}
    if not heard:
        return undefined

    def centred(signals: Mapping[str, np.ndarray]) -> np.ndarray:
        """``(channels, samples, sources)`` without their means."""
        stacked = np.stack([signals[name] for name in heard], axis=-1).astype(np.float64)
        return stacked - stacked.mean(axis=1, keepdims=True)

    true, estimated = centred(references), centred(estimates)
    mixture = true.sum(axis=-1)
    found = dict(undefined)
    with np.errstate(divide="ignore", invalid="ignore"):
        grams = np.stack([sources.T @ sources for sources in true])
        levels = np.sqrt(np.diagonal(grams, axis1=1, axis2=2))
        correlations = grams / (levels[:, :, None] * levels[:, None, :])
        determined = levels.all() and (np.linalg.cond(correlations) < LARGEST_CONDITION).all()
        for row, name in enumerate(heard):
            columns = []
            for channel in range(channels):
                sources, estimate = true[channel], estimated[channel, :, row]
                own = _scale(sources[:, row], estimate)
                before = _scale(sources[:, row], mixture[channel])
                sir = sar = np.nan
                if determined:
                    error = estimate - own["alpha"] * sources[:, row]
                    interference = sources @ np.linalg.solve(grams[channel], sources.T @ error)
                    signal = _energy(own["alpha"] * sources[:, row])
                    sir = _decibels(signal, _energy(interference))
                    sar = _decibels(signal, _energy(error - interference))
                improvements = {f"{key}i": own[key] - before[key] for key in ("SI-SDR", "SD-SDR", "SNR")}
                columns.append({**own, "SI-SIR": sir, "SI-SAR": sar, **improvements})
            found[name] = {
                metric: [float(c[metric]) if np.isfinite(c[metric]) else np.nan for c in columns]
                for metric in SCALE_METRICS
            }
    return found


def in_order(sources: Mapping[str, Any]) -> list[str]:
    """The names of sources in the order of `TARGETS`."""
    return [name for name in TARGETS if name in sources]


def _scale(source: np.ndarray, estimate: np.ndarray) -> dict[str, float]:
    """Ratios of one estimate, and the gain ``alpha`` by which it has the source."""
    alpha = source @ estimate / _energy(source)
    snr = _decibels(_energy(source), _energy(estimate - source))
    return {
        "alpha": alpha,
        "SNR": snr,
        "SI-SDR": _decibels(_energy(alpha * source), _energy(estimate - alpha * source)),
        "SD-SDR": snr + _decibels(alpha**2, 1.0),
        "SRR": -_decibels((1 - 1 / alpha) ** 2, 1.0),
    }


def _energy(signal: np.ndarray) -> float:
    return (signal**2).sum()


def _decibels(signal: float, noise: float) -> float:
    return 10 * np.log10(signal / noise)


def import_museval() -> ModuleType:
    """museval, repaired for everybody in the process.

    NumPy 2.0 removed ``np.linalg.linalg``, where museval looks for the ``LinAlgError`` of a singular system.
    """
    museval = importlib.import_module("museval")
    metrics = importlib.import_module("museval.metrics")
    if not hasattr(metrics.np.linalg, "linalg"):
        linalg = module_view(np.linalg, linalg=np.linalg)
        metrics.np = module_view(np, linalg=linalg)  # type: ignore[attr-defined]
    return museval
