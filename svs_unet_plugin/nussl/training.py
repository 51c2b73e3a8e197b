"""Training on nussl's engines and closures, which can be stopped at any moment and goes on exactly.

nussl's ``add_validate_and_checkpoint`` is not used, because it writes in place, so that a kill leaves half
a file, and keeps neither the random states nor the schedule. The files that it names are the same.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from svs_unet_plugin.audio import whole_file
from svs_unet_plugin.checkpoint import load_weights_only
from svs_unet_plugin.nussl import compat
from svs_unet_plugin.nussl.model import save

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
        max_norm: gradients of a larger L2 norm are scaled down to it; None for no limit.
        mixed_precision: bfloat16 in the network; None for where there is a GPU.
        seed: of every random number.
    """

    epochs: int = 100
    epoch_steps: int = 100
    batch_size: int = 8
    learning_rate: float = 1e-3
    schedule: Literal["plateau", "one-cycle"] = "plateau"
    patience: int | None = None
    max_norm: float | None = 1.0
    mixed_precision: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "epoch_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.schedule not in ("plateau", "one-cycle"):
            raise ValueError(f"schedule must be 'plateau' or 'one-cycle', got {self.schedule!r}")


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
    """Train a model on a nussl dataset: L1 between mask × mixture and source magnitudes, by Adam.

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
        ValueError: if ``out`` holds a run of other settings.
    """
    settings = settings or TrainSettings()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    checkpoints = Path(out) / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)

    nussl.utils.seed(settings.seed)
    _fill_caches(train_data, val_data)
    model = model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    scheduler = _scheduler(optimizer, settings)
    losses = {"L1Loss": {"weight": 1.0}}
    steps = settings.epoch_steps * settings.batch_size
    train_loader = DataLoader(
        train_data,
        settings.batch_size,
        sampler=RandomSampler(train_data, num_samples=steps),
        num_workers=workers,
    )
    val_loader = DataLoader(val_data, batch_size=1, num_workers=workers)
    trainer, validator = nussl.ml.train.create_train_and_validation_engines(
        nussl.ml.train.closures.TrainClosure(losses, optimizer, model),
        nussl.ml.train.closures.ValidationClosure(losses, model),
        device,
    )
    run = _Run(model, optimizer, scheduler, settings, checkpoints / "latest.state.pth")
    run.resume(trainer)

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
        plot_losses(history, Path(out) / "loss.png")
        engine.fire_event(nussl.ml.train.ValidationEvents.VALIDATION_COMPLETED)
        if settings.patience is not None and len(validation) - _best(validation) > settings.patience:
            engine.terminate()

    nussl.ml.train.add_tensorboard_handler(str(Path(out) / "tensorboard"), trainer)
    if progress:
        nussl.ml.train.add_progress_bar_handler(trainer, validator)
    mixed = device != "cpu" if settings.mixed_precision is None else settings.mixed_precision
    with _mixed_precision(model, device) if mixed else nullcontext():
        if not run.finished():
            trainer.run(train_loader, max_epochs=settings.epochs)
    return checkpoints / "best.model.pth"


class _Run:
    """All that changes while a model trains, kept in one file a run."""

    def __init__(
        self, model: nn.Module, optimizer: Any, scheduler: Any, settings: TrainSettings, path: Path
    ) -> None:
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.settings, self.path = settings, path
        self.history: dict[str, list[float]] = {}
        self.random: dict[str, Any] | None = None

    def resume(self, trainer: Engine) -> None:
        """Take up the run that the file holds, if there is one."""
        if self.path.exists():
            state = load_weights_only(self.path)
            if state["settings"] != asdict(self.settings):
                changed = [k for k, v in asdict(self.settings).items() if state["settings"].get(k) != v]
                raise ValueError(
                    f"{self.path.parent.parent} holds a run with another {' and '.join(changed)}: "
                    "take the same settings to go on with it, or another folder"
                )
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.history, self.random = state["history"], state["random"]
            trainer.load_state_dict(
                {
                    "epoch": len(self.history["train/loss"]),
                    "max_epochs": self.settings.epochs,
                    "epoch_length": self.settings.epoch_steps,
                }
            )

        @trainer.on(Events.STARTED)
        def go_on(engine: Any) -> None:  # after nussl's own handler, which empties the history
            engine.state.epoch_history = self.history
            if self.random is not None:
                _set_random_states(self.random)

    def save(self, engine: Any) -> None:
        content = {
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "history": engine.state.epoch_history,
            "random": _random_states(),
        }
        with whole_file(self.path) as beside:
            torch.save(content, beside)

    def finished(self) -> bool:
        """Whether the run that was taken up had come to its end."""
        validation = self.history.get("validation/loss", [])
        patience = self.settings.patience
        stopped = patience is not None and bool(validation) and len(validation) - _best(validation) > patience
        return stopped or len(validation) >= self.settings.epochs


def _best(losses: list[float]) -> int:
    """The epoch, from 1, with the lowest loss."""
    return 1 + int(np.argmin(losses))


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

    def mixed(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        with torch.autocast(device, torch.bfloat16):
            output = forward(*args, **kwargs)
        return {key: value.float() for key, value in output.items()}

    model.forward = mixed
    try:
        yield
    finally:
        del model.forward


def _fill_caches(*datasets: Any) -> None:
    """Fill the caches among the datasets' transforms, where they are not full already."""
    cache_class = nussl.datasets.transforms.Cache
    for dataset in datasets:
        steps = getattr(dataset.transform, "transforms", [dataset.transform])
        if any(isinstance(step, cache_class) for step in steps) and not dataset.cache_populated:
            nussl.ml.train.cache_dataset(dataset)


def plot_losses(history: dict[str, list[float]], path: Path) -> None:
    """Draw the losses of each epoch, ``train/loss`` and ``validation/loss``, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(
        xlabel="epoch", ylabel="L1 loss", yscale="log", title="Loss of mask × mixture against the source"
    )
    for name in ("train/loss", "validation/loss"):
        axes.plot(range(1, len(history[name]) + 1), history[name], marker=".", label=name.partition("/")[0])
    axes.grid(alpha=0.3)
    axes.legend()
    with whole_file(path) as beside:
        figure.savefig(beside, dpi=120, format="png")
