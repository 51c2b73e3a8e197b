"""How many excerpts a second each way of mixing gives, and how many the training step takes.

An item is what a network trains on: the magnitudes of 128 frames of a mixture and of its vocals, at 8192 Hz.
Songs are synthetic; one process, as many threads as torch takes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

import svs_unet_plugin.nussl as svs
from svs_unet_plugin.corpora.prepare import Prepared, prepare
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.mixing.excerpts import mapped_songs
from svs_unet_plugin.mixing.scaper import MixSettings, write_mixtures
from svs_unet_plugin.nussl import nussl
from svs_unet_plugin.nussl.datasets import OnTheFly, open_mixtures, whole_songs

NAMES = ("vocals", "drums", "bass", "other")
BATCH = 8
SECONDS_EACH = 5.0
"""For which each way is run, and once before, for a second, to warm up."""


@dataclass(frozen=True)
class Row:
    """A way of mixing.

    Args:
        name: what people read.
        rate: items a second.
        needs: what it takes before the first item.
    """

    name: str
    rate: float
    needs: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracks", type=int, default=24, help="synthetic songs (default 24)")
    parser.add_argument("--mixtures", type=int, default=24, help="mixtures that scaper writes (default 24)")
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        make_corpus(Path(folder) / "corpus", options.tracks, seconds=20, seed=0)
        prepared = prepare(Path(folder) / "corpus", Path(folder) / "prepared")
        rows = ways(prepared, MixSettings(options.mixtures, seconds=12.0), Path(folder))
        songs = mapped_songs(prepared.train, NAMES)
        eaten = training_rate(svs.Remix(songs, sources=NAMES[:1], others=NAMES[1:]))
    print(
        f"\n{options.tracks} songs of 20 s, batches of {BATCH}, {torch.get_num_threads()} thread(s); ", end=""
    )
    print(f"torch {torch.__version__}, load average before: {os.getloadavg()[2]:.1f}\n")
    print("| way | items a second | ÷ training | needs |\n|---|---:|---:|---|")
    for row in rows:
        print(f"| {row.name} | {row.rate:.1f} | {row.rate / eaten:.2f} | {row.needs} |")
    print(f"| (training step, U-Net, L1 loss) | {eaten:.1f} | 1.00 | |")


def ways(prepared: Prepared, settings: MixSettings, folder: Path) -> list[Row]:
    """The rate of each way of mixing."""
    params = {"stft_params": svs.stft_params()}

    def transform(cache: Path | None = None) -> Any:
        return svs.training_transform(cache=cache)

    start = time.perf_counter()
    write_mixtures(prepared, folder / "mixtures", settings)
    writing = settings.mixtures / (time.perf_counter() - start)
    written = open_mixtures(folder / "mixtures", settings, transform=transform(), **params)
    cached = open_mixtures(folder / "mixtures", settings, transform=transform(folder / "cache"), **params)
    for index in range(len(cached)):
        cached[index]
    cached.cache_populated = True
    fly = OnTheFly(prepared, settings, 10_000, transform=transform(), **params)

    in_memory, from_files = (
        svs.Remix(songs, sources=NAMES[:1], others=NAMES[1:])
        for songs in (whole_songs(prepared.train), mapped_songs(prepared.train, NAMES))
    )
    once = f"{writing:.1f} mixtures a second, written once"
    return [
        Row("scaper, while training (OnTheFly)", rate(fly), ""),
        Row("scaper's mixtures, read each time (nussl's Scaper)", rate(written), once),
        Row("scaper's mixtures, from a cache of magnitudes", rate(cached), f"{once}, and cached"),
        Row("excerpts cut from the prepared files (Remix)", rate(from_files), ""),
        Row("excerpts cut from memory (Remix)", rate(in_memory), "all songs in memory"),
    ]


def rate(data: Any) -> float:
    """Items a second of a dataset, in batches, as a training loop takes them."""

    def one_pass(seconds: float) -> float:
        items, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            for batch in loader:
                items += len(batch["mix_magnitude"])
                if time.perf_counter() - start >= seconds:
                    break
        return items / (time.perf_counter() - start)

    loader = DataLoader(data, BATCH, shuffle=True, collate_fn=_collate)
    one_pass(1.0)
    return one_pass(SECONDS_EACH)


def _collate(items: Any) -> Any:
    return items if isinstance(items, dict) else torch.utils.data.default_collate(items)


def training_rate(data: Any) -> float:
    """Items a second that steps of training take, when the data cost nothing."""
    model = nussl.ml.SeparationModel(svs.build_unet_mask_inference())
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    batch = data.__getitems__(range(BATCH))
    mixed = torch.cpu._is_amx_tile_supported()  # as svs_unet_plugin.nussl.train decides

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            estimates = model(batch)["estimates"]
        (estimates.float() - batch["source_magnitudes"]).abs().mean().backward()
        optimizer.step()

    return BATCH / float(np.median(timed(step, SECONDS_EACH)))


def timed(work: Callable[[], None], seconds: float) -> list[float]:
    """Seconds that each call took, after one that does not count."""
    work()
    times: list[float] = []
    while sum(times) < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
