"""Storage for nussl's ``transforms.Cache``: a folder with one file an item.

nussl kept its cache in a zarr array of pickled objects. zarr 3 has neither the object codec nor the
``ThreadSynchronizer`` that this needed, and unpickling a file runs whatever it says. Here every item is one
``torch.save`` file, read with ``weights_only=True``, and mapped rather than read (``mmap=True``), so that a
``GetExcerpt`` behind the cache touches only the frames that it takes. A whole ``AudioSignal`` is stored as
its arrays and numbers, and scaper's annotation of a mixture as its own text.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nussl import AudioSignal, STFTParams
from nussl.datasets.transforms import TransformException

from svs_unet_plugin import checkpoint

_PLAIN = (bool, int, float, str, type(None))


class Folder:
    """The items of one cache, by index: ``folder[index] = data`` and ``folder[index]``.

    Args:
        location: the folder; made if it is to be written and is not there.
        size: number of items that are expected; a negative index counts back from it.
        writable: whether items will be written.
    """

    def __init__(self, location: str | os.PathLike[str], size: int, writable: bool) -> None:
        self.location = Path(location)
        self.size = size
        self.writable = writable
        if writable:
            self.location.mkdir(parents=True, exist_ok=True)

    @property
    def nchunks_initialized(self) -> int:
        """How many items there are, by zarr's name for it, which users of nussl's cache know."""
        return len(list(self.location.glob("*.pt")))

    @property
    def info(self) -> str:
        """One line for people: where the cache is, how many items it has, how large it is."""
        sizes = [path.stat().st_size for path in self.location.glob("*.pt")]
        mode = "writable" if self.writable else "read-only"
        return f"{self.location}: {len(sizes)} items, {sum(sizes) / 1e6:.1f} MB, {mode}"

    def _path(self, index: int) -> Path:
        index = int(index)
        return self.location / f"{index + self.size if index < 0 else index:08d}.pt"

    def __setitem__(self, index: int, data: dict[str, Any]) -> None:
        """Write one item, so that no reader ever sees a part of it: beside first, then renamed."""
        checkpoint.write(_pack(data, "data"), self._path(index))

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        """Read one item; None if it was never written (nussl then raises its TransformException)."""
        path = self._path(index)
        try:
            packed = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            kind, _ = packed
            if kind != "dict":
                raise KeyError(kind)
            return _unpack(packed)
        except FileNotFoundError:
            return None
        except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
            raise TransformException(f"{path} is not an item of a cache; write the cache again.") from error


def _pack(value: Any, where: str) -> Any:
    """Turn a value into tensors, plain values and containers of them, which is all that is stored.

    What is not one of these becomes a pair: what it was, and what it holds. Numpy scalars become Python's
    numbers: pickled, they would name functions of numpy's.

    Tensors are copied so that their rows lie one behind the other: a view would drag its whole storage into
    the file, and ``ToSeparationModel`` leaves the frames of a spectrogram scattered all over it.
    """
    kind = type(value)
    if isinstance(value, np.generic):
        return value.item()
    if kind in _PLAIN:
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(value, np.ndarray):
        try:
            return "array", torch.from_numpy(np.array(value, order="C"))
        except (TypeError, ValueError) as error:
            raise _refusal(where, f"array of {value.dtype}") from error
    if kind is dict:
        if unknown := [key for key in value if type(key) not in _PLAIN]:
            raise _refusal(where, f"dictionary with the key {unknown[0]!r}")
        return "dict", {key: _pack(held, f"{where}[{key!r}]") for key, held in value.items()}
    if kind in (list, tuple, STFTParams):
        return kind.__name__, [_pack(held, f"{where}[{i}]") for i, held in enumerate(value)]
    if kind is getattr(sys.modules.get("jams"), "JAMS", None):  # which need not be installed
        return "JAMS", value.dumps()
    if kind is AudioSignal:
        return "AudioSignal", {name: _pack(held, f"{where}.{name}") for name, held in vars(value).items()}
    raise _refusal(where, kind.__name__)


def _unpack(packed: Any) -> Any:
    """The value that `_pack` was given; a file of anything else raises one of several errors."""
    if type(packed) is not tuple:
        return packed
    kind, held = packed
    if kind == "array":
        return held.numpy()
    if kind == "dict":
        return {key: _unpack(value) for key, value in held.items()}
    if kind == "JAMS":
        import jams

        return jams.load(io.StringIO(held), validate=False)
    if kind == "AudioSignal":
        signal = AudioSignal()
        if held.keys() != vars(signal).keys():
            raise KeyError("an AudioSignal with other attributes")
        vars(signal).update({name: _unpack(value) for name, value in held.items()})
        return signal
    values = [_unpack(value) for value in held]
    if kind == "STFTParams":
        return STFTParams(*values)
    return {"list": list, "tuple": tuple}[kind](values)


def _refusal(where: str, kind: str) -> TransformException:
    return TransformException(
        f"Cache cannot store {where} ({kind}): it holds signals, tensors, numpy arrays, numbers, text, and "
        "dictionaries and lists of them. Put ToSeparationModel before Cache."
    )
