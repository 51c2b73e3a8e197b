"""What stands between nussl's audio and the network: 8192 Hz, magnitudes, and one scale a song."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from svs_unet_plugin.files import check_sources
from svs_unet_plugin.nussl import compat
from svs_unet_plugin.stft import STFT

nussl = compat.import_nussl()
tfm = nussl.datasets.transforms

Data = dict[str, Any]
"""An item of a nussl dataset on its way: ``mix``, ``sources``, and what transforms add."""

TIME_FREQUENCY = [*tfm.time_frequency_keys, "mid_side_magnitude"]
"""What an item has of spectrograms."""


class SelectSources:
    """Leaves only the sources that a network is to estimate.

    Sources of one label (``vocals::0`` and ``vocals::1`` of a scaper mixture) are added up, and
    ``accompaniment``, where no source has that label, is the sum of all but the vocals.

    Args:
        names: labels such as ``["vocals"]``.

    Raises:
        TransformException: when called on sources of which none has one of the labels.
    """

    def __init__(self, names: Sequence[str]) -> None:
        check_sources(names)
        self.names = sorted(names)

    def __call__(self, data: Data) -> Data:
        if "sources" not in data:
            return data
        labelled = [(key.split("::")[0], source) for key, source in data["sources"].items()]
        labels = {label for label, _ in labelled}
        chosen = {}
        for name in self.names:
            parts = [source for label, source in labelled if label == name]
            if name == "accompaniment" and name not in labels:
                parts = [source for label, source in labelled if label != "vocals"]
            if not parts:
                raise tfm.TransformException(f"no source is called {name!r}; there are {sorted(labels)}")
            chosen[name] = sum(parts[1:], parts[0])
        data["sources"] = chosen
        return data

    def __repr__(self) -> str:
        return f"SelectSources(names={self.names})"


class ToSampleRate:
    """Brings the mixture and the sources to a sample rate, whatever rate they have.

    Args:
        sample_rate: in Hz, ≥ 1.
    """

    def __init__(self, sample_rate: int = STFT.sample_rate) -> None:
        if sample_rate < 1:
            raise ValueError(f"sample_rate must be at least 1 Hz, got {sample_rate}")
        self.sample_rate = sample_rate

    def __call__(self, data: Data) -> Data:
        for signal in (data["mix"], *data.get("sources", {}).values()):
            if signal.sample_rate != self.sample_rate:
                signal.resample(self.sample_rate)
        return data

    def __repr__(self) -> str:
        return f"ToSampleRate(sample_rate={self.sample_rate})"


class NormalizeMagnitude:
    """Divides the magnitudes of mixture and sources by the song's largest of the mixture.

    It belongs before any excerpt is cut, so that the scale is the song's. Silence stays silence.
    """

    def __call__(self, data: Data) -> Data:
        peak = data["mix_magnitude"].max()
        if peak > 0:
            for key in ("mix_magnitude", "mid_side_magnitude", "source_magnitudes"):
                if key in data:
                    data[key] = data[key] / peak
        return data

    def __repr__(self) -> str:
        return "NormalizeMagnitude()"


class MidSide:
    """Adds ``mid_side_magnitude (bins, frames, 2)``, what a network of two channels sees beside them.

    Mid and side are half of the sum and of the difference of left and right; one channel is both.

    Raises:
        TransformException: when called on a mixture of more than two channels.
    """

    def __call__(self, data: Data) -> Data:
        spectrum = data["mix"].stft_data
        if spectrum.shape[-1] > 2:
            raise tfm.TransformException(f"the mixture has {spectrum.shape[-1]} channels, 2 are the most")
        left, right = spectrum[..., 0], spectrum[..., -1]
        data["mid_side_magnitude"] = np.abs(np.stack([left + right, left - right], axis=-1)) / 2
        return data

    def __repr__(self) -> str:
        return "MidSide()"


compat.allow(SelectSources, ToSampleRate, NormalizeMagnitude, MidSide)


def stft_params(stft: STFT | None = None) -> Any:
    """nussl's ``STFTParams`` of a transform, by default the paper's: window 1024, hop 768, Hann."""
    stft = stft or STFT()
    return nussl.STFTParams(stft.window_length, stft.hop_length, stft.window_type)


def training_transform(
    sources: Sequence[str] = ("vocals",),
    excerpt_frames: int | None = 128,
    cache: str | os.PathLike[str] | None = None,
    stft: STFT | None = None,
    phase_sensitive: bool = False,
    in_channels: int = 1,
) -> Any:
    """The ``Compose`` for a training or validation dataset, whose ``stft_params`` are `stft_params`.

    Args:
        sources: what the network estimates.
        excerpt_frames: length of the random excerpts, 128 in the paper; None for whole songs.
        cache: a folder for the magnitudes of whole songs, so that only the first epoch computes them.
        stft: for its sample rate and scale.
        phase_sensitive: whether the sources' magnitudes are `phase_sensitive_magnitude` instead of the
            plain ones of the paper.
        in_channels: of the network.
    """
    steps = [SelectSources(sources), *_steps(stft, in_channels)]
    if phase_sensitive:
        steps[2] = tfm.PhaseSensitiveSpectrumApproximation()
    if cache is not None:
        steps.append(tfm.Cache(os.fspath(cache)))
    if excerpt_frames is not None:
        steps.append(tfm.GetExcerpt(excerpt_frames, tf_keys=TIME_FREQUENCY))
    return tfm.Compose(steps)


def inference_transform(stft: STFT | None = None, in_channels: int = 1) -> Any:
    """The ``Compose`` that a saved model needs to be used on a mixture."""
    return tfm.Compose(_steps(stft, in_channels))


def _steps(stft: STFT | None, in_channels: int) -> list[Any]:
    stft = stft or STFT()
    return [
        ToSampleRate(stft.sample_rate),
        tfm.MagnitudeSpectrumApproximation(),
        *([MidSide()] if in_channels == 2 else []),
        *([NormalizeMagnitude()] if stft.normalized else []),
        tfm.ToSeparationModel(TIME_FREQUENCY),
    ]
