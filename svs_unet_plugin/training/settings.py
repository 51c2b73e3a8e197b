"""How a network is trained, in the same words for both hosts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainSettings:
    """How to train; the defaults are the paper's where it gives them.

    Args:
        epochs: at most, ≥ 1. It may grow when a run is resumed, unless the schedule is ``"one-cycle"``.
        epoch_steps: batches an epoch, ≥ 1.
        batch_size: excerpts a batch, ≥ 1, of all processes together.
        learning_rate: of Adam, > 0; the largest one, for ``"one-cycle"``.
        weight_decay: of Adam, ≥ 0.
        schedule: ``"plateau"`` halves the rate after `plateau_epochs` epochs without a lower validation loss;
            ``"one-cycle"`` rises to the rate and falls to nothing over all epochs (L. Smith, N. Topin:
            "Super-convergence", 2018).
        patience: epochs without a lower validation loss after which training stops, ≥ 1; None for never.
        loss: ``"l1"`` between mask × mixture and source magnitudes, as in the paper, or ``"snr"``,
            `SpectralSNRLoss` against phase-sensitive magnitudes.
        max_norm: gradients of a larger L2 norm are scaled down to it, > 0; None for no limit.
        mixed_precision: bfloat16 in the network; None for where that is fast: on a GPU that has it, or a
            processor with AMX.
        minutes: of wall-clock time after which training stops, over all its parts, > 0; None for no limit.
        seed: of every random number from the call of ``train`` on, ≥ 0; seed before a model is made, too.

    Raises:
        ValueError: if a setting is out of its range.
    """

    epochs: int = 100
    epoch_steps: int = 100
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["plateau", "one-cycle"] = "plateau"
    patience: int | None = None
    loss: Literal["l1", "snr"] = "l1"
    max_norm: float | None = 1.0
    mixed_precision: bool | None = None
    minutes: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "epoch_steps", "batch_size", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("learning_rate", "max_norm", "minutes"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be more than 0, got {value}")
        for name in ("weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.schedule not in ("plateau", "one-cycle"):
            raise ValueError(f"schedule must be 'plateau' or 'one-cycle', got {self.schedule!r}")
        if self.loss not in ("l1", "snr"):
            raise ValueError(f"loss must be 'l1' or 'snr', got {self.loss!r}")

    @property
    def phase_sensitive(self) -> bool:
        """Whether the references of the loss are phase-sensitive magnitudes."""
        return self.loss == "snr"

    @property
    def plateau_epochs(self) -> int:
        """Epochs without a lower validation loss after which the rate is halved."""
        return 5 if self.patience is None else max(self.patience // 2, 1)

    @property
    def may_change(self) -> frozenset[str]:
        """Settings that may differ when a run is resumed, since they only say when it ends.

        A one-cycle schedule depends on the epochs, and a plateau schedule on the patience.
        """
        return frozenset({"minutes", "patience" if self.schedule == "one-cycle" else "epochs"})
