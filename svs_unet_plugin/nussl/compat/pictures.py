"""nussl's pictures of signals and masks, drawn with what librosa offers in public today.

``librosa.display.waveplot`` went in librosa 0.10, ``melspectrogram`` takes its signal by name only, and
nussl's mask picture calls private functions of librosa whose arguments changed. Each function here takes the
arguments of the one of the same name in ``nussl.utils`` and draws on matplotlib's current axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def _mono(audio_signal: Any) -> Any:
    """The mean of a signal's channels, as a signal; the given one stays as it is."""
    samples = audio_signal.audio_data.mean(axis=0, keepdims=True)
    return audio_signal.make_copy_with_audio_data(samples, verbose=False)


def visualize_waveform(
    audio_signal: Any, ch: int = 0, do_mono: bool = False, x_axis: str | None = "time", **kwargs: Any
) -> None:
    """Draw one channel of a signal.

    Args:
        audio_signal: a ``nussl.AudioSignal``.
        ch: the channel.
        do_mono: draw the mean of all channels instead.
        x_axis: the axis of ``librosa.display.waveshow``.
        **kwargs: for ``librosa.display.waveshow``.
    """
    import librosa.display
    import matplotlib.pyplot as plt

    if do_mono:
        audio_signal, ch = _mono(audio_signal), 0
    samples = np.ascontiguousarray(audio_signal.audio_data[ch])
    librosa.display.waveshow(samples, sr=audio_signal.sample_rate, axis=x_axis, ax=plt.gca(), **kwargs)
    plt.ylabel("Amplitude")


def visualize_spectrogram(
    audio_signal: Any,
    ch: int = 0,
    do_mono: bool = False,
    x_axis: str = "time",
    y_axis: str = "linear",
    **kwargs: Any,
) -> None:
    """Draw the magnitudes of one channel in dB below the largest; ``y_axis='mel'`` draws mel bands.

    Args:
        audio_signal: a ``nussl.AudioSignal``.
        ch: the channel.
        do_mono: draw the mean of all channels instead.
        x_axis, y_axis: the axes of ``librosa.display.specshow``.
        **kwargs: for ``librosa.display.specshow``.
    """
    import librosa.display

    if do_mono:
        audio_signal, ch = _mono(audio_signal), 0
    rate, hop = audio_signal.sample_rate, audio_signal.stft_params.hop_length
    magnitude = np.abs(audio_signal.stft())[..., ch]  # (bins, frames)
    if y_axis == "mel":
        power = librosa.feature.melspectrogram(S=magnitude**2, sr=rate)
        decibels = librosa.power_to_db(power, ref=np.max)
        kwargs.setdefault("fmax", rate / 2)
    else:
        decibels = librosa.amplitude_to_db(magnitude, ref=np.max)
    librosa.display.specshow(decibels, x_axis=x_axis, y_axis=y_axis, sr=rate, hop_length=hop, **kwargs)


def visualize_sources_as_masks(
    audio_signals: Mapping[str, Any] | Sequence[Any],
    ch: int = 0,
    do_mono: bool = False,
    x_axis: str = "time",
    y_axis: str = "linear",
    db_cutoff: float = -60,
    colors: Sequence[str] | None = None,
    alphas: Sequence[float] | None = None,
    alpha_amount: float = 1.0,
    show_legend: bool = True,
    **kwargs: Any,
) -> None:
    """Draw where in time and frequency each source is: one colour a source, the denser the larger its share.

    A source's share is min(|s| cos(its phase against the mixture's), |m|) / max(|m|, that), as in nussl.

    Args:
        audio_signals: ``nussl.AudioSignal`` objects, by name or in a list; their sum is the mixture.
        ch: the channel.
        do_mono: draw the mean of all channels instead.
        x_axis, y_axis: the axes of ``librosa.display.specshow``.
        db_cutoff: leave out what is this far below the mixture's largest magnitude, in dB.
        colors: one colour a source, loudest first.
        alphas: not used; kept because nussl has it.
        alpha_amount: power that the share is raised to before it becomes opacity.
        show_legend: whether to draw a legend.
        **kwargs: for ``librosa.display.specshow``.
    """
    import librosa.display
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap, to_rgb
    from matplotlib.patches import Patch
    from nussl.datasets.transforms import PhaseSensitiveSpectrumApproximation

    if not isinstance(audio_signals, Mapping):
        audio_signals = {f"{i}:{signal.path_to_input_file}": signal for i, signal in enumerate(audio_signals)}
    sources = dict(audio_signals)
    if do_mono:
        sources, ch = {name: _mono(signal) for name, signal in sources.items()}, 0

    mix = sum(sources.values())
    data = PhaseSensitiveSpectrumApproximation()({"mix": mix, "sources": dict(sources)})
    mixture = data["mix_magnitude"][..., None]  # (bins, frames, channels, 1)
    parts = data["source_magnitudes"]  # (bins, frames, channels, sources), sources by name
    shares = parts / (np.maximum(mixture, parts) + 1e-16)
    heard = librosa.amplitude_to_db(np.abs(mix.stft()), ref=np.max) > db_cutoff
    shares = np.clip(shares * heard[..., None], 0, 1)

    names = sorted(sources)
    loudest_first = sorted(names, key=lambda name: sources[name].rms().mean(), reverse=True)
    cycle = colors or plt.rcParams["axes.prop_cycle"].by_key()["color"]
    ramp = np.linspace(0, 1, 256)[:, None]
    legend = []
    for position, name in enumerate(loudest_first):
        color = cycle[position % len(cycle)]
        shades = 1 - ramp * (1 - np.asarray(to_rgb(color)))  # white to the colour
        librosa.display.specshow(
            shares[..., ch, names.index(name)],
            cmap=ListedColormap(np.hstack([shades, ramp**alpha_amount])),
            vmin=0,
            vmax=1,
            x_axis=x_axis,
            y_axis=y_axis,
            sr=mix.sample_rate,
            hop_length=mix.stft_params.hop_length,
            **kwargs,
        )
        legend.append(Patch(facecolor=color, label=name))
    if show_legend:
        plt.legend(handles=legend, bbox_to_anchor=(0.0, 1.02, 1.0, 0.102), loc=3, ncol=2)
