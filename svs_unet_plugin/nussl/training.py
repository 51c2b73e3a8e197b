"""Training on nussl's engines and closures, which can be stopped at any moment and is resumed exactly.

nussl's ``add_validate_and_checkpoint`` is not used, and neither is ignite's ``Checkpoint``: the first writes
in place, so that a kill leaves half a file, and both keep neither the random states nor nussl's metadata. The
files that nussl names are the same.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, default_collate
from tqdm import tqdm

from svs_unet_plugin import unet
from svs_unet_plugin.checkpoint import load_weights_only, write
from svs_unet_plugin.files import claim
from svs_unet_plugin.mixing.excerpts import DrawSampler
from svs_unet_plugin.nussl import compat
from svs_unet_plugin.nussl.datasets import DRAWN
from svs_unet_plugin.nussl.model import save
from svs_unet_plugin.training.history import Losses, plot_losses, write_losses
from svs_unet_plugin.training.optimization import make_scheduler, uses_bfloat16
from svs_unet_plugin.training.settings import TrainSettings

nussl = compat.import_nussl()

CACHE = nussl.datasets.transforms.Cache

LOSSES = {"l1": "L1Loss", "snr": "SpectralSNRLoss"}
"""What nussl calls the losses of `TrainSettings`."""


def train(
    model: Any,
    train_data: Any,
    val_data: Any,
    out: str | os.PathLike[str],
    settings: TrainSettings | None = None,
    *,
    device: str | None = None,
    workers: int = 0,
    progress: bool = True,
) -> Path:
    """Train a model on a nussl dataset by Adam.

    An epoch draws ``epoch_steps * batch_size`` items in random order. After each the model is validated and
    ``out`` holds ``checkpoints/latest.model.pth`` and ``best.model.pth`` (see `save`), ``losses.csv``,
    ``loss.png``, and losses for TensorBoard in ``tensorboard``. A run that was stopped, in whatever way, and
    is called again with the same arguments is resumed after its last whole epoch, and ends where an
    undisturbed one ends: on one CPU to the bit, on a GPU not, where some of torch's kernels are not
    deterministic.

    Args:
        model: a ``nussl.ml.SeparationModel`` of `build_unet_mask_inference`.
        train_data: a nussl dataset with `training_transform`, whose cache is filled first; or `Remix`.
        val_data: the same with ``excerpt_frames=None``: songs are validated whole, one at a time.
        out: a folder for this run alone.
        device: ``"cpu"`` or ``"cuda"``; by default a GPU if there is one.
        workers: processes that read data, besides this one.
        progress: whether to show bars on standard error.

    Returns:
        The path of the checkpoint with the lowest validation loss.

    Raises:
        ValueError: if ``out`` holds a run with different settings, data or network, another process trains
            there now, or a validation loss is not finite.
    """
    settings = settings or TrainSettings()
    checkpoints = Path(out) / "checkpoints"
    description = _description(settings, model, train_data, val_data)
    with claim(checkpoints, description, holds="a training run", may_change=settings.may_change):
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        run = _Run(checkpoints / "latest.state.pth")
        nussl.utils.seed(settings.seed)
        _fill_caches(train_data, val_data, progress=progress)
        _train(model, train_data, val_data, Path(out), settings, run, device, workers, progress)
    return checkpoints / "best.model.pth"


def _train(
    model: Any,
    train_data: Any,
    val_data: Any,
    out: Path,
    settings: TrainSettings,
    run: _Run,
    device: str,
    workers: int,
    progress: bool,
) -> None:
    checkpoints = run.path.parent
    # With the channels last in memory, convolutions are some ten percent faster on a CPU.
    model = model.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    scheduler = make_scheduler(optimizer, settings)
    losses = {LOSSES[settings.loss]: {"weight": 1.0}}
    items = settings.epoch_steps * settings.batch_size
    drawn = isinstance(train_data, DRAWN)
    sampler = DrawSampler(items) if drawn else RandomSampler(train_data, num_samples=items)
    train_loader = DataLoader(
        train_data,
        settings.batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
    )
    val_loader = DataLoader(val_data, batch_size=1, num_workers=workers)
    trainer, validator = nussl.ml.train.create_train_and_validation_engines(
        nussl.ml.train.closures.TrainClosure(losses, optimizer, model),
        nussl.ml.train.closures.ValidationClosure(losses, model),
        device,
    )
    run.attach(trainer, {"model": model, "optimizer": optimizer, "scheduler": scheduler}, settings)

    @trainer.on(Events.EPOCH_STARTED)
    def draw_anew(engine: Any) -> None:
        if isinstance(sampler, DrawSampler):
            sampler.set_epoch(engine.state.epoch - 1)

    @trainer.on(nussl.ml.train.BackwardsEvents.BACKWARDS_COMPLETED)
    def clip_gradients(_: Engine) -> None:
        if settings.max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), settings.max_norm)

    @trainer.on(Events.ITERATION_COMPLETED)
    def follow_schedule(_: Engine) -> None:
        if settings.schedule == "one-cycle":
            scheduler.step()

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate_and_checkpoint(engine: Any) -> None:
        engine.fire_event(nussl.ml.train.ValidationEvents.VALIDATION_STARTED)
        validator.run(val_loader)
        history = engine.state.epoch_history
        for name, values in (
            ("train/loss", engine.state.iter_history["loss"]),
            ("validation/loss", validator.state.iter_history["loss"]),
            ("learning_rate", [group["lr"] for group in optimizer.param_groups]),
        ):
            history.setdefault(name, []).append(float(np.mean(values)))
        validation = history["validation/loss"]
        if not np.isfinite(validation[-1]):
            raise ValueError(f"the validation loss of epoch {engine.state.epoch} is {validation[-1]}")
        if settings.schedule == "plateau":
            scheduler.step(validation[-1])
        described = {"train_data": train_data, "val_data": val_data, "trainer": engine}
        save(model, checkpoints / "latest.model.pth", **described)
        if validation[-1] == min(validation):
            save(model, checkpoints / "best.model.pth", **described)
        so_far = Losses(tuple(history["train/loss"]), tuple(validation))
        write_losses(out / "losses.csv", so_far)
        plot_losses(out / "loss.png", so_far, settings.loss)
        run.save(engine)  # last: an epoch is repeated, with all its files, until this is there
        engine.fire_event(nussl.ml.train.ValidationEvents.VALIDATION_COMPLETED)
        if run.is_over(settings):
            engine.terminate()

    nussl.ml.train.add_tensorboard_handler(str(out / "tensorboard"), trainer)
    if progress:
        nussl.ml.train.add_progress_bar_handler(trainer, validator)
    if not run.is_over(settings):
        with _bfloat16(model, device) if uses_bfloat16(settings, device) else nullcontext():
            trainer.run(train_loader, max_epochs=settings.epochs, epoch_length=settings.epoch_steps)


class _Run:
    """What a run of training is after an epoch, in one file, so that it can be resumed exactly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: dict[str, Any] = load_weights_only(path) if path.exists() else {}
        self.history: dict[str, list[float]] = self.state.get("history", {})
        self.parts: dict[str, Any] = {}
        self.started = time.monotonic() - self.state.get("seconds", 0.0)

    def attach(self, trainer: Engine, parts: dict[str, Any], settings: TrainSettings) -> None:
        """Put the model, its optimizer and schedule, and the trainer where the run was left."""
        self.parts = parts
        if self.state:
            for name, part in parts.items():
                part.load_state_dict(self.state[name])
            trainer.load_state_dict(
                {
                    "epoch": len(self.history["train/loss"]),
                    "max_epochs": max(settings.epochs, len(self.history["train/loss"])),
                    "epoch_length": settings.epoch_steps,
                }
            )

        @trainer.on(Events.STARTED)
        def resume(engine: Any) -> None:  # after nussl's own handler, which empties the history
            engine.state.epoch_history = self.history
            if self.state:
                _set_random_states(self.state["random"])

    def save(self, engine: Any) -> None:
        content = {
            "history": engine.state.epoch_history,
            "random": _random_states(),
            "seconds": time.monotonic() - self.started,
            **{name: part.state_dict() for name, part in self.parts.items()},
        }
        write(content, self.path)

    def is_over(self, settings: TrainSettings) -> bool:
        """Whether there are enough epochs, no better one came for long, or the time is up."""
        losses = self.history.get("validation/loss", [])
        if not losses:
            return False
        since_best = len(losses) - 1 - int(np.argmin(losses))
        return (
            len(losses) >= settings.epochs
            or (settings.patience is not None and since_best >= settings.patience)
            or (settings.minutes is not None and time.monotonic() - self.started > 60 * settings.minutes)
        )


def _description(settings: TrainSettings, model: Any, train_data: Any, val_data: Any) -> dict[str, Any]:
    """What must be the same for a run to be resumed: settings, network, and data, wherever these lie."""
    steps = [step for step in _steps(train_data) if not isinstance(step, CACHE)]
    if isinstance(train_data, DRAWN):
        steps = [train_data, *steps]
    arguments = {key: module.get("args") for key, module in model.config["modules"].items()}
    return {
        **asdict(settings),
        "network": json.dumps(arguments, sort_keys=True),
        "STFT": str(train_data.stft_params),
        "transform": [repr(step) for step in steps],
        "items": len(train_data),
        "validation_items": len(val_data),
    }


def _steps(dataset: Any) -> list[Any]:
    """The transforms of a dataset, in order."""
    return getattr(dataset.transform, "transforms", [dataset.transform])


def collate(items: Any) -> Any:
    """A batch from its items, for a loader; a dataset such as `Remix` returns all of it at once."""
    return items if isinstance(items, dict) else default_collate(items)


@contextmanager
def _bfloat16(model: nn.Module, device: str) -> Iterator[None]:
    """While it lasts, the model's forward pass runs in bfloat16; what it returns is float32 again."""
    forward = model.forward

    def mixed(data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # With AMX, a bfloat16 convolution whose result is one column wide may be NaN (torch 2.13).
        wide = data["mix_magnitude"].shape[1] > unet.UNet.stride
        with torch.autocast(device, torch.bfloat16, enabled=wide or device != "cpu"):
            output = forward(data)
        return {key: value.float() for key, value in output.items()}

    model.forward = mixed
    try:
        yield
    finally:
        del model.forward


def _fill_caches(*datasets: Any, progress: bool) -> None:
    """Fill the caches among the datasets' transforms, unless they were opened as populated."""
    for dataset in datasets:
        if any(isinstance(step, CACHE) for step in _steps(dataset)) and not dataset.cache_populated:
            for i in tqdm(range(len(dataset)), desc="Cache", unit="item", disable=not progress):
                dataset[i]
            dataset.cache_populated = True


def _random_states() -> dict[str, Any]:
    version, keys, gauss = random.getstate()
    # nussl uses numpy's global generator, too.
    name, numpy_keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": [version, list(keys), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(numpy_keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def _set_random_states(states: dict[str, Any]) -> None:
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    name, numpy_keys, *rest = states["numpy"]
    np.random.set_state((name, numpy_keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
