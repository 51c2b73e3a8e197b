"""Training on nussl's engines and closures, which can be stopped at any moment and goes on exactly.

nussl's ``add_validate_and_checkpoint`` is not used, because it writes in place, so that a kill leaves half
a file, and keeps neither the random states nor the schedule. The files that it names are the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, default_collate
from tqdm import tqdm

from svs_unet_plugin import unet
from svs_unet_plugin.files import atomic_write
from svs_unet_plugin.nussl import compat
from svs_unet_plugin.nussl.datasets import Remix
from svs_unet_plugin.nussl.model import save
from svs_unet_plugin.nussl.run_state import Run, lock_file

nussl = compat.import_nussl()


@dataclass(frozen=True)
class TrainSettings:
    """How to train; the defaults are the paper's where it tells.

    Args:
        epochs: at most, ≥ 1.
        epoch_steps: batches an epoch, ≥ 1.
        batch_size: excerpts a batch, ≥ 1.
        learning_rate: of Adam; the largest one, for ``"one-cycle"``.
        schedule: ``"plateau"`` halves the rate after ``patience`` / 2 epochs without a better loss;
            ``"one-cycle"`` rises to the rate and falls to nothing over all epochs (L. Smith, N. Topin:
            "Super-convergence", 2018).
        patience: epochs without a better validation loss after which training stops; None for never.
        loss: ``"L1Loss"`` between mask × mixture and source magnitudes, as in the paper, or
            ``"SpectralSNRLoss"``, or another of nussl's losses.
        max_norm: gradients of a larger L2 norm are scaled down to it; None for no limit.
        mixed_precision: bfloat16 in the network; None for where that is fast: on a GPU, or a processor with
            AMX.
        seed: of every random number from the call of `train` on; seed before a model is made, too.
    """

    epochs: int = 100
    epoch_steps: int = 100
    batch_size: int = 8
    learning_rate: float = 1e-3
    schedule: Literal["plateau", "one-cycle"] = "plateau"
    patience: int | None = None
    loss: str = "L1Loss"
    max_norm: float | None = 1.0
    mixed_precision: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "epoch_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.schedule not in ("plateau", "one-cycle"):
            raise ValueError(f"schedule must be 'plateau' or 'one-cycle', got {self.schedule!r}")
        if not hasattr(nussl.ml.train.loss, self.loss):
            raise ValueError(f"nussl has no loss {self.loss!r}; take 'L1Loss' or 'SpectralSNRLoss'")


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
    ``out`` holds ``checkpoints/latest.model.pth`` and ``best.model.pth`` (see `save`), losses for TensorBoard
    in ``tensorboard``, and ``loss.png``. A run that was stopped, in whatever way, and is called again with
    the same arguments goes on after its last whole epoch, and ends where an undisturbed one ends.

    Args:
        model: a ``nussl.ml.SeparationModel`` of `build_unet_mask_inference`.
        train_data: a nussl dataset with `training_transform`; a cache in it is filled first.
        val_data: the same with ``excerpt_frames=None``: songs are validated whole, one at a time.
        out: a folder for this run alone.
        device: ``"cpu"`` or ``"cuda"``; by default a GPU if there is one.
        workers: processes that read data, besides this one.
        progress: whether to show bars on standard error.

    Returns:
        The path of the checkpoint with the lowest validation loss.

    Raises:
        ValueError: if ``out`` holds a run of other settings, data or network, or another process trains
            there now.
    """
    settings = settings or TrainSettings()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    checkpoints = Path(out) / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)

    lock = lock_file(Path(out) / ".lock")
    run = Run(checkpoints / "latest.state.pth", _description(settings, model, train_data))
    nussl.utils.seed(settings.seed)
    _fill_caches(train_data, val_data, progress=progress)
    # With the channels last in memory, convolutions are some ten percent faster on a CPU.
    model = model.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
    scheduler = _scheduler(optimizer, settings)
    losses = {settings.loss: {"weight": 1.0}}
    steps = settings.epoch_steps * settings.batch_size
    train_loader = DataLoader(
        train_data,
        settings.batch_size,
        sampler=RandomSampler(train_data, num_samples=steps),
        num_workers=workers,
        collate_fn=_collate,
    )
    val_loader = DataLoader(val_data, batch_size=1, num_workers=workers)
    trainer, validator = nussl.ml.train.create_train_and_validation_engines(
        nussl.ml.train.closures.TrainClosure(losses, optimizer, model),
        nussl.ml.train.closures.ValidationClosure(losses, model),
        device,
    )
    run.attach(
        trainer,
        {"model": model, "optimizer": optimizer, "scheduler": scheduler},
        settings.epochs,
        settings.epoch_steps,
    )

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
        run.save(engine)
        plot_losses(history, settings.loss, Path(out) / "loss.png")
        engine.fire_event(nussl.ml.train.ValidationEvents.VALIDATION_COMPLETED)
        if _got_no_better(validation, settings.patience):
            engine.terminate()

    nussl.ml.train.add_tensorboard_handler(str(Path(out) / "tensorboard"), trainer)
    if progress:
        nussl.ml.train.add_progress_bar_handler(trainer, validator)
    mixed = settings.mixed_precision
    if mixed is None:
        mixed = device != "cpu" or torch.cpu._is_amx_tile_supported()
    with lock, _mixed_precision(model, device) if mixed else nullcontext():
        losses_so_far = run.history.get("validation/loss", [])
        if len(losses_so_far) < settings.epochs and not _got_no_better(losses_so_far, settings.patience):
            trainer.run(train_loader, max_epochs=settings.epochs)
    return checkpoints / "best.model.pth"


def _description(settings: TrainSettings, model: Any, train_data: Any) -> dict[str, Any]:
    """What must be the same for a run to go on: settings, network and data, but not where the data lie."""
    cache_class = nussl.datasets.transforms.Cache
    steps = getattr(train_data.transform, "transforms", [train_data.transform])
    if isinstance(train_data, Remix):
        steps = [train_data, *steps]
    arguments = {key: module.get("args") for key, module in model.config["modules"].items()}
    return {
        **asdict(settings),
        "network": json.dumps(arguments, sort_keys=True),
        "STFT": str(train_data.stft_params),
        "transform": [repr(step) for step in steps if not isinstance(step, cache_class)],
        "number of items": len(train_data),
    }


def _collate(items: Any) -> Any:
    """A batch from its items; a dataset such as `Remix` returns all of it at once."""
    return items if isinstance(items, dict) else default_collate(items)


def _got_no_better(losses: list[float], patience: int | None) -> bool:
    """Whether the lowest loss is more than ``patience`` epochs old."""
    return patience is not None and bool(losses) and len(losses) - 1 - int(np.argmin(losses)) > patience


def _scheduler(optimizer: torch.optim.Optimizer, settings: TrainSettings) -> Any:
    if settings.schedule == "one-cycle":
        total = settings.epochs * settings.epoch_steps
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=total + 1)
    patience = 5 if settings.patience is None else settings.patience // 2
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience)


@contextmanager
def _mixed_precision(model: nn.Module, device: str) -> Iterator[None]:
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
    cache_class = nussl.datasets.transforms.Cache
    for dataset in datasets:
        steps = getattr(dataset.transform, "transforms", [dataset.transform])
        if any(isinstance(step, cache_class) for step in steps) and not dataset.cache_populated:
            for i in tqdm(range(len(dataset)), desc="Cache", unit="item", disable=not progress):
                dataset[i]
            dataset.cache_populated = True


def plot_losses(history: dict[str, list[float]], loss: str, path: Path) -> None:
    """Draw the losses of each epoch, ``train/loss`` and ``validation/loss``, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel=loss, title="Loss of mask × mixture against the source")
    for name in ("train/loss", "validation/loss"):
        axes.plot(range(1, len(history[name]) + 1), history[name], marker=".", label=name.partition("/")[0])
    if min(history["train/loss"]) > 0:  # not so in dB
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(path) as beside:
        figure.savefig(beside, dpi=120, format="png")
