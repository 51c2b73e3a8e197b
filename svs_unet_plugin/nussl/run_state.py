"""What a run of training is at any moment, in one file, so that it can go on exactly."""

from __future__ import annotations

import fcntl
import random
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from ignite.engine import Engine, Events

from svs_unet_plugin.checkpoint import load_weights_only
from svs_unet_plugin.files import atomic_write


class Run:
    """All that changes while a model trains, kept in one file.

    Raises:
        ValueError: if the file is of a run of another description.
    """

    def __init__(self, path: Path, description: dict[str, Any]) -> None:
        self.path, self.description = path, description
        self.state: dict[str, Any] = {}
        self.parts: dict[str, Any] = {}
        if path.exists():
            self.state = load_weights_only(path)
            before = self.state["description"]
            if changed := [key for key in description if before.get(key) != description[key]]:
                raise ValueError(
                    f"{path.parent.parent} holds a run with another {' and '.join(changed)}: "
                    "take the same to go on with it, or another folder"
                )

    @property
    def history(self) -> dict[str, list[float]]:
        return self.state.get("history", {})

    def attach(self, trainer: Engine, parts: dict[str, Any], epochs: int, epoch_steps: int) -> None:
        """Put the model, its optimizer and schedule, and the trainer where the run was left."""
        self.parts = parts
        for name, part in parts.items():
            if self.state:
                part.load_state_dict(self.state[name])
        if self.state:
            trainer.load_state_dict(
                {
                    "epoch": len(self.history["train/loss"]),
                    "max_epochs": epochs,
                    "epoch_length": epoch_steps,
                }
            )

        @trainer.on(Events.STARTED)
        def go_on(engine: Any) -> None:  # after nussl's own handler, which empties the history
            engine.state.epoch_history = self.history
            if self.state:
                _set_random_states(self.state["random"])

    def save(self, engine: Any) -> None:
        content = {
            "description": self.description,
            "history": engine.state.epoch_history,
            "random": _random_states(),
            **{name: part.state_dict() for name, part in self.parts.items()},
        }
        with atomic_write(self.path) as beside:
            torch.save(content, beside)


def lock_file(path: Path) -> TextIO:
    """A file that one process at a time holds, until it is closed or the process ends."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"another process trains in {path.parent} now") from error
    return file


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
