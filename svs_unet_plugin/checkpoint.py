"""Weights on disk, with everything that is needed to use them, and nothing that can run.

A checkpoint is the file that nussl's ``SeparationModel.save`` writes: a dictionary of the weights, the
network's configuration as JSON text, and metadata that holds small objects of nussl (STFT parameters,
transforms). Or it is what the ``serialize()`` of the asteroid model returns: a dictionary of the weights, the
model's name and its arguments. `read` opens both without their hosts: objects of known classes become inert
records of their attributes. Files are read with ``weights_only=True``; one that asks for anything else is
refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from svs_unet_plugin.stft import STFT
from svs_unet_plugin.unet import UNet

PRETRAINED = Path(__file__).parent / "pretrained"
"""Where bundled weights lie, one file ``<name>.pth`` each."""

DEFAULT_NAME = "vocals"
"""The bundled weights that are taken when none are named."""

HUB_FILE = "pytorch_model.bin"
"""What a model's file is called on the Hugging Face Hub, for asteroid's ``from_pretrained`` too."""

Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]
"""A class that a file may name, alone or with the full name that it has there."""


@dataclass(frozen=True)
class Checkpoint:
    """A network and what it takes to use it.

    Args:
        network: in evaluation mode, on the CPU.
        stft: the transform whose magnitudes it was trained on.
        host: whose file it is, "nussl" or "asteroid".
        metadata: whatever else the file tells, such as ``trainer.state.epoch_history``; plain data.
    """

    network: UNet
    stft: STFT
    host: str
    metadata: Mapping[str, Any]


def read(weights: str | os.PathLike[str] | None = None) -> Checkpoint:
    """Open a checkpoint of nussl's ``SeparationModel`` around a `UNet`, or of asteroid's ``SVSUNet``.

    Args:
        weights: a path, the name of bundled weights, the id of a model on the Hugging Face Hub with a
            revision (``owner/name@revision``), or None for the default ones.

    Raises:
        FileNotFoundError: if there is neither such a file nor such a name, or the hub can't be reached and
            its file is not in the cache.
        ModuleNotFoundError: if the weights are on a hub and huggingface_hub is not installed.
        ValueError: if the file is no checkpoint of this network, or holds more than data.
    """
    path = find(weights)
    if path.parent == PRETRAINED:
        _verify(path)
    content = load_weights_only(path, _stand_ins(path))
    try:
        loaded = _of_asteroid(content) if "model_name" in content else _of_nussl(content)
    except (
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        StopIteration,
        RuntimeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"{path} is no checkpoint of a svs_unet_plugin network: {type(error).__name__}: {error}"
        ) from error
    loaded.network.eval()
    return loaded


def _of_nussl(content: Mapping[str, Any]) -> Checkpoint:
    config = json.loads(content["config"])
    key, module = next((k, m) for k, m in config["modules"].items() if m.get("class") == "UNet")
    network = UNet(**module["args"])
    _load(network, content["state_dict"], f"layers.{key}.")
    return Checkpoint(network, _stft(content["metadata"]), "nussl", content["metadata"])


def _of_asteroid(content: Mapping[str, Any]) -> Checkpoint:
    if content["model_name"] != "SVSUNet":
        raise ValueError(f"it holds asteroid's {content['model_name']}")
    arguments = dict(content["model_args"])
    rate, window, hop = (arguments.pop(name) for name in ("sample_rate", "window_length", "hop_length"))
    network = UNet(**arguments)
    _load(network, content["state_dict"], "network.")
    return Checkpoint(network, STFT(int(rate), window, hop), "asteroid", content["infos"])


def _load(network: UNet, weights: Mapping[str, torch.Tensor], prefix: str) -> None:
    """Take the weights whose names begin with the prefix."""
    network.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})


def _stft(metadata: Mapping[str, Any]) -> STFT:
    """The transform that a model was trained on, if it is one that this package computes."""
    window, hop, window_type = metadata["stft_params"]
    if window_type != "hann":
        raise ValueError(f"its window is {window_type!r}, and this package knows 'hann'")
    steps = {type(step).__name__: step for step in _flat(metadata["train_dataset"]["transforms"])}
    if "NormalizeMagnitude" not in steps:
        raise ValueError("it was trained without NormalizeMagnitude, on another scale than this package's")
    # A dataset of another rate reaches the network's by this transform.
    rate = steps["ToSampleRate"].sample_rate if "ToSampleRate" in steps else metadata["sample_rate"]
    return STFT(rate, window, hop)


def _flat(transform: Any) -> Iterator[Any]:
    """A transform, or those that are composed in it."""
    for step in getattr(transform, "transforms", [transform]):
        yield from _flat(step) if hasattr(step, "transforms") else [step]


def find(weights: str | os.PathLike[str] | None = None) -> Path:
    """The file that is meant by a path, a name, an id on the hub, or None; see `read`."""
    bundled = {path.stem: path for path in sorted(PRETRAINED.glob("*.pth"))}
    name = DEFAULT_NAME if weights is None else os.fspath(weights)
    if weights is not None and Path(weights).is_file():
        return Path(weights)
    if name in bundled:
        return bundled[name]
    if _HUB_ID.fullmatch(name):
        return _download(name)
    raise FileNotFoundError(
        f"no checkpoint at {name}, and no bundled weights of that name ({', '.join(bundled)}); "
        "a model on the Hugging Face Hub is owner/name@revision"
    )


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+@[\w./-]+")


def _download(hub_id: str) -> Path:
    """The file of a model on the Hugging Face Hub, from its cache if it is there.

    A revision is asked for, since what a branch holds today it may not hold tomorrow.
    """
    from huggingface_hub import hf_hub_download

    name, revision = hub_id.split("@", 1)
    try:
        return Path(hf_hub_download(name, HUB_FILE, revision=revision))
    except Exception as error:  # of the hub's, of httpx's, of requests', by its version
        raise FileNotFoundError(
            f"{hub_id} can't be had from the hub: {str(error).splitlines()[0]}"
        ) from error


def _verify(path: Path) -> None:
    """Compare bundled weights with the list of their checksums, which ``sha256sum -c`` reads too.

    Raises:
        ValueError: if the file is not the one that was bundled.
    """
    lines = (PRETRAINED / "SHA256SUMS").read_text().splitlines()
    expected = {name: digest for digest, name in (line.split() for line in lines)}
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected.get(path.name):
        raise ValueError(f"{path} is damaged: it is not what SHA256SUMS beside it tells; install again")


def load_weights_only(path: str | os.PathLike[str], allowed: Sequence[Allowed] = ()) -> Any:
    """``torch.load`` of data only, on the CPU.

    Args:
        path: a file that ``torch.save`` wrote.
        allowed: classes that the file may name besides torch's own.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no file of ``torch.save``, or names anything else; nothing in it runs.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # bytes that are no checkpoint make torch raise almost anything
        foreign = _foreign_globals(path, allowed) or re.findall(r"GLOBAL ([\w.]+)", str(error))
        if not foreign:
            raise ValueError(f"{path} is no checkpoint, or a damaged one") from error
        raise ValueError(
            f"{path} was refused, and nothing in it was run: besides data it holds {', '.join(foreign)}"
        ) from error


def numpy_globals() -> list[Allowed]:
    """What a checkpoint with numpy scalars in its history names; plain numbers, all of them."""
    multiarray = getattr(np, "_core", None) or np.core
    return [
        multiarray.multiarray.scalar,
        np.dtype,
        *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "bool")),
    ]


class _STFTParams(NamedTuple):
    window_length: int | None = None
    hop_length: int | None = None
    window_type: str | None = None


class _Record:
    """What is left of a transform here: its attributes."""


_TRANSFORMS = ("nussl.datasets.transforms.", "svs_unet_plugin.nussl.transforms.")


def _stand_ins(path: Path) -> list[Allowed]:
    """Inert classes in the place of the transforms and parameters of nussl that a file names."""
    transforms = [name for name in _named_globals(path) if name.startswith(_TRANSFORMS)]
    return [
        *numpy_globals(),
        (_STFTParams, "nussl.core.audio_signal.STFTParams"),
        *((type(name.rpartition(".")[2], (_Record,), {}), name) for name in transforms),
    ]


def _named_globals(path: str | os.PathLike[str]) -> list[str]:
    """Names in a file that torch does not know of itself; empty if it is no file of ``torch.save``."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # any file at all may be given, and the reader says more about what is wrong
        return []


def _foreign_globals(path: str | os.PathLike[str], allowed: Sequence[Allowed]) -> list[str]:
    known = {
        entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"
        for entry in allowed
    }
    return sorted(set(_named_globals(path)) - known)
