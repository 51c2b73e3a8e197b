"""Spectrograms to look at: power on a logarithmic axis of frequencies, in colours."""

from __future__ import annotations

import os

import numpy as np

LOWEST_HZ = 40.0
"""The lower edge of a picture of a file, if it has a few octaves; the upper one is half its sample rate."""

FRAMES_PER_COLUMN = 4
"""At most; a column of a picture is their mean power, so that what is short is seen in a long song too."""


def lowest_hz(rate: int) -> float:
    """The lower edge of a picture of a file of that sample rate, both in Hz."""
    return min(LOWEST_HZ, rate / 8)


def log_rows(power: np.ndarray, rate: int, height: int, lowest: float, highest: float) -> np.ndarray:
    """Power in bands that are equally wide in octaves.

    Args:
        power: ``(bins, frames)`` of an FFT, from 0 Hz to ``rate / 2``.
        rate: sample rate in Hz.
        height: number of bands.
        lowest, highest: edges in Hz, above 0; what lies above ``rate / 2`` is silent.

    Returns:
        ``(height, frames)``, the highest band first, the mean power of each.
    """
    edges = np.geomspace(highest, lowest, height + 1) * 2 * (len(power) - 1) / rate + 0.5  # in bins
    total = np.concatenate([np.zeros((1, power.shape[1])), np.cumsum(power, axis=0, dtype=np.float64)])
    place = np.clip(edges, 0, len(power))
    below = np.minimum(place.astype(int), len(power) - 1)
    share = (place - below)[:, None]
    at_edges = (1 - share) * total[below] + share * total[below + 1]
    return np.maximum(at_edges[:-1] - at_edges[1:], 0) / (edges[:-1] - edges[1:])[:, None]


def brightness(power: np.ndarray, loudest: float, range_db: float) -> np.ndarray:
    """Power as brightness: 1 at ``loudest``, 0 at ``range_db`` below it."""
    return 1 + 10 * np.log10(np.maximum(power, 1e-30) / max(loudest, 1e-15)) / range_db  # silence is dark


def image(picture: np.ndarray, size: tuple[int, int]) -> bytes:
    """A picture as a WebP file.

    Args:
        picture: ``(rows, columns)``, of which [0, 1] is shown.
        size: width and height in pixels.
    """
    import io

    from matplotlib import colormaps
    from PIL import Image

    colours = colormaps["magma"](np.clip(picture, 0, 1), bytes=True)[..., :3]
    pixels = Image.fromarray(np.ascontiguousarray(colours)).resize(size, Image.Resampling.BILINEAR)
    file = io.BytesIO()
    pixels.save(file, "WEBP", quality=70, method=6)
    return file.getvalue()


def of_file(path: str | os.PathLike[str], width: int, height: int) -> np.ndarray:
    """The power of an audio file of any length, the mean of its channels, as a picture has it.

    Args:
        path: a file that libsndfile reads and can seek in.
        width: columns at most; a song of fewer frames has fewer.
        height: rows, from half the sample rate down to `lowest_hz`, see `log_rows`.

    Returns:
        ``(height, columns)``.
    """
    import soundfile

    with soundfile.SoundFile(path) as file:
        rate, samples = file.samplerate, file.frames
        window = max(2 ** round(np.log2(0.1 * rate)), 64)  # some 100 ms
        # An eighth of a window apart, or as far as it takes to have no more columns than asked for.
        columns = min(width, max(round(8 * samples / window), 1))
        frames = min(max(round(8 * samples / window / columns), 1), FRAMES_PER_COLUMN)
        weights = np.hanning(window)[:, None]
        rows = np.empty((height, columns))
        for column in range(columns):
            power = np.zeros(window // 2 + 1)
            for frame in range(frames):
                middle = (column * frames + frame + 0.5) / (columns * frames) * samples
                start = round(middle - window / 2)
                file.seek(max(start, 0))
                read = file.read(window + min(start, 0), dtype="float32", always_2d=True)
                block = np.zeros((window, file.channels), np.float32)
                block[max(-start, 0) :][: len(read)] = read
                power += (np.abs(np.fft.rfft(block * weights, axis=0)) ** 2).mean(axis=1)
            rows[:, column] = log_rows(power[:, None] / frames, rate, height, lowest_hz(rate), rate / 2)[:, 0]
        return rows
