"""asteroid's `MUSDB18Dataset` over prepared songs, with draws that depend on nothing but the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from svs_unet_plugin.asteroid import compat
from svs_unet_plugin.corpora.prepare import Prepared

asteroid = compat.import_asteroid()
from asteroid.data import MUSDB18Dataset  # noqa: E402

STEMS = ("vocals", "bass", "drums", "other")

Item = tuple[Tensor, Tensor]
"""A mixture ``(channels, time)`` and its vocals ``(1, channels, time)``."""


def number(*parts: int) -> int:
    """One seed for each combination of numbers ≥ 0."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint32)[0])


class Excerpts(Dataset):
    """Excerpts of songs with their stems at random gains, one channel each, drawn anew in each epoch.

    What is drawn depends on the seed, the epoch and the index alone, so that it is the same in whatever
    process, with however many workers, and when training goes on after it was stopped.

    Args:
        prepared: the songs; those to train on are taken.
        seconds: length of an excerpt, > 0; songs that are not longer are left out, as asteroid does.
        samples_per_track: excerpts of each song in an epoch, ≥ 1.
        random_track_mix: whether each stem is of another song, drawn at random.
        seed: ≥ 0.

    Raises:
        ValueError: if no song is longer than an excerpt.
    """

    def __init__(
        self,
        prepared: Prepared,
        seconds: float,
        samples_per_track: int = 64,
        random_track_mix: bool = True,
        seed: int = 0,
    ) -> None:
        self.seed = seed
        self.dataset = _musdb18(
            prepared,
            [track.name for track in prepared.train],
            segment=seconds,
            samples_per_track=samples_per_track,
            random_segments=True,
            random_track_mix=random_track_mix,
            source_augmentations=_channel_at_a_gain,
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: tuple[int, int]) -> Item:
        """The excerpt of ``(epoch, index)``: mixture ``(1, time)``, vocals ``(1, 1, time)``."""
        before = random.getstate()  # asteroid draws from Python's global generator
        random.seed(number(self.seed, *draw))
        try:
            return self.dataset[draw[1]]
        finally:
            random.setstate(before)


def whole_songs(prepared: Prepared) -> Dataset:
    """The songs for validation: mixture ``(channels, time)``, vocals ``(1, channels, time)``.

    Raises:
        ValueError: if there are none.
    """
    return _musdb18(prepared, [track.name for track in prepared.valid])


class DrawSampler(Sampler[tuple[int, int]]):
    """What one of several processes is to draw: ``(epoch, index)``.

    The processes' batches of one step are together the batch that a single process draws, item by item.

    Args:
        items: of an epoch.
        batch_size: of all processes together; what is left over is left out.
        seed: ≥ 0.
        rank, processes: which process this is, and how many there are.

    Raises:
        ValueError: if a batch can't be shared equally, or is more than an epoch.
    """

    def __init__(self, items: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1) -> None:
        if batch_size % processes:
            raise ValueError(f"a batch of {batch_size} can't be shared equally by {processes} processes")
        if batch_size > items:
            raise ValueError(f"a batch of {batch_size} is more than the {items} items of an epoch")
        self.items, self.batch_size, self.seed = items, batch_size, seed
        self.rank, self.processes = rank, processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch; Lightning calls this before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.items // self.batch_size * self.batch_size // self.processes

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(number(self.seed, self.epoch))
        order = torch.randperm(self.items, generator=generator)[: len(self) * self.processes]
        return iter([(self.epoch, int(index)) for index in order[self.rank :: self.processes]])


def excerpt_loader(
    excerpts: Excerpts, batch_size: int, workers: int, rank: int = 0, processes: int = 1
) -> DataLoader:
    """A process's share of each batch, ``(batch_size / processes, …)``: see `Excerpts` and `DrawSampler`."""
    sampler = DrawSampler(len(excerpts), batch_size, excerpts.seed, rank, processes)
    return DataLoader(excerpts, batch_size // processes, sampler=sampler, num_workers=workers)


def _channel_at_a_gain(stem: Tensor) -> Tensor:
    """One channel at random of ``(channels, time)``, at a random gain.

    S. Uhlich et al.: "Improving music source separation based on deep neural networks through data
    augmentation and network blending", ICASSP 2017.
    """
    return stem[random.randrange(len(stem))][None] * random.uniform(0.25, 1.25)


def _musdb18(prepared: Prepared, names: Sequence[str], **arguments: Any) -> MUSDB18Dataset:
    """asteroid's dataset of some of the songs, in the order of their names on every file system."""
    try:
        dataset = MUSDB18Dataset(
            str(prepared.folder),
            sources=list(STEMS),
            targets=["vocals"],
            split="train",
            sample_rate=prepared.settings.sample_rate,
            **arguments,
        )
        tracks = [track for track in dataset.tracks if track["path"].name in names]
    except RuntimeError:  # no tracks found
        tracks = []
    if not tracks:
        longer = f" of more than {arguments['segment']} s" if "segment" in arguments else ""
        raise ValueError(f"{prepared.folder} holds no songs{longer} to take among {len(names)}")
    dataset.tracks = sorted(tracks, key=lambda track: track["path"])
    return dataset
