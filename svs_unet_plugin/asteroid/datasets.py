"""torch datasets for asteroid: the draws that both hosts train on, and asteroid's own for whole songs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from svs_unet_plugin.asteroid import compat
from svs_unet_plugin.corpora.musdb import STEMS
from svs_unet_plugin.corpora.prepare import Prepared
from svs_unet_plugin.files import check_sources
from svs_unet_plugin.mixing.excerpts import (
    Collection,
    Draw,
    DrawSampler,
    ExcerptMixer,
    ExcerptSettings,
    Song,
    collected,
    draw_generator,
)
from svs_unet_plugin.stft import STFT

asteroid = compat.import_asteroid()
from asteroid.data import MUSDB18Dataset  # noqa: E402

Item = tuple[Tensor, Tensor]
"""A mixture ``(channels, time)`` and its sources ``(sources, channels, time)``."""


class Excerpts(Dataset):
    """Excerpts of songs, drawn anew in each epoch; the same as nussl's `Remix` draws.

    Args:
        songs: each a `Song` at the transform's rate, or a `Collection` for each kind of them.
        stft: whose frames an excerpt fills.
        sources: what the network estimates, in its order.
        others: what else is in the mixture; by default MUSDB18's other stems.
        settings: how to draw.
        items: of an epoch, ≥ 1.
        seed: ≥ 0.
        in_channels: of the network, 1 or 2.

    Raises:
        ValueError: if there are no songs, or none has one of the stems.
    """

    def __init__(
        self,
        songs: Sequence[Song] | Sequence[Collection],
        stft: STFT,
        sources: Sequence[str] = ("vocals",),
        others: Sequence[str] | None = None,
        settings: ExcerptSettings | None = None,
        items: int = 64,
        seed: int = 0,
        in_channels: int = 1,
    ) -> None:
        if others is None:
            others = [stem for stem in STEMS if stem not in sources]
        check_sources(sources)
        names = [*sorted(sources), *others]
        self.mixer = ExcerptMixer(collected(songs), names, stft, settings or ExcerptSettings(), in_channels)
        self.items, self.seed = items, seed
        self._rows = [names.index(source) for source in sources]

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, draw: Draw | int) -> Item:
        """The excerpt of ``(epoch, index)``, or of an index in epoch 0.

        Returns:
            The mixture ``(channels, time)`` and the sources ``(sources, channels, time)``.
        """
        excerpt = torch.from_numpy(self.mixer.draw(draw_generator(self.seed, draw)))
        return excerpt.sum(dim=0), excerpt[self._rows]


def excerpt_loader(
    excerpts: Excerpts,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    processes: int = 1,
    epoch: int = 0,
) -> DataLoader:
    """A process's share of each batch, ``(batch_size / processes, …)``, from an epoch on.

    Raises:
        ValueError: if a batch can't be shared equally.
    """
    if batch_size % processes:
        raise ValueError(f"a batch of {batch_size} can't be shared equally by {processes} processes")
    sampler = DrawSampler(len(excerpts), rank, processes)
    sampler.set_epoch(epoch)
    return DataLoader(excerpts, batch_size // processes, sampler=sampler, num_workers=workers)


def whole_songs(prepared: Prepared, sources: Sequence[str] = ("vocals",)) -> Dataset:
    """The songs for validation by asteroid's own dataset: an `Item` each.

    Raises:
        ValueError: if there are none.
    """
    names = {track.name for track in prepared.valid}
    try:
        dataset = MUSDB18Dataset(
            str(prepared.folder),
            sources=list(STEMS),
            targets=list(sources),
            split="train",
            sample_rate=prepared.settings.sample_rate,
        )
        tracks = [track for track in dataset.tracks if track["path"].name in names]
    except RuntimeError:  # no tracks found
        tracks = []
    if not tracks:
        raise ValueError(f"{prepared.folder} holds no songs for validation")
    # In the order of their names on every file system.
    dataset.tracks = sorted(tracks, key=lambda track: track["path"])
    return dataset
