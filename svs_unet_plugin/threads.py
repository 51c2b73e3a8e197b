"""How many CPUs there are, and how many threads compute: torch's number, wherever torch is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from math import ceil
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux says how much time of CPUs a container has in a period: two numbers of microseconds."""

_number: int | None = None


def cpus() -> int:
    """How many CPUs this process may use: what an affinity or a container leaves of them."""
    here = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        here = len(os.sched_getaffinity(0))
    try:
        quota, period = map(int, CPU_QUOTA.read_text().split())
    except (OSError, ValueError):  # there is none, or it is "max"
        return here
    return min(here, max(ceil(quota / period), 1))


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


def each(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What the work makes of each item, in order, on several threads if more than one may be used.

    NumPy and soxr let go of Python's lock while they compute. The work must not call this again.
    """
    items, threads = list(items), get_threads()
    if len(items) < 2 or threads < 2:
        return [work(item) for item in items]
    return list(_pool(threads).map(work, items))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="svs-unet")


# A process that was forked has none of its parent's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
