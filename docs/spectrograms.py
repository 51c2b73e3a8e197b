"""Draw the spectrograms of a song and of its separated vocals and accompaniment.

Usage: ``python docs/spectrograms.py SONG OUT.png [--weights vocals] [--seconds 11]``; OUT may be a ``.webp``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import librosa
import numpy as np
from matplotlib.figure import Figure

from svs_unet_plugin import Separator, audio

RANGE = 80.0
"""dB below the mixture's largest magnitude at which the colours end."""


def spectrograms(signals: dict[str, np.ndarray], sample_rate: int) -> Figure:
    """Mel spectrograms side by side, with one scale of colours, in dB below the first signal's maximum.

    Args:
        signals: ``(channels, samples)`` by title; the first is the mixture.
        sample_rate: in Hz.
    """
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    panels = figure.subplots(1, len(signals), sharex=True, sharey=True)
    powers = [
        librosa.feature.melspectrogram(
            y=signal.mean(axis=0), sr=sample_rate, n_fft=2048, hop_length=512, n_mels=160
        )
        for signal in signals.values()
    ]
    largest = powers[0].max()
    for axes, title, power in zip(panels, signals, powers, strict=True):
        image = librosa.display.specshow(
            librosa.power_to_db(power, ref=largest, top_db=None),
            sr=sample_rate,
            hop_length=512,
            fmax=sample_rate / 2,
            x_axis="time",
            y_axis="mel",
            cmap="magma",
            vmin=-RANGE,
            vmax=0,
            ax=axes,
        )
        axes.set(title=title, xlabel="time in s", ylabel="")
        axes.label_outer()
    panels[0].set_ylabel("frequency in Hz")
    figure.colorbar(image, ax=panels, label="dB", pad=0.01)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("song", type=Path, help="any audio file")
    parser.add_argument("out", type=Path, help="the picture, .png or .webp")
    parser.add_argument("--weights", default="vocals", help="bundled weights, or a checkpoint")
    parser.add_argument("--seconds", type=float, default=11.0, help="from the start of the song (default 11)")
    options = parser.parse_args()

    mixture, sample_rate = audio.read(options.song)
    mixture = mixture[:, : round(options.seconds * sample_rate)]
    stems = Separator(options.weights).separate(mixture, sample_rate)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    spectrograms({"mixture": mixture, **stems}, sample_rate).savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
