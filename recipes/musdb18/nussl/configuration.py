"""What is trained: a configuration such as ``local/conf.yml``, and the options that change it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

Conf = dict[str, Any]
"""What a file such as ``local/conf.yml`` holds."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "sources": ("sources",),
    "hop_length": ("hop_length",),
    "excerpt_frames": ("excerpt_frames",),
    "mixing": ("mixing",),
    "channels": ("network", "channels"),
    "bottleneck": ("network", "bottleneck"),
    "max_channels": ("network", "max_channels"),
    "residual_blocks": ("network", "residual_blocks"),
    "mixtures": ("scaper", "mixtures"),
    "epochs": ("training", "epochs"),
    "epoch_steps": ("training", "epoch_steps"),
    "batch_size": ("training", "batch_size"),
    "lr": ("training", "learning_rate"),
    "schedule": ("training", "schedule"),
    "patience": ("training", "patience"),
    "loss": ("training", "loss"),
    "seed": ("training", "seed"),
}
"""Options of the command line, and where in a configuration they stand."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what is trained, for this script and for those that go with it."""
    parser.add_argument("--conf", type=Path, default=Path(__file__).parent / "local" / "conf.yml")
    for name, path in OPTIONS.items():
        parser.add_argument(f"--{name}", type=yaml.safe_load, help=f"instead of {': '.join(path)} there")


def read_conf(options: argparse.Namespace) -> Conf:
    """The configuration that the options name, with those in it that were given one by one."""
    conf = yaml.safe_load(options.conf.read_text())
    for name, path in OPTIONS.items():
        value = getattr(options, name)
        if value is not None:
            group = conf
            for key in path[:-1]:
                group = group[key]
            group[path[-1]] = value
    return conf


def network_name(conf: Conf) -> str:
    """Such as ``"Residual U-Net + BLSTM, 4 stems"``."""
    network, stems = conf["network"], conf["sources"].count(",") + 1
    name = "Residual U-Net" if network["residual_blocks"] else "U-Net"
    if network["bottleneck"]:
        name += f" + {network['bottleneck'].upper()}"
    return name + (f", {stems} stems" if stems > 1 else "")
