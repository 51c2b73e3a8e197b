"""The configuration of a recipe: a YAML file, and ``--key value`` for whatever is to differ from it.

Every key is a field of one of the dataclasses that it configures, so that its type, its default, its range
and its text in ``--help`` are written once, there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from svs_unet_plugin import checkpoint
from svs_unet_plugin.errors import ERRORS, sentence
from svs_unet_plugin.files import differences, fingerprint, one_line, read_settings, write_text
from svs_unet_plugin.mixing.excerpts import ExcerptSettings
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.training.settings import TrainSettings
from svs_unet_plugin.unet import UNet, as_stereo

CONFIGURATION_FILE = "conf.yml"
"""What an experiment was configured with, in its folder; ``--conf`` reads it again."""

DATA_FILE = "data.yml"
"""What it was trained on."""

LARGEST_FILE = 200_000
"""Bytes of a YAML file: what is nested in a larger one would take long to read."""

NETWORK = ("in_channels", "channels", "bottleneck", "max_channels", "residual_blocks")
"""The arguments of `UNet` that a configuration has."""


Settings = TypeVar("Settings")


def picked(settings: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Settings, a dataclass, of those values that are its fields; others are left alone."""
    names = {field.name for field in fields(settings)}  # type: ignore[arg-type]
    return settings(**{name: values[name] for name in names & values.keys()})


@dataclass(frozen=True)
class Configuration:
    """What is trained, and how.

    Args:
        sources: what the network estimates, "vocals" among them.
        window_length, hop_length: of the STFT, in samples.
        network: further arguments of `UNet`.
        weights: what the training begins with, see `checkpoint.read`; None for random numbers.
        excerpts: how mixtures are drawn.
        training: how the network is trained.
        values: all of it and the recipe's own keys, as plain data.
    """

    sources: tuple[str, ...]
    window_length: int
    hop_length: int
    network: dict[str, Any]
    weights: str | None
    excerpts: ExcerptSettings
    training: TrainSettings
    values: dict[str, Any]

    @classmethod
    def of(cls, values: dict[str, Any]) -> Configuration:
        """The configuration that keys and values describe.

        Raises:
            ValueError: if a value is out of its range.
        """
        return cls(
            sources=source_names(values["sources"]),
            window_length=values["window_length"],
            hop_length=values["hop_length"],
            network={name: values[name] for name in NETWORK},
            weights=values["weights"],
            excerpts=picked(ExcerptSettings, values),
            training=picked(TrainSettings, values),
            values=values,
        )

    def stft(self, sample_rate: int = STFT.sample_rate) -> STFT:
        """The transform of the network, for songs at this rate in Hz."""
        return STFT(sample_rate, self.window_length, self.hop_length)

    def load_weights(self, network: UNet, stft: STFT) -> None:
        """Give a network what its training begins with, if the configuration names weights.

        Args:
            stft: the transform that it is trained on.

        Raises:
            FileNotFoundError: if there are no such weights.
            ValueError: if they are of another network or another transform; those of a single channel may
                become those of a network of two.
        """
        if self.weights is None:
            return
        loaded = checkpoint.read(self.weights)
        held = loaded.network
        if (held.in_channels, network.in_channels) == (1, 2):
            held = as_stereo(held)
        found = {**held.arguments(), **asdict(loaded.stft)}
        asked = {**network.arguments(), **asdict(stft)}
        if other := differences(found, asked):
            raise ValueError(f"weights {self.weights} have other settings: {'; '.join(other)}")
        network.load_state_dict(held.state_dict())

    @property
    def name(self) -> str:
        """Such as ``"Residual U-Net + BLSTM, 4 stems"``."""
        name = "Residual U-Net" if self.network["residual_blocks"] else "U-Net"
        if self.network["in_channels"] == 2:
            name = f"Stereo {name}"
        if self.network["bottleneck"]:
            name += f" + {self.network['bottleneck'].upper()}"
        return name + (f", {len(self.sources)} stems" if len(self.sources) > 1 else "")


def source_names(text: str) -> tuple[str, ...]:
    """The names in ``"vocals"`` or ``"vocals,drums,bass,other"``.

    Raises:
        ValueError: if a name is empty or there twice, or "vocals" is missing.
    """
    names = tuple(text.split(","))
    if "vocals" not in names or not all(names) or len(set(names)) < len(names):
        raise ValueError(
            f"sources must be different names with commas between, vocals among them, got {text!r}"
        )
    return names


class RecipeParser(ArgumentParser):
    """A command line whose options are keys of a `Configuration`, and ``--conf`` for a file of them.

    A recipe adds its own keys by ``add_argument`` and ``add_class_arguments``; what only the script is to
    know, such as where it writes, is added by `add_script_argument`.
    """

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description,
            usage="%(prog)s [--conf FILE] [--key value ...]; --help lists the keys",
        )
        self._script_keys: set[str] = set()
        self.add_script_argument(
            "--conf", action="config", help="the YAML file that the other options override"
        )
        self.add_argument(
            "--sources", type=str, default="vocals", help="what is estimated, with commas between the names"
        )
        self.add_argument(
            "--weights",
            type=str | None,
            default=None,
            help="what the training begins with: a checkpoint, or the name of bundled weights",
        )
        self.add_class_arguments(STFT, skip={"sample_rate", "window_type", "normalized"})
        self.add_class_arguments(UNet, skip={"sources"})
        self.add_class_arguments(ExcerptSettings)
        self.add_class_arguments(TrainSettings)

    def add_script_argument(self, option: str, **arguments: Any) -> None:
        """Add an option that is no part of the configuration."""
        self._script_keys.add(option.removeprefix("--"))
        self.add_argument(option, **arguments)

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        """The options that a YAML file holds.

        Raises:
            ValueError: if it is none.
        """
        _read_yaml(Path(path))
        return super().parse_path(path, *args, **kwargs)

    def configuration(self, options: Namespace) -> Configuration:
        """The configuration among the options that were parsed."""
        values = options.as_dict()
        return Configuration.of({key: values[key] for key in values if key not in self._script_keys})


def scoring_parser(description: str | None, source: bool = True) -> ArgumentParser:
    """The command line of a script that scores an experiment.

    Args:
        source: whether to add ``--source``, the songs before they were prepared.
    """
    found = ArgumentParser(description=description)
    found.add_argument("--exp_dir", type=Path, required=True, help="the experiment, trained")
    found.add_argument("--data_dir", type=Path, required=True, help="what it was trained on, prepared")
    if source:
        found.add_argument("--source", type=Path, required=True, help="the songs before they were prepared")
    found.add_argument("--tracks", type=PositiveInt | None, help="score so many test tracks (default: all)")
    found.add_argument("--jobs", type=int | None, help="processes (default: one for each CPU)")
    return found


def keep(configuration: Configuration, experiment: Path, data_dir: str | os.PathLike[str]) -> None:
    """Write what an experiment is into its folder: its configuration, its data, and the installed versions.

    Args:
        data_dir: the prepared data, with the record of what they were prepared from.

    Raises:
        ValueError: if the folder holds an experiment with a different configuration or different data.
    """
    data = {
        "data_dir": os.path.realpath(data_dir),
        **(read_settings(data_dir) or {}),
        "files": fingerprint(Path(data_dir) / subset for subset in ("train", "test")),
    }
    for name, now, may_change in (
        (CONFIGURATION_FILE, configuration.values, configuration.training.may_change),
        (DATA_FILE, data, ()),
    ):
        path = experiment / name
        if path.is_file():
            before = _read_yaml(path)
            if changed := differences(before, now, may_change):
                raise ValueError(
                    f"{experiment} holds an experiment with different settings: {'; '.join(changed)}. "
                    "Use the same ones to resume it, or another --tag"
                )
    write_text(experiment / CONFIGURATION_FILE, yaml.safe_dump(configuration.values, sort_keys=False))
    write_text(experiment / DATA_FILE, yaml.safe_dump(data, sort_keys=False))
    write_text(experiment / "versions.txt", installed_versions())


def read(experiment: Path) -> Configuration:
    """The configuration that an experiment was trained with.

    Raises:
        FileNotFoundError: if the folder holds none.
    """
    path = experiment / CONFIGURATION_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: train the experiment first")
    values = _read_yaml(path)
    try:
        return Configuration.of(values)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise ValueError(f"{path} is no configuration of an experiment: {reason}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    """What a YAML file holds, if that is plain data by name.

    Raises:
        ValueError: if it holds anything else, or aliases, by which a small file can stand for a large one.
    """
    try:
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise ValueError(f"it has {size} bytes, and {LARGEST_FILE} are more than any configuration takes")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("it has aliases, which are not taken")
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} can't be read: {one_line(str(error))}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} can't be read: it holds no names with values")
    return found


def installed_versions() -> str:
    """Python and every installed package with its version, a line each, as ``pip freeze`` has them."""
    packages = {f"{package.name}=={package.version}" for package in metadata.distributions()}
    return "\n".join([f"python=={sys.version.split()[0]}", *sorted(packages, key=str.lower)]) + "\n"


def run(main: Callable[[], None]) -> None:
    """Run a script's ``main``; bad input ends it with one sentence."""
    try:
        main()
    except ERRORS as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {sentence(error)}")
