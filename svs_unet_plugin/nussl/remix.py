"""New mixtures from old songs, while training: the vocals of one song over the accompaniment of another."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
from tqdm import tqdm

from svs_unet_plugin.nussl import compat
from svs_unet_plugin.nussl.transforms import SelectSources, ToSampleRate, stft_params
from svs_unet_plugin.stft import STFT

nussl = compat.import_nussl()


class Remix(nussl.datasets.BaseDataset):  # type: ignore[name-defined]
    """Mixtures that are drawn anew each time, from songs that are kept in memory.

    A stretch of a song's vocals is mixed with a stretch of accompaniment, of the same song and moment or,
    half of the time, of any, each at a gain of its own (S. Uhlich et al.: "Improving music source
    separation based on deep neural networks through data augmentation and network blending", 2017).

    Args:
        songs: items of nussl datasets, with ``sources``; each channel counts as a song.
        transform: such as `training_transform`.
        stft: whose sample rate the songs are brought to.
        seconds: length of a stretch, > 0; shorter songs are repeated.
        gain: the largest change of a source's level, in dB, up or down, ≥ 0.

    Raises:
        ValueError: if there are no songs.
    """

    def __init__(
        self,
        songs: Iterable[dict[str, Any]],
        transform: Any,
        stft: STFT | None = None,
        seconds: float = 8.0,
        gain: float = 6.0,
    ) -> None:
        stft = stft or STFT()
        self.stretch = round(seconds * stft.sample_rate)
        self.gain = gain
        select, resample = SelectSources(["vocals", "accompaniment"]), ToSampleRate(stft.sample_rate)
        self.songs: list[np.ndarray] = []  # each (2, samples): vocals, accompaniment
        for song in tqdm(songs, desc="Songs", unit="song"):
            sources = resample(select(song))["sources"]
            signals = np.stack([sources[name].audio_data for name in ("vocals", "accompaniment")])
            self.songs.extend(signals.astype(np.float32).swapaxes(0, 1))
        if not self.songs:
            raise ValueError("there are no songs to mix")
        super().__init__(
            "",
            transform=transform,
            sample_rate=stft.sample_rate,
            stft_params=stft_params(stft),
            num_channels=1,
        )

    def get_items(self, folder: str) -> list[int]:
        return list(range(len(self.songs)))

    def process_item(self, item: int) -> dict[str, Any]:
        song = self.songs[item]
        vocals, accompaniment = self._stretch_of(song)
        if random.random() < 0.5:
            _, accompaniment = self._stretch_of(random.choice(self.songs))
        vocals, accompaniment = (
            source * 10 ** (random.uniform(-self.gain, self.gain) / 20) for source in (vocals, accompaniment)
        )
        return {
            "mix": self._signal(vocals + accompaniment),
            "sources": {"vocals": self._signal(vocals), "accompaniment": self._signal(accompaniment)},
            "metadata": {"labels": ["vocals", "accompaniment"]},
        }

    def _stretch_of(self, song: np.ndarray) -> np.ndarray:
        start = random.randrange(song.shape[1])
        repeats = -(-(start + self.stretch) // song.shape[1])
        return np.tile(song, repeats)[:, start : start + self.stretch]

    def _signal(self, samples: np.ndarray) -> Any:
        return self._load_audio_from_array(samples[None].astype(np.float32))
