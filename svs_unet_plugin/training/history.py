"""The losses of a run, epoch by epoch: as a table and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from svs_unet_plugin.files import atomic_write, write_text


@dataclass(frozen=True)
class Losses:
    """Losses of a training, one number an epoch.

    Args:
        train: the mean over the steps of an epoch.
        validation: the mean over the songs for validation after it.
    """

    train: tuple[float, ...]
    validation: tuple[float, ...]


def write_losses(path: Path, losses: Losses) -> None:
    """Write a table with the columns epoch, train and validation."""
    pairs = zip(losses.train, losses.validation, strict=True)
    rows = [f"{epoch},{train!r},{validation!r}" for epoch, (train, validation) in enumerate(pairs, start=1)]
    write_text(path, "\n".join(["epoch,train,validation", *rows]) + "\n")


def read_losses(path: Path) -> Losses | None:
    """The losses in a table, or None where there is none.

    Raises:
        ValueError: if it is no such table.
    """
    if not path.exists():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            pairs = [(float(row["train"]), float(row["validation"])) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no table of losses with the columns epoch, train, validation: {error}"
        ) from error
    return Losses(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))


def plot_losses(path: Path, losses: Losses, loss: str) -> None:
    """Draw the losses as a PNG.

    Args:
        loss: its name, for the axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel=loss, title="Loss of mask × mixture against the source")
    curves: Sequence[tuple[str, tuple[float, ...]]] = (
        ("train", losses.train),
        ("validation", losses.validation),
    )
    for name, values in curves:
        axes.plot(range(1, len(values) + 1), values, marker=".", label=name)
    if min(losses.train) > 0:  # not so in dB
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(path) as beside:
        figure.savefig(beside, dpi=120, format="png")
