"""Training with asteroid's ``System`` on Lightning, which can be stopped at any time and is resumed exactly.

What is random depends on the seed, the epoch and the step alone (see `Excerpts`), so that neither the number
of processes nor an interruption changes what is learnt.
"""

from __future__ import annotations

import copy
import os
from contextlib import nullcontext
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from svs_unet_plugin.asteroid import compat, joint_layers
from svs_unet_plugin.asteroid.datasets import Excerpts, Item, excerpt_loader
from svs_unet_plugin.checkpoint import load_weights_only, write
from svs_unet_plugin.files import claim
from svs_unet_plugin.training import history
from svs_unet_plugin.training.loss import SpectralSNRLoss
from svs_unet_plugin.training.optimization import make_scheduler, uses_bfloat16
from svs_unet_plugin.training.settings import TrainSettings
from svs_unet_plugin.unet import UNet

compat.import_asteroid()
from asteroid.engine import System  # noqa: E402
from pytorch_lightning import LightningModule, Trainer  # noqa: E402
from pytorch_lightning.callbacks import (  # noqa: E402
    Callback,
    EarlyStopping,
    ModelCheckpoint,
)
from pytorch_lightning.plugins.io import TorchCheckpointIO  # noqa: E402


class MaskSystem(System):
    """asteroid's ``System`` for a model whose masks are each for its own source.

    Args:
        model: an `SVSUNet`; for another, override `common_step`.
        excerpts: to train on, with the sources that the model estimates, in its order.
        songs: for validation, whole, one at a time, with the same sources.
        settings: how to train.
        workers: processes that read data, besides each that trains.
    """

    def __init__(
        self,
        model: nn.Module,
        excerpts: Excerpts,
        songs: Dataset,
        settings: TrainSettings,
        *,
        workers: int = 0,
    ) -> None:
        optimizer = torch.optim.Adam(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        loss = SpectralSNRLoss() if settings.loss == "snr" else nn.L1Loss()
        # Lightning trains a model in the mode that it finds it in, and a loaded one is in evaluation mode.
        super().__init__(model.train(), optimizer, loss, None, DataLoader(songs))
        self.excerpts, self.settings, self.workers = excerpts, settings, workers
        self.first_epoch = 0

    def common_step(self, batch: Item, batch_nb: int, train: bool = True) -> Tensor:
        """The loss of a batch; for a model of one channel, its channels are items of their own."""
        mixture, sources = batch
        if self.model.in_channels == 1:
            mixture, sources = one_channel_each(batch)
            sources = sources[:, :, None]
        magnitudes = self.model.magnitudes(mixture, sources, self.settings.phase_sensitive)
        return self.loss_func(*(magnitudes if self.settings.phase_sensitive else magnitudes[:2]))

    def training_step(self, batch: Item, batch_nb: int) -> Tensor:
        """The loss of a batch, whose mean over the epoch and the processes is logged as ``loss``."""
        loss = self.common_step(batch, batch_nb)
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Item, batch_nb: int) -> None:
        """Log the loss of a song; every process validates them all, and so they agree on the best epoch."""
        loss = self.common_step(batch, batch_nb, train=False)
        self.log("val_loss", loss, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=1)

    def setup(self, stage: str) -> None:
        """Make one batch of those of several processes; see `svs_unet_plugin.asteroid.joint_layers`."""
        if self.trainer.world_size > 1 and self.trainer.strategy.root_device.type == "cpu":
            joint_layers.join(self.model)

    def train_dataloader(self) -> DataLoader:
        """This process's part of the batches."""
        return excerpt_loader(
            self.excerpts,
            self.settings.batch_size,
            self.workers,
            self.trainer.global_rank,
            self.trainer.world_size,
            self.first_epoch,
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Learn from where a run is resumed: workers begin before Lightning sets the sampler's epoch."""
        super().on_load_checkpoint(checkpoint)
        self.first_epoch = checkpoint["epoch"] + 1

    def on_train_batch_start(self, batch: Item, batch_idx: int) -> None:
        """Seed dropout by the step."""
        seeds = np.random.SeedSequence((self.settings.seed, self.global_step))
        torch.manual_seed(int(seeds.generate_state(1, np.uint32)[0]))


def one_channel_each(batch: Item) -> Item:
    """Mixtures ``(batch, 1, time)`` and sources ``(batch, sources, time)``, of every channel in a batch.

    Args:
        batch: ``(batch, channels, time)`` and ``(batch, sources, channels, time)``.
    """
    mixture, sources = batch
    return mixture.flatten(0, 1)[:, None], sources.transpose(1, 2).flatten(0, 1)


def train(
    system: MaskSystem, out: str | os.PathLike[str], *, progress: bool = True, **trainer_options: Any
) -> Path:
    """Train a system, or resume what an earlier call with the same folder has begun.

    After each epoch ``out`` holds ``checkpoints/last.ckpt`` and those of the five best epochs,
    ``losses.csv``, ``loss.png`` and Lightning's logs. A run that was stopped, in whatever way, and is called
    again, ends where an undisturbed one ends: on one CPU to the bit, on GPUs not. Only what ``minutes`` has
    stopped in the middle of an epoch does not: resumed with more minutes, that part counts as a whole epoch.

    Args:
        system: whose settings and data must be those of the earlier call, but for what may change.
        out: a folder for this run alone.
        progress: whether to show bars.
        trainer_options: for ``pytorch_lightning.Trainer``, as they are: accelerator, devices, num_nodes,
            strategy, precision …

    Returns:
        The checkpoint of the lowest validation loss; see `load_best`.

    Raises:
        ValueError: if ``out`` holds a run with different settings, an epoch of excerpts is not
            ``epoch_steps`` batches, or a loss is not finite.
    """
    settings, out = system.settings, Path(out)
    checkpoints = out / "checkpoints"
    items = settings.epoch_steps * settings.batch_size
    if len(system.excerpts) != items:
        raise ValueError(
            f"an epoch has {settings.epoch_steps} steps of {settings.batch_size} items, and so the excerpts' "
            f"items must be {items}, got {len(system.excerpts)}"
        )
    best = Best(
        checkpoints,
        monitor="val_loss",
        save_top_k=5,
        save_last=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    callbacks = [Losses(out, settings.loss), Schedule(settings), best]
    if settings.patience is not None:
        callbacks.append(Stop(monitor="val_loss", patience=settings.patience))
    if "precision" not in trainer_options:
        trainer_options["precision"] = "bf16-mixed" if _uses_bfloat16(system, trainer_options) else "32-true"
    last = checkpoints / "last.ckpt"
    done = load_weights_only(last)["epoch"] + 1 if last.exists() else 0
    trainer = Trainer(
        **trainer_options,
        sync_batchnorm=trainer_options.get("accelerator") != "cpu" and torch.cuda.is_available(),
        gradient_clip_val=settings.max_norm,
        max_epochs=max(settings.epochs, done),
        max_time=None if settings.minutes is None else timedelta(minutes=settings.minutes),
        callbacks=callbacks,
        plugins=[WholeFiles()],
        default_root_dir=out,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=progress,
        enable_model_summary=progress,
    )
    if str(trainer_options["precision"]).startswith("64"):
        system.double()  # Lightning takes the checkpoint's weights before it does so, at the precision then
    description = _description(system)
    # The first process alone: the others are part of its run.
    claimed = (
        claim(checkpoints, description, holds="a training run", may_change=settings.may_change)
        if trainer.is_global_zero
        else nullcontext()
    )
    with claimed:
        trainer.fit(system, ckpt_path=last if last.exists() else None)
    return Path(best.best_model_path)


def _uses_bfloat16(system: MaskSystem, trainer_options: dict[str, Any]) -> bool:
    """See `uses_bfloat16`; a shorter excerpt may make NaN of it on a CPU (torch 2.13)."""
    on_gpu = trainer_options.get("accelerator") != "cpu" and torch.cuda.is_available()
    long_enough = system.excerpts.mixer.settings.excerpt_frames > UNet.stride
    return uses_bfloat16(system.settings, "cuda" if on_gpu else "cpu") and (on_gpu or long_enough)


def _description(system: MaskSystem) -> dict[str, Any]:
    """What must be the same for a run to be resumed: settings, network and draws."""
    return {
        **asdict(system.settings),
        "model": type(system.model).__name__,
        "network": {key: str(value) for key, value in system.model.get_model_args().items()},
        "excerpts": str(system.excerpts.mixer.settings),
        "excerpts_seed": system.excerpts.seed,
        "items": len(system.excerpts),
        "validation_items": len(system.val_loader.dataset),
        "songs": system.excerpts.mixer.digest(),
    }


def load_best(model: nn.Module, path: Path) -> Any:
    """The model with the weights that a checkpoint of Lightning's holds, on the CPU, in evaluation mode."""
    prefix = "model."
    weights = load_weights_only(path)["state_dict"]
    model.cpu().load_state_dict(
        {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    )
    return model.eval()


class Best(ModelCheckpoint):
    """Lightning's choice of the best epochs, in a folder that may have been moved since it began."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return os.path.join(str(self.dirpath), os.path.basename(path)) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {
            "dirpath": self.dirpath,
            **{name: here(state_dict[name]) for name in paths},
            "best_k_models": {here(path): loss for path, loss in state_dict["best_k_models"].items()},
        }
        super().load_state_dict({**state_dict, **moved})


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are written whole or not at all, and read as data only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write(checkpoint, path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_weights_only(path)


class Losses(Callback):
    """Keeps the losses of each epoch, in a table, a picture and the checkpoints.

    Args:
        out: the folder of ``losses.csv`` and ``loss.png``.
        loss: its name.
    """

    def __init__(self, out: Path, loss: str) -> None:
        self.out, self.loss = out, loss
        self.rows: list[list[float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        losses = [float(trainer.callback_metrics[name]) for name in ("loss", "val_loss")]
        if not np.isfinite(losses).all():
            raise ValueError(f"the losses of epoch {trainer.current_epoch + 1} are {losses}")
        self.rows.append(losses)
        if trainer.is_global_zero:
            so_far = history.Losses(*zip(*self.rows, strict=True))
            history.write_losses(self.out / "losses.csv", so_far)
            history.plot_losses(self.out / "loss.png", so_far, self.loss)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]


class Schedule(Callback):
    """The schedule of the learning rate, as a callback.

    Lightning steps the schedulers that it knows after the checkpoint of an epoch is written, and leaves out
    that step when it resumes from there.

    Args:
        settings: see `svs_unet_plugin.training.optimization.make_scheduler`.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.state: dict[str, Any] = {}
        self.scheduler: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        optimizer = trainer.optimizers[0]
        resumed = copy.deepcopy(optimizer.state_dict())
        self.scheduler = make_scheduler(optimizer, self.settings)  # sets the rate of a first step
        if self.state:
            self.scheduler.load_state_dict(self.state)
            optimizer.load_state_dict(resumed)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self.settings.schedule == "one-cycle":
            self.scheduler.step()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.settings.schedule == "plateau":
            self.scheduler.step(float(trainer.callback_metrics["val_loss"]))

    def state_dict(self) -> dict[str, Any]:
        return self.state if self.scheduler is None else self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict


class Stop(EarlyStopping):
    """Early stopping that also remembers, when a run is resumed, that it has stopped."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience
