"""What a step of training takes, beside what its data and its network take alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from timing import Seconds, Setting, digits, spread, table
from torch import nn
from torch.utils.data import DataLoader

import svs_unet_plugin.nussl as svs
from svs_unet_plugin.asteroid import SVSUNet
from svs_unet_plugin.asteroid import datasets as for_asteroid
from svs_unet_plugin.asteroid import training as by_asteroid
from svs_unet_plugin.corpora.prepare import Prepared, prepare
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.mixing.excerpts import mapped_songs
from svs_unet_plugin.mixing.scaper import MixSettings, write_mixtures
from svs_unet_plugin.nussl import nussl
from svs_unet_plugin.nussl.datasets import OnTheFly, open_mixtures, whole_songs
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.training.optimization import uses_bfloat16

NAMES = ("vocals", "drums", "bass", "other")
BATCH = 8


def section(setting: Setting) -> str:
    """Batches by each way of mixing, steps of the network alone, and steps of both hosts' training."""
    tracks, seconds, steps = (8, 10, 4) if setting.quick else (24, 20, 10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_corpus(folder / "corpus", tracks, seconds=seconds, seed=0)
        prepared = prepare(folder / "corpus", folder / "prepared")
        settings = svs.TrainSettings(epochs=1, epoch_steps=steps * setting.rounds, batch_size=BATCH)
        batches = partial(_batches, count=settings.epoch_steps, clock=setting.clock)
        taken = _drawn(prepared, MixSettings(tracks, seconds=12.0), folder, batches)
        alone = _network_alone(_remix(prepared), setting, settings)
        taken["the network alone: forward, backward, Adam"] = alone
        for workers in (0, 1) if setting.by_the_wall else (0,):
            out = folder / f"nussl {workers}"
            taken[f"training by nussl, {_processes(workers)}"] = _nussl_steps(
                prepared, out, setting, settings, workers
            )
            out = folder / f"asteroid {workers}"
            taken[f"training by asteroid, {_processes(workers)}"] = _asteroid_steps(
                prepared, out, setting, settings, workers
            )
    rows = [
        [
            what,
            spread([1000 * one for one in times]),
            digits(BATCH / median(times)),
            digits(median(times) / median(alone)),
        ]
        for what, times in taken.items()
    ]
    bfloat16 = "in bfloat16" if uses_bfloat16(settings, setting.device.type) else "in float32"
    what = (
        f"{tracks} synthetic songs of {seconds} s; the paper's U-Net {bfloat16}, batches of {BATCH} items of "
        f"128 frames at hop 768; {len(alone)} steps each: median (minimum–maximum)."
    )
    return f"{what}\n\n{table(['step', 'ms', 'items a second', '÷ the network'], rows)}"


def _processes(workers: int) -> str:
    return "one process" if not workers else f"{workers} more that reads"


def _remix(prepared: Prepared) -> svs.Remix:
    songs = mapped_songs(prepared.train, NAMES)
    return svs.Remix(songs, sources=NAMES[:1], others=NAMES[1:])


def _drawn(
    prepared: Prepared, settings: MixSettings, folder: Path, taken: Callable[[Any], Seconds]
) -> dict[str, Seconds]:
    """The seconds of batches, by each way of mixing."""
    params = {"stft_params": svs.stft_params()}

    def transform(cache: Path | None = None) -> Any:
        return svs.training_transform(cache=cache)

    write_mixtures(prepared, folder / "mixtures", settings)
    written = open_mixtures(folder / "mixtures", settings, transform=transform(), **params)
    cached = open_mixtures(folder / "mixtures", settings, transform=transform(folder / "cache"), **params)
    for index in range(len(cached)):
        cached[index]
    cached.cache_populated = True
    in_memory = svs.Remix(whole_songs(prepared.train), sources=NAMES[:1], others=NAMES[1:])
    return {
        "data alone: excerpts cut from the prepared files (Remix)": taken(_remix(prepared)),
        "data alone: excerpts cut from memory (Remix)": taken(in_memory),
        "data alone: scaper, anew each time (OnTheFly)": taken(
            OnTheFly(prepared, settings, 10_000, transform=transform(), **params)
        ),
        "data alone: scaper's mixtures, written once": taken(written),
        "data alone: scaper's mixtures, from a cache of magnitudes": taken(cached),
    }


def _batches(data: Any, count: int, clock: Callable[[], float]) -> Seconds:
    """As a training loop takes them, after one that does not count."""
    loader = DataLoader(data, BATCH, shuffle=True, drop_last=True, collate_fn=svs.collate)
    taken: Seconds = []
    while len(taken) <= count:
        start = clock()
        for _ in loader:
            taken.append(clock() - start)
            start = clock()
            if len(taken) > count:
                break
    return taken[1:]


def _network_alone(data: svs.Remix, setting: Setting, settings: svs.TrainSettings) -> Seconds:
    """Steps with a batch that is at hand."""
    device = setting.device.type
    model = nussl.ml.SeparationModel(svs.build_unet_mask_inference())
    model = model.to(setting.device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    batch = {name: value.to(setting.device) for name, value in data.__getitems__(range(BATCH)).items()}
    mixed = uses_bfloat16(settings, device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            estimates = model(batch)["estimates"]
        (estimates.float() - batch["source_magnitudes"]).abs().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.max_norm or torch.inf)
        optimizer.step()

    return [setting.timed(step) for _ in range(settings.epoch_steps + 1)][1:]


def _steps(network: nn.Module, clock: Callable[[], float], train: Callable[[], object]) -> Seconds:
    """The seconds from the beginning of each forward pass to that of the next."""
    begun: Seconds = []

    def note(module: nn.Module, _: object) -> None:
        if module.training:
            begun.append(clock())

    hook = network.register_forward_pre_hook(note)
    train()
    hook.remove()
    return [after - before for before, after in pairwise(begun[1:])]


def _nussl_steps(
    prepared: Prepared, out: Path, setting: Setting, settings: svs.TrainSettings, workers: int
) -> Seconds:
    model = nussl.ml.SeparationModel(svs.build_unet_mask_inference())
    songs = whole_songs(
        prepared.valid, stft_params=svs.stft_params(), transform=svs.training_transform(excerpt_frames=None)
    )
    arguments = model, _remix(prepared), songs, out, settings
    device = str(setting.device)
    train = partial(svs.train, device=device, workers=workers, progress=False)
    return _steps(model, setting.clock, lambda: train(*arguments))


def _asteroid_steps(
    prepared: Prepared, out: Path, setting: Setting, settings: svs.TrainSettings, workers: int
) -> Seconds:
    model = SVSUNet()
    items = settings.epoch_steps * BATCH
    excerpts = for_asteroid.Excerpts(mapped_songs(prepared.train, NAMES), STFT(), items=items)
    songs = for_asteroid.whole_songs(prepared)
    system = by_asteroid.MaskSystem(model, excerpts, songs, settings, workers=workers)
    accelerator = "cpu" if setting.device.type == "cpu" else "gpu"
    train = partial(by_asteroid.train, progress=False, accelerator=accelerator, devices=1)
    return _steps(model.network, setting.clock, lambda: train(system, out))
