"""How many threads a network is computed by: torch's number, wherever torch is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from svs_unet_plugin.workers import cpus

_number: int | None = None


def get_threads() -> int:
    """Torch's number, or else what was set here, or ``OMP_NUM_THREADS``, or all CPUs of this process."""
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    if _number is not None:
        return _number
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given):
        return int(given)
    return cpus()


def set_threads(number: int) -> None:
    """Set the number of threads, for torch too if it is loaded."""
    global _number
    _number = number
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(number)


@contextmanager
def limited_threads(number: int) -> Iterator[None]:
    """Use so many threads inside the block."""
    before = get_threads()
    set_threads(number)
    try:
        yield
    finally:
        set_threads(before)
