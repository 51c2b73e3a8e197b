"""Systems for tests of the runner, in a module that other processes can import."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import butter, sosfilt

from svs_unet_plugin.evaluation.runner import Entry, Separate, Song
from svs_unet_plugin.evaluation.store import System


@dataclass(frozen=True)
class Filtered:
    """A system for tests: what is in the voice's band is the vocals, times a gain."""

    gain: float = 1.0

    def load(self) -> Separate:
        return self

    def entry(self, id: str = "some") -> Entry:
        return Entry(System(id, "Some", "classical"), self.load, str(self))

    def __call__(self, song: Song) -> Mapping[str, np.ndarray]:
        band = butter(2, [200, 4000], "bandpass", fs=song.sample_rate, output="sos")
        vocals = self.gain * sosfilt(band, song.mixture)
        return {"vocals": vocals, "accompaniment": song.mixture - vocals}


@dataclass(frozen=True)
class Heavy:
    """A system that writes down when it is loaded and when it separates, and is large."""

    log: Path

    def __call__(self) -> Separate:
        with self.log.open("a") as file:
            file.write("load ")
        separate = Filtered()
        weights = np.ones(50_000_000)  # 400 MB

        def logged(song: Song) -> Mapping[str, np.ndarray]:
            with self.log.open("a") as file:
                file.write(f"{song.mixture.shape[1] / song.sample_rate * (weights.size > 0):.0f} s, ")
            return separate(song)

        return logged
