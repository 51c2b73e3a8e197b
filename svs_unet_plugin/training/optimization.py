"""What both hosts optimise with: the schedule of the learning rate, and where bfloat16 is fast."""

from __future__ import annotations

from typing import Any

import torch

from svs_unet_plugin.training.settings import TrainSettings


def make_scheduler(optimizer: torch.optim.Optimizer, settings: TrainSettings) -> Any:
    """torch's scheduler of the settings.

    A ``"one-cycle"`` schedule is stepped after each batch, a ``"plateau"`` one after each epoch with the
    validation loss.
    """
    if settings.schedule == "one-cycle":
        total = settings.epochs * settings.epoch_steps
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=total + 1)
    # torch tolerates `patience` such epochs, and by default a loss below 0 that rises a little.
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=settings.plateau_epochs - 1, threshold=0.0
    )


def uses_bfloat16(settings: TrainSettings, device: str) -> bool:
    """Whether the network runs in bfloat16: where the settings leave it open, where that is fast.

    It is fast on processors with AMX, and on GPUs from compute capability 8 on (Ampere), which emulate
    nothing. This was not tried on a GPU.
    """
    if settings.mixed_precision is not None:
        return settings.mixed_precision
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device == "cpu" and torch.cpu._is_amx_tile_supported()
