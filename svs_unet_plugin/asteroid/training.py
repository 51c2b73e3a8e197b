"""Training with asteroid's ``System`` on Lightning, which can be stopped at any moment and goes on exactly.

What is random depends on the seed, the epoch and the step alone (see `Excerpts`), so that neither the number
of processes nor an interruption changes what is learnt.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from svs_unet_plugin.asteroid import compat, joint_layers
from svs_unet_plugin.asteroid.datasets import Excerpts, Item, excerpt_loader, number
from svs_unet_plugin.checkpoint import load_weights_only
from svs_unet_plugin.files import atomic_write
from svs_unet_plugin.training.loss import SpectralSNRLoss

compat.import_asteroid()
compat.import_lightning()
from asteroid.engine import System  # noqa: E402
from asteroid.engine.optimizers import make_optimizer  # noqa: E402
from pytorch_lightning import LightningModule, Trainer  # noqa: E402
from pytorch_lightning.callbacks import (  # noqa: E402
    Callback,
    EarlyStopping,
    ModelCheckpoint,
)
from pytorch_lightning.plugins.io import TorchCheckpointIO  # noqa: E402

MAY_CHANGE = ("epochs", "minutes", "num_workers")
"""What may be otherwise when a run goes on."""


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Args:
        epochs: at most, ≥ 1.
        batch_size: excerpts a step, of all processes together.
        num_workers: processes that read data, besides each that trains.
        optimizer, lr, weight_decay: for ``asteroid.engine.optimizers.make_optimizer``.
        half_lr: whether to halve the learning rate after ``patience`` / 4 epochs without a better loss.
        patience: epochs without a better validation loss after which training stops; None for never.
        loss: ``"snr"``, `SpectralSNRLoss`, or ``"l1"`` between magnitudes, the paper's.
        gradient_clipping: gradients of a larger L2 norm are scaled down to it; None for no limit.
        minutes: of wall-clock time after which training stops, over all its parts; None for no limit.
        accelerator, devices, num_nodes, strategy, precision: for ``pytorch_lightning.Trainer``, as they are.
    """

    epochs: int = 200
    batch_size: int = 16
    num_workers: int = 0
    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    half_lr: bool = True
    patience: int | None = 20
    loss: Literal["snr", "l1"] = "snr"
    gradient_clipping: float | None = 1.0
    minutes: float | None = None
    accelerator: str = "auto"
    devices: str | int = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.loss not in ("snr", "l1"):
            raise ValueError(f"loss must be 'snr' or 'l1', got {self.loss!r}")


class VocalsSystem(System):
    """asteroid's ``System`` for a model that finds the vocals in one channel.

    Args:
        model: an `SVSUNet`; for another, override `common_step`.
        excerpts: to train on.
        songs: for validation, whole, one at a time.
        settings: how to train.
        config: a dictionary of dictionaries, kept in the checkpoints. A run goes on with the same one only,
            but for ``"main_args"`` and `MAY_CHANGE`.
    """

    def __init__(
        self,
        model: nn.Module,
        excerpts: Excerpts,
        songs: Dataset,
        settings: TrainSettings,
        config: dict[str, Any] | None = None,
    ) -> None:
        optimizer = make_optimizer(
            model.parameters(),
            optimizer=settings.optimizer,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
        )
        # Lightning trains a model in the mode that it finds it in, and a loaded one is in evaluation mode.
        loss = SpectralSNRLoss() if settings.loss == "snr" else nn.L1Loss()
        super().__init__(model.train(), optimizer, loss, None, DataLoader(songs), config=config)
        self.excerpts, self.settings = excerpts, settings

    def common_step(self, batch: Item, batch_nb: int, train: bool = True) -> Tensor:
        """The loss of a batch; its channels are items of their own."""
        mixture, vocals = (signal.reshape(-1, 1, signal.shape[-1]) for signal in batch)
        snr = self.settings.loss == "snr"
        magnitudes = self.model.magnitudes(mixture, vocals, phase_sensitive=snr)
        return self.loss_func(*(magnitudes if snr else magnitudes[:2]))

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
            self.settings.num_workers,
            self.trainer.global_rank,
            self.trainer.world_size,
        )

    def on_train_batch_start(self, batch: Item, batch_idx: int) -> None:
        """Seed dropout by the step."""
        torch.manual_seed(number(self.excerpts.seed, self.global_step))


def train(system: VocalsSystem, out: str | os.PathLike[str], *, progress: bool = True) -> Path:
    """Train a system, or go on where an earlier call with the same folder was stopped.

    After each epoch ``out`` holds ``checkpoints/last.ckpt`` and those of the five best epochs,
    ``losses.csv``, ``conf.yml``, ``versions.txt`` and Lightning's logs. A run that was stopped, in whatever
    way, and is called again, ends where an undisturbed one ends.

    Args:
        system: whose settings and data must be those of the earlier call.
        out: a folder for this run alone.
        progress: whether to show bars.

    Returns:
        The checkpoint of the lowest validation loss; see `load_best`.

    Raises:
        ValueError: if ``out`` holds a run of another configuration, or a loss is not finite.
    """
    settings, out = system.settings, Path(out)
    checkpoints = out / "checkpoints"
    best = ModelCheckpoint(
        checkpoints,
        monitor="val_loss",
        save_top_k=5,
        save_last=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    callbacks = [Losses(out / "losses.csv"), best]
    if settings.patience is not None:
        callbacks.append(Stop(monitor="val_loss", patience=settings.patience))
        if settings.half_lr:
            callbacks.append(HalveLearningRate(settings.patience // 4))
    as_they_are = ("accelerator", "devices", "num_nodes", "strategy", "precision")
    passed_on: dict[str, Any] = {name: getattr(settings, name) for name in as_they_are}
    trainer = Trainer(
        **passed_on,
        sync_batchnorm=settings.accelerator != "cpu" and torch.cuda.is_available(),
        gradient_clip_val=settings.gradient_clipping,
        max_epochs=settings.epochs,
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
    last = checkpoints / "last.ckpt"
    if last.exists():
        _refuse_another_run(out, load_weights_only(last)["training_config"], system.config)
    if trainer.is_global_zero:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("versions.txt", installed_versions()),
            ("conf.yml", yaml.safe_dump(system.config)),
        ):
            with atomic_write(out / name) as beside:
                beside.write_text(text)
    if settings.precision.startswith("64"):
        system.double()  # Lightning takes the checkpoint's weights before it does so, at the precision then
    trainer.fit(system, ckpt_path=last if last.exists() else None)
    return Path(best.best_model_path)


def load_best(model: nn.Module, path: Path) -> Any:
    """The model with the weights that a checkpoint of Lightning's holds, on the CPU, in evaluation mode."""
    prefix = "model."
    weights = load_weights_only(path)["state_dict"]
    model.cpu().load_state_dict(
        {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    )
    return model.eval()


def _refuse_another_run(out: Path, before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> None:
    """Raise if a folder holds a run that was configured otherwise."""
    changed = [
        name
        for group, values in before.items()
        if group != "main_args"
        for name, value in values.items()
        if name not in MAY_CHANGE and now.get(group, {}).get(name) != value
    ]
    if changed:
        raise ValueError(
            f"{out} holds a run with another {' and '.join(changed)}: take the same to go on with it, or "
            "another folder"
        )


def installed_versions() -> str:
    """Every installed package with its version, a line each, as ``pip freeze`` has them."""
    names = {f"{package.name}=={package.version}" for package in metadata.distributions()}
    return "\n".join(sorted(names, key=str.lower)) + "\n"


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are written beside and renamed, and read as data only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as beside:
            torch.save(checkpoint, beside)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_weights_only(path)


class Losses(Callback):
    """Keeps the losses of each epoch, in a table and in the checkpoints.

    Args:
        path: of the table, with the columns epoch, train and validation.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[list[float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        losses = [float(trainer.callback_metrics[name]) for name in ("loss", "val_loss")]
        if not all(map(torch.isfinite, map(torch.tensor, losses))):
            raise ValueError(f"the losses of epoch {trainer.current_epoch + 1} are {losses}")
        self.rows.append(losses)
        if trainer.is_global_zero:
            rows = [f"{i},{train!r},{valid!r}\n" for i, (train, valid) in enumerate(self.rows, start=1)]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path) as beside:
                beside.write_text("epoch,train,validation\n" + "".join(rows))

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]


class HalveLearningRate(Callback):
    """torch's ``ReduceLROnPlateau``, as a callback.

    Lightning steps the schedulers that it knows after the checkpoint of an epoch is written, and leaves out
    that step when it goes on from there.

    Args:
        patience: epochs without a better validation loss after which the rate is halved.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.state: dict[str, Any] = {}
        self.scheduler: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            trainer.optimizers[0], factor=0.5, patience=self.patience
        )
        self.scheduler.load_state_dict(self.state)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.scheduler is not None
        self.scheduler.step(float(trainer.callback_metrics["val_loss"]))

    def state_dict(self) -> dict[str, Any]:
        return self.state if self.scheduler is None else self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict


class Stop(EarlyStopping):
    """Early stopping that also remembers, when called again, that it has stopped."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience
