"""Weights on disk, with everything that is needed to use them, and nothing that can run.

A checkpoint is the file that nussl's ``SeparationModel.save`` writes: a dictionary of the weights, the
network's configuration as JSON text, and metadata that holds small objects of nussl (STFT parameters,
transforms). Or it is what the ``serialize()`` of the asteroid model returns: a dictionary of the weights, the
model's name and its arguments. `read` opens both without their hosts: objects of known classes become inert
records of their attributes. Files are read with ``weights_only=True``; one that asks for anything else is
refused. So is one that describes a larger network than it holds, before any memory is taken for it.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from svs_unet_plugin import files
from svs_unet_plugin.errors import first_line
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.unet import UNet
from svs_unet_plugin.weights import find, verify

Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]
"""A class that a file may name, alone or with the full name that it has there."""


@dataclass(frozen=True)
class Checkpoint:
    """A network and what it takes to use it.

    Args:
        network: in evaluation mode, on the CPU.
        stft: the transform whose magnitudes it was trained on.
        host: whose file it is, "nussl" or "asteroid".
        metadata: whatever else the file holds, such as ``trainer.state.epoch_history``; plain data.
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
    verify(path)
    content = load_weights_only(path, _stand_ins(path))
    try:
        loaded = (_of_asteroid if "model_name" in content else _of_nussl)(content, path.stat().st_size)
    except (LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{path} is no checkpoint of a svs_unet_plugin network: {reason}") from error
    loaded.network.eval()
    return loaded


def _of_nussl(content: Mapping[str, Any], size: int) -> Checkpoint:
    config = json.loads(content["config"])
    found = [(key, module) for key, module in config["modules"].items() if module.get("class") == "UNet"]
    if not found:
        raise ValueError("it has no UNet in it; nussl.separation.deep has what opens nussl's other models")
    key, module = found[0]
    network = _network(module["args"], content["state_dict"], f"layers.{key}.", size)
    return Checkpoint(network, _stft(content["metadata"]), "nussl", content["metadata"])


def _of_asteroid(content: Mapping[str, Any], size: int) -> Checkpoint:
    if content["model_name"] != "SVSUNet":
        raise ValueError(f"it holds asteroid's {content['model_name']}")
    arguments = dict(content["model_args"])
    rate, window, hop = (arguments.pop(name) for name in ("sample_rate", "window_length", "hop_length"))
    network = _network(arguments, content["state_dict"], "network.", size)
    return Checkpoint(network, STFT(int(rate), window, hop), "asteroid", content["infos"])


def _network(
    arguments: Mapping[str, Any], weights: Mapping[str, torch.Tensor], prefix: str, size: int
) -> UNet:
    """A network with the weights whose names begin with the prefix; ``size`` as in `check_size`."""
    network = check_size(arguments, weights, prefix, size)
    # `to_empty`, which would make room to copy them to, imports SymPy: a third of a second.
    held = {
        name: weights[prefix + name].to(expected.dtype, copy=True)
        for name, expected in network.state_dict().items()
    }
    for name, value in held.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"its weights {name!r} are NaN or infinite")
    network.load_state_dict(held, assign=True)
    return network


def check_size(
    arguments: Mapping[str, Any], weights: Mapping[str, torch.Tensor], prefix: str, size: int
) -> UNet:
    """The network that a file describes, without memory for its weights, if the file holds all of them.

    Args:
        arguments: of `UNet`, from a file that is not trusted.
        weights: from the same file; the network's are those whose names begin with the prefix.
        size: of the file, in bytes.

    Raises:
        ValueError: if there is no such network, its weights have other names or shapes, or are larger than
            the file.
    """
    held = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    try:
        if 2 * UNet.refined * arguments.get("residual_blocks", 0) > len(held):  # a block has several
            raise ValueError("it has fewer weights than residual blocks")
        with torch.device("meta"):
            network = UNet(**arguments)
        if sum(weight.numel() * weight.element_size() for weight in held.values()) > size:
            raise ValueError("its weights are larger than the file")
        expected = network.state_dict()
        for name in {**expected, **held}:
            if name not in expected or name not in held or expected[name].shape != held[name].shape:
                raise ValueError(f"its weights are not those of its configuration: see {name!r}")
    except (TypeError, AttributeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"its configuration is none of this network: {first_line(error)}") from error
    return network


def _stft(metadata: Mapping[str, Any]) -> STFT:
    """The transform that a model was trained on, if it is one that this package computes."""
    window, hop, window_type = metadata["stft_params"]
    steps = {type(step).__name__: step for step in _flat(metadata["train_dataset"]["transforms"])}
    # A dataset of another rate reaches the network's by this transform.
    rate = steps["ToSampleRate"].sample_rate if "ToSampleRate" in steps else metadata["sample_rate"]
    return STFT(rate, window, hop, window_type, normalized="NormalizeMagnitude" in steps)


def _flat(transform: Any) -> Iterator[Any]:
    """The transforms that are composed in one, each once, however deeply it is nested, even in itself."""
    waiting, seen = [transform], {}
    while waiting:
        step = waiting.pop()
        if id(step) in seen:
            continue
        seen[id(step)] = step
        if hasattr(step, "transforms"):
            waiting.extend(reversed(step.transforms))
        else:
            yield step


def write(content: Any, path: str | os.PathLike[str]) -> None:
    """``torch.save``, whole or not at all; the same content gives the same bytes, whatever the file's name.

    Raises:
        OSError: if it can't be written.
    """
    buffer = io.BytesIO()  # torch does not say why it can't write to a file
    torch.save(content, buffer)
    files.write_bytes(path, buffer.getbuffer())


def load_weights_only(path: str | os.PathLike[str], allowed: Sequence[Allowed] = ()) -> Any:
    """``torch.load`` of data only, on the CPU.

    Args:
        path: a file that ``torch.save`` wrote.
        allowed: classes that the file may name besides torch's own and those that the user gave to
            ``torch.serialization.add_safe_globals``, for this call alone: other threads and their lists of
            classes are not touched.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no file of ``torch.save``, or names anything else; nothing in it runs.
    """
    try:
        _check_unpacked(path)
        return _torch_load(allowed)(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # bytes that are no checkpoint make torch raise almost anything
        foreign = _foreign_globals(path, allowed) or re.findall(r"GLOBAL ([\w.]+)", str(error))
        if not foreign:
            raise ValueError(f"{path} is no checkpoint, or a damaged one") from error
        nussls = any(name.startswith("nussl.") for name in foreign)
        hint = ": svs-unet convert opens nussl's checkpoints" if nussls else ""
        raise ValueError(
            f"{path} was refused, and nothing in it was run: besides data it holds {', '.join(foreign)}{hint}"
        ) from error


def _torch_load(allowed: Sequence[Allowed]) -> Callable[..., Any]:
    """``torch.load`` with a list of allowed classes of its own.

    torch has one list for the whole process (2.6 to 2.14): while one thread is inside of
    ``torch.serialization.safe_globals``, all may load what it allows, and its end takes entries of others
    away. So the unpickler is loaded once more, apart from torch's, and ``torch.load`` runs with that one. If
    a later torch gets its unpickler in another way, files are refused that name anything.
    """
    spec = importlib.util.find_spec("torch._weights_only_unpickler")
    assert spec is not None and spec.loader is not None
    unpickler = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpickler)
    classes = {
        _full_name(entry): entry[0] if isinstance(entry, tuple) else entry
        for entry in (*torch.serialization.get_safe_globals(), *allowed)
    }
    unpickler._get_user_allowed_globals = lambda: classes  # type: ignore[attr-defined]
    names = {**vars(torch.serialization), "_weights_only_unpickler": unpickler}
    load = types.FunctionType(torch.load.__code__, names, "load", torch.load.__defaults__)
    load.__kwdefaults__ = torch.load.__kwdefaults__
    return load


def _full_name(entry: Allowed) -> str:
    """What an allowed class is called in a file."""
    return entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"


def numpy_globals() -> list[Allowed]:
    """What a checkpoint with numpy scalars in its history names; plain numbers, all of them."""
    return [
        np._core.multiarray.scalar,  # type: ignore[attr-defined]
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
    """Names in a file that torch does not allow by itself; empty if it is no file of ``torch.save``."""
    try:
        _check_unpacked(path)
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # any file at all may be given, and the reader says more about what is wrong
        return []


def _check_unpacked(path: str | os.PathLike[str]) -> None:
    """
    Raises:
        ValueError: if a file unpacks to more than its own size, which no file of ``torch.save`` does.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > os.path.getsize(path):
                raise ValueError("it unpacks to more than its own size")


def _foreign_globals(path: str | os.PathLike[str], allowed: Sequence[Allowed]) -> list[str]:
    return sorted(set(_named_globals(path)) - set(map(_full_name, allowed)))
