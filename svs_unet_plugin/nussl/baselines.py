"""What a trained network is compared with: nussl's classical separators and oracles behind one table.

Two separators for four stems are added to nussl's: `HPSSBassRepetSim` and `FrequencyInformedNMF`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from svs_unet_plugin.corpora.musdb import STEMS
from svs_unet_plugin.nussl import compat

nussl = compat.import_nussl()
_primitive, _benchmark = nussl.separation.primitive, nussl.separation.benchmark

BASS_HZ = 200.0
"""What is steady and lies below belongs to the bass: its fundamentals reach from 40 Hz to some 250 Hz."""

LOWEST_VOICE_HZ = 100.0
"""What lies below is not looked for in the vocals, as in all of nussl's separators."""

EDGES_HZ = (400.0, 1500.0, 6000.0)
"""Between the ranges of `FrequencyInformedNMF`: low notes; most fundamentals; formants; sibilants and air."""

COMPONENTS = 16
"""Of each range."""

LEAST_PERIOD = 0.8
"""Seconds after which music may repeat; what comes back sooner is a note that lasts."""

SHORT_WINDOW_SECONDS = 1024 / 44_100
"""RPCA decomposes the whole spectrogram again and again; with nussl's window it takes five times as long."""


class _FourStems(nussl.separation.MaskSeparationBase):  # type: ignore[name-defined]
    """Masks for `STEMS`, in this order, that add up to one."""

    def run(self) -> list[Any]:
        """Make the masks."""
        masks = np.stack(self._soft_masks(np.abs(self.stft)), axis=-1)
        if self.mask_type == self.MASKS["binary"]:
            masks = masks.argmax(axis=-1, keepdims=True) == np.arange(len(STEMS))
        self.result_masks = [self.mask_type(masks[..., i]) for i in range(len(STEMS))]
        return self.result_masks

    def _soft_masks(self, magnitudes: np.ndarray) -> tuple[np.ndarray, ...]:
        """A mask ``(bins, frames, channels)`` for each of `STEMS`, from magnitudes of that shape."""
        raise NotImplementedError

    def _harmonic(self) -> np.ndarray:
        """How much of each bin is harmonic rather than percussive, ``(bins, frames, channels)``."""
        return _primitive.HPSS(self.audio_signal).run()[0].mask


class HPSSBassRepetSim(_FourStems):
    """Drums by median filters, bass by a low-pass filter, and of the rest the vocals by REPET-SIM.

    What HPSS takes for percussive are the drums (D. Fitzgerald: "Harmonic/percussive separation using median
    filtering", DAFx 2010). Of the harmonic part, what lies below `BASS_HZ` is the bass (a Butterworth
    response of 4th order), what does not repeat the vocals (Z. Rafii, B. Pardo: "Music/voice separation using
    the similarity matrix", ISMIR 2012), and what does the other instruments.

    Args:
        input_audio_signal: a ``nussl.AudioSignal``.
        mask_type: ``"soft"``, or ``"binary"`` for all of a bin to the stem with the largest mask.
    """

    def _soft_masks(self, magnitudes: np.ndarray) -> tuple[np.ndarray, ...]:
        harmonic = self._harmonic()
        low = _low_pass(self.audio_signal.freq_vector)[:, None, None]
        unique = _primitive.RepetSim(self.audio_signal, high_pass_cutoff=LOWEST_VOICE_HZ).run()[1].mask
        rest = harmonic * (1 - low)
        return 1 - harmonic, harmonic * low, rest * (1 - unique), rest * unique


class FrequencyInformedNMF(_FourStems):
    """Drums by median filters, and the rest by NMF, a factorisation for each range of frequencies.

    What HPSS takes for percussive are the drums. The harmonic part is cut at `EDGES_HZ`, and the magnitudes
    of all channels of each range are factorised into `COMPONENTS` spectra and their levels over time
    (D. Lee, H. Seung: "Algorithms for non-negative matrix factorization", 2001, with the Kullback-Leibler
    divergence). A component of the lowest range belongs to the bass as far as its mean frequency lies below
    `BASS_HZ`. Otherwise it belongs to the other instruments as far as its level repeats itself, by its
    autocorrelation, and else to the vocals. The masks are shares of the components' sum.

    Args:
        input_audio_signal: a ``nussl.AudioSignal``.
        mask_type: ``"soft"``, or ``"binary"`` for all of a bin to the stem with the largest mask.
    """

    def _soft_masks(self, magnitudes: np.ndarray) -> tuple[np.ndarray, ...]:
        harmonic = self._harmonic()
        frequencies = self.audio_signal.freq_vector
        lag = LEAST_PERIOD * self.audio_signal.sample_rate / self.stft_params.hop_length
        shares = np.zeros((3, *magnitudes.shape))  # of vocals, bass, other in the harmonic part
        shares[2] = 1  # where there is nothing to go by
        for lower, upper in pairwise((0.0, *EDGES_HZ, np.inf)):
            inside = (frequencies >= lower) & (frequencies < upper)
            part = (harmonic * magnitudes)[inside]  # (bins, frames, channels)
            if not part.any():
                continue
            spectra, levels = _factorise(part)
            bass = _low_pass(frequencies[inside] @ spectra / spectra.sum(axis=0)) if lower == 0 else 0.0
            repeats = np.array([_repetition(level.sum(axis=-1), lag) for level in levels])
            weights = np.stack([(1 - bass) * (1 - repeats), bass + 0 * repeats, (1 - bass) * repeats])
            parts = np.einsum("sk,bk,kfc->sbfc", weights, spectra, levels)
            parts[2] += 1e-9 * parts.max()
            shares[:, inside] = parts / parts.sum(axis=0)
        vocals, bass, other = shares * harmonic
        return 1 - harmonic, bass, other, vocals


def _low_pass(frequencies: np.ndarray) -> np.ndarray:
    """The power response of a Butterworth filter of 4th order at `BASS_HZ`."""
    return 1 / (1 + (frequencies / BASS_HZ) ** 8)


def _factorise(magnitudes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factorise ``(bins, frames, channels)``.

    Returns:
        Spectra ``(bins, components)`` and levels ``(components, frames, channels)``.
    """
    bins, frames, channels = magnitudes.shape
    data = magnitudes.reshape(bins, frames * channels)
    model = nussl.ml.NMF(
        min(COMPONENTS, *data.shape),
        beta_loss="kullback-leibler",
        solver="mu",
        init="nndsvda",
        max_iter=80,
        tol=1e-3,
        random_state=0,
    )
    with warnings.catch_warnings():  # so many iterations are enough
        warnings.simplefilter("ignore")
        spectra = model.fit_transform(data + 1e-9 * data.max())
    used = spectra.sum(axis=0) > 0
    return spectra[:, used], model.components_[used].reshape(-1, frames, channels)


def _repetition(level: np.ndarray, least_lag: float) -> float:
    """The largest autocorrelation of a level over time ``(frames,)``, in [0, 1], from a lag in frames on.

    Lags up to three quarters of the length count, since a few frames are alike by chance.
    """
    frames = len(level)
    level = level - level.mean()
    spectrum = np.fft.rfft(level, 2 * frames)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:frames] / np.arange(frames, 0, -1)
    lags = correlation[int(least_lag) : 3 * frames // 4]
    if correlation[0] <= 0 or not lags.size:
        return 0.0
    return float(np.clip(lags.max() / correlation[0], 0, 1))


@dataclass(frozen=True)
class Baseline:
    """A separator of nussl's and what its estimates are.

    Args:
        id: see `svs_unet_plugin.evaluation.store.System`.
        name: as people read it.
        kind: an oracle uses the true sources.
        make: makes the separator from a mixture and, for oracles, from the true `STEMS`, all ``AudioSignal``.
        estimates: what each estimate of the separator is, in order: `STEMS`, or ``"vocals"`` and anything.
        short_window: whether it takes windows of `SHORT_WINDOW_SECONDS`, half of nussl's.
    """

    id: str
    name: str
    kind: Literal["classical", "oracle"]
    make: Callable[[Any, list[Any]], Any]
    estimates: tuple[str, ...] = ("accompaniment", "vocals")
    short_window: bool = False

    def separate(
        self, mixture: np.ndarray, references: Mapping[str, np.ndarray], sample_rate: int
    ) -> dict[str, np.ndarray]:
        """Separate a song.

        Args:
            mixture: ``(channels, samples)``.
            references: the same of `STEMS`, which only oracles look at.
            sample_rate: in Hz.

        Returns:
            The vocals and their accompaniment, which is all the rest, and of systems for four stems each of
            these, ``(channels, samples)``.
        """
        params = None
        if self.short_window:
            length = 2 ** round(np.log2(SHORT_WINDOW_SECONDS * sample_rate))
            params = nussl.STFTParams(length, length // 2, "sqrt_hann")

        def signal(samples: np.ndarray) -> Any:
            return nussl.AudioSignal(
                audio_data_array=samples.astype(np.float64), sample_rate=sample_rate, stft_params=params
            )

        true = [signal(references[name]) for name in STEMS] if self.kind == "oracle" else []
        with np.errstate(divide="ignore", invalid="ignore"):
            found = self.make(signal(mixture), true)()
        named = dict(zip(self.estimates, (estimate.audio_data for estimate in found), strict=True))
        if set(STEMS) <= set(named):
            return {**named, "accompaniment": named["drums"] + named["bass"] + named["other"]}
        return {"vocals": named["vocals"], "accompaniment": mixture - named["vocals"]}


def melodia_is_there() -> bool:
    """Whether the vamp host for Python and the plugin Melodia are installed."""
    if not nussl.vamp_imported:
        return False
    import vamp

    return "mtg-melodia:melodia" in vamp.list_plugins()


_BASELINES = (
    Baseline("repet", "REPET", "classical", lambda mix, _: _primitive.Repet(mix)),
    Baseline("repet-sim", "REPET-SIM", "classical", lambda mix, _: _primitive.RepetSim(mix)),
    Baseline("ft2d", "2DFT", "classical", lambda mix, _: _primitive.FT2D(mix)),
    Baseline(
        "hpss", "HPSS", "classical", lambda mix, _: _primitive.HPSS(mix), estimates=("vocals", "percussive")
    ),
    Baseline(
        "rpca",
        "RPCA",
        "classical",
        lambda mix, _: nussl.separation.factorization.RPCA(mix),
        short_window=True,
    ),
    Baseline("melodia", "Melodia", "classical", lambda mix, _: _primitive.Melodia(mix)),
    Baseline(
        "high-low-pass",
        "High-pass 100 Hz",
        "classical",
        lambda mix, _: _benchmark.HighLowPassFilter(mix, LOWEST_VOICE_HZ),
    ),
    Baseline(
        "hpss-bass-repet-sim",
        "HPSS + low-pass + REPET-SIM",
        "classical",
        lambda mix, _: HPSSBassRepetSim(mix),
        estimates=STEMS,
    ),
    Baseline(
        "nmf",
        "Frequency-informed NMF",
        "classical",
        lambda mix, _: FrequencyInformedNMF(mix),
        estimates=STEMS,
    ),
    Baseline(
        "ibm",
        "Ideal binary mask, full band",
        "oracle",
        lambda mix, true: _benchmark.IdealBinaryMask(mix, true),
        STEMS,
    ),
    Baseline(
        "irm-full-band",
        "Ideal ratio mask, full band",
        "oracle",
        lambda mix, true: _benchmark.IdealRatioMask(mix, true, approach="msa"),
        STEMS,
    ),
    Baseline(
        "wiener",
        "Wiener filter, full band",
        "oracle",
        lambda mix, true: _benchmark.WienerFilter(mix, true),
        STEMS,
    ),
)


def baselines() -> dict[str, Baseline]:
    """All that can run here, by id: Melodia only where its plugin is installed."""
    return {
        baseline.id: baseline for baseline in _BASELINES if baseline.id != "melodia" or melodia_is_there()
    }
