"""nussl datasets: new mixtures of songs in memory, mixtures by scaper, and whole prepared songs."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from svs_unet_plugin import torch_stft
from svs_unet_plugin.corpora.musdb import STEMS, Track
from svs_unet_plugin.corpora.prepare import Prepared
from svs_unet_plugin.files import check_sources
from svs_unet_plugin.mixing.excerpts import (
    Collection,
    Draw,
    ExcerptMixer,
    ExcerptSettings,
    Song,
    as_draw,
    collected,
    draw_generator,
)
from svs_unet_plugin.mixing.scaper import Mixer, MixSettings, finished_mixtures, link_stems
from svs_unet_plugin.nussl import compat
from svs_unet_plugin.nussl.transforms import (
    SelectSources,
    ToSampleRate,
    inference_transform,
    stft_params,
)
from svs_unet_plugin.stft import STFT, stereo_magnitudes
from svs_unet_plugin.training.loss import phase_sensitive_magnitude

nussl = compat.import_nussl()

HEADROOM = 12.0
"""The peak of an excerpt is drawn up to so many dB below 1, as if a louder part of its song lay elsewhere."""


class Remix(nussl.datasets.BaseDataset):  # type: ignore[name-defined]
    """Excerpts of mixtures that are drawn anew each time, from songs that are kept in memory or in files.

    How they are drawn is `ExcerptMixer`'s; a whole batch is drawn and transformed at once, so that a loader
    need not be waited for, whose ``collate_fn`` is `svs_unet_plugin.nussl.collate`. An item is a `Draw`, the
    epoch and an index; an index alone is one of epoch 0.

    Args:
        songs: items of nussl datasets, with ``sources``, or each a `Song` of the transform's rate, which may
            lie in files (see `svs_unet_plugin.mixing.excerpts.mapped_songs`) and need not have all stems; or
            a `Collection` for each kind of them.
        stft: whose sample rate the songs are brought to, by default the paper's.
        sources: what the network estimates.
        others: what else is in the mixture; drawn and swapped each by itself.
        settings: how to draw.
        phase_sensitive: see `training_transform`.
        seed: of the draws, ≥ 0.
        in_channels: of the network, 1 or 2.

    Raises:
        ValueError: if there are no songs.
    """

    def __init__(
        self,
        songs: Iterable[Any],
        stft: STFT | None = None,
        *,
        sources: Sequence[str] = ("vocals",),
        others: Sequence[str] = ("accompaniment",),
        settings: ExcerptSettings | None = None,
        phase_sensitive: bool = False,
        seed: int = 0,
        in_channels: int = 1,
    ) -> None:
        self.stft = stft or STFT()
        self.phase_sensitive, self.seed = phase_sensitive, seed
        check_sources(sources)
        self.estimated = sorted(sources)  # nussl's order
        self.names = [*self.estimated, *others]
        collections = [
            Collection(
                [self._song(item) for item in tqdm(some.songs, desc="Songs", unit="song")], some.weight
            )
            for some in collected(songs)
        ]
        self.mixer = ExcerptMixer(
            collections, self.names, self.stft, settings or ExcerptSettings(), in_channels
        )
        super().__init__(
            "",
            transform=inference_transform(self.stft, in_channels),
            sample_rate=self.stft.sample_rate,
            stft_params=stft_params(self.stft),
            num_channels=in_channels,
        )

    def _song(self, item: Any) -> Song:
        """A song, or an item of a dataset as one, in memory."""
        if "sources" not in item:
            return item
        item = SelectSources(self.names)(item)
        signals = ToSampleRate(self.stft.sample_rate)(item)["sources"]
        return {name: signals[name].audio_data.astype(np.float32) for name in self.names}

    def __repr__(self) -> str:
        return (
            f"Remix(sources={self.estimated}, songs={self.mixer.digest()}, settings={self.mixer.settings}, "
            f"phase_sensitive={self.phase_sensitive}, seed={self.seed}, in_channels={self.mixer.channels})"
        )

    def get_items(self, folder: str) -> list[int]:
        return list(range(len(self.mixer.songs)))

    def process_item(self, item: int) -> dict[str, Any]:
        """One mixture as nussl's datasets have it; a loader takes `__getitems__`."""
        excerpt = self.mixer.draw(draw_generator(self.seed, item))
        return _item(
            self, excerpt.sum(axis=0), dict(zip(self.names, excerpt, strict=True)), self.stft.sample_rate
        )

    def __getitems__(self, items: Sequence[Draw | int]) -> dict[str, Tensor]:
        """A batch: ``mix_magnitude (batch, frames, bins, channels)`` and ``source_magnitudes (…, sources)``.

        With two channels, ``mid_side_magnitude``, too.
        """
        generators = [draw_generator(self.seed, item) for item in items]
        drawn = np.stack([self.mixer.draw(generator) for generator in generators])
        signals = np.concatenate([drawn.sum(axis=1, keepdims=True), drawn[:, : len(self.estimated)]], axis=1)
        # An excerpt has neighbours where a song has an edge.
        spectra = torch_stft.frames(self.stft, torch.from_numpy(signals))
        # (batch, mixture and sources, channels, bins, frames)
        mixture, sources = spectra[:, 0], spectra[:, 1:]
        magnitude = mixture.abs()
        peak = magnitude.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
        headroom = np.array([generator.uniform(0, HEADROOM) for generator in generators], np.float32)
        peak *= torch.from_numpy(10 ** (headroom / 20))[:, None, None, None]
        if not self.stft.normalized:
            peak = torch.full_like(peak, float(self.stft.window().sum()))
        mixed = mixture[:, None]
        wanted = phase_sensitive_magnitude(sources, mixed) if self.phase_sensitive else sources.abs()
        batch = {
            "mix_magnitude": (magnitude / peak).permute(0, 3, 2, 1),
            "source_magnitudes": (wanted / peak[:, None]).permute(0, 4, 3, 2, 1),
        }
        if self.mixer.channels == 2:
            mid_side = stereo_magnitudes(mixture)[:, 2:]
            batch["mid_side_magnitude"] = (mid_side / peak).permute(0, 3, 2, 1)
        return batch


class OnTheFly(nussl.datasets.OnTheFly):  # type: ignore[name-defined]
    """Mixtures by scaper that are made when they are asked for; an item is a `Draw` as in `Remix`.

    Args:
        prepared: whose training songs are mixed.
        settings: how to mix.
        items: how many an epoch has.
        seed: of the draws, ≥ 0.
        arguments: of the dataset, such as ``transform``.
    """

    def __init__(
        self, prepared: Prepared, settings: MixSettings, items: int, seed: int = 0, **arguments: Any
    ) -> None:
        self._links = TemporaryDirectory(prefix="svs_unet_plugin")  # as long as the dataset is there
        link_stems(prepared, Path(self._links.name))
        mixer = Mixer(Path(self._links.name), settings, prepared.settings.sample_rate)
        super().__init__(_Mix(mixer, seed), items, **arguments)
        self.settings, self.seed = settings, seed
        self._songs = [track.name for track in prepared.train]

    def __repr__(self) -> str:
        return f"OnTheFly(settings={self.settings}, songs={self._songs}, seed={self.seed})"

    def __getstate__(self) -> dict[str, Any]:
        """Without the folder of links, which is the first process's to remove."""
        return {name: value for name, value in vars(self).items() if name != "_links"}

    def __getitems__(self, draws: Sequence[Draw | int]) -> list[dict[str, Any]]:
        """Mixtures after the dataset's transforms, whose random numbers are the draw's, too."""
        items = []
        for index, draw in enumerate(draws):
            with _seeded((self.seed, *as_draw(draw))):
                items.append(self.transform({**self.process_item(draw), "index": index}))
        return items


@dataclass(frozen=True)
class _Mix:
    """Makes an item of `OnTheFly`."""

    mixer: Mixer
    seed: int

    def __call__(self, dataset: Any, item: Draw | int) -> dict[str, Any]:
        mixed = self.mixer.mix(int(draw_generator(self.seed, item).integers(2**31)))
        return _item(dataset, mixed.mixture, mixed.stems, self.mixer.sample_rate)


DRAWN = (Remix, OnTheFly)
"""The datasets whose items are drawn, by epoch and index, rather than chosen."""


def open_mixtures(folder: str | os.PathLike[str], settings: MixSettings, **arguments: Any) -> Any:
    """What `svs_unet_plugin.mixing.scaper.write_mixtures` wrote, as ``nussl.datasets.Scaper``.

    Args:
        settings: those that it was written with.
        arguments: of the dataset, such as ``transform``.

    Raises:
        ValueError: if the folder holds something else, or not all.
    """
    return nussl.datasets.Scaper(str(finished_mixtures(folder, settings)), **arguments)


def whole_songs(tracks: Sequence[Track], **arguments: Any) -> Any:
    """Prepared tracks as a nussl dataset, read without the way by ffmpeg and 16 bits that musdb takes.

    Args:
        arguments: of the dataset, such as ``transform``.
    """
    return nussl.datasets.OnTheFly(_Read(tuple(tracks)), len(tracks), **arguments)


@dataclass(frozen=True)
class _Read:
    """Makes an item of `whole_songs`."""

    tracks: tuple[Track, ...]

    def __call__(self, dataset: Any, item: int) -> dict[str, Any]:
        streams, sample_rate = self.tracks[item].read()
        return _item(dataset, streams["mixture"], {name: streams[name] for name in STEMS}, sample_rate)


@contextmanager
def _seeded(seeds: tuple[int, ...]) -> Iterator[None]:
    """Seed Python's generator, which nussl's ``GetExcerpt`` uses; its state returns afterwards."""
    state = random.getstate()
    random.seed(repr(seeds))
    try:
        yield
    finally:
        random.setstate(state)


def _item(
    dataset: Any, mixture: np.ndarray, sources: dict[str, np.ndarray], sample_rate: int
) -> dict[str, Any]:
    """An item of a nussl dataset, of arrays ``(channels, samples)``."""
    signal: Callable[..., Any] = dataset._load_audio_from_array
    return {
        "mix": signal(mixture, sample_rate=sample_rate),
        "sources": {name: signal(samples, sample_rate=sample_rate) for name, samples in sources.items()},
        "metadata": {"labels": list(sources)},
    }
