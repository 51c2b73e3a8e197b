"""Storage for nussl's ``transforms.Cache``: a folder with one file an item.

nussl kept its cache in a zarr array of pickled objects. zarr 3 has neither the object codec nor the
``ThreadSynchronizer`` that this needed, and unpickling a file runs whatever it says. Here every item is one
``torch.save`` file, read with ``weights_only=True``, and mapped rather than read (``mmap=True``), so that a
``GetExcerpt`` behind the cache touches only the frames that it takes.
"""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nussl.datasets.transforms import TransformException

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
        path = self._path(index)
        beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            torch.save(_pack(data), beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        """Read one item; None if it was never written (nussl then raises its TransformException)."""
        path = self._path(index)
        try:
            packed = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return _unpack(packed)
        except FileNotFoundError:
            return None
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
            raise TransformException(f"{path} is not an item of a cache; write the cache again.") from error


def _pack(data: dict[str, Any]) -> dict[str, Any]:
    """Turn an item into tensors and plain values, and note which of them were numpy arrays.

    Numpy scalars become Python's numbers: pickled, they would name functions of numpy's.

    Tensors are copied so that their rows lie one behind the other: a view would drag its whole storage into
    the file, and ``ToSeparationModel`` leaves the frames of a spectrogram scattered all over it.
    """
    values: dict[str, Any] = {}
    arrays = []
    for key, value in data.items():
        if isinstance(value, np.ndarray):
            try:
                value = torch.from_numpy(np.array(value, order="C"))
            except (TypeError, ValueError) as error:
                raise _refusal(key, f"array of {value.dtype}") from error
            arrays.append(key)
        elif isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, torch.Tensor):
            value = value.detach().clone(memory_format=torch.contiguous_format)
        elif type(value) not in _PLAIN:
            raise _refusal(key, type(value).__name__)
        values[key] = value
    return {"values": values, "arrays": arrays}


def _unpack(packed: dict[str, Any]) -> dict[str, Any]:
    values = packed["values"]
    return {**values, **{key: values[key].numpy() for key in packed["arrays"]}}


def _refusal(key: str, kind: str) -> TransformException:
    return TransformException(
        f"Cache cannot store data[{key!r}] ({kind}): it holds tensors, numpy arrays, numbers and text. "
        "Put ToSeparationModel before Cache."
    )
