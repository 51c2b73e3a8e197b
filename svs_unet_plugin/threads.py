"""How many CPUs there are, and how many threads compute: torch's number, wherever torch is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

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
    return min(here, ceil(quota / period))


def get_threads() -> int:
    """Torch's number, or else what was set here, or ``OMP_NUM_THREADS``, or all CPUs of this process."""
    torch = _torch()
    if torch is not None:
        return int(torch.get_num_threads())
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
    torch = _torch()
    if torch is not None:
        torch.set_num_threads(number)


def _torch() -> ModuleType | None:
    """Torch if it is loaded, all of it: another thread may be importing it."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "set_num_threads") and hasattr(torch, "get_num_threads") else None


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

    This thread is one of them, and the others help where they are free. NumPy and soxr let go of Python's
    lock while they compute.
    """
    items = list(items)
    results: list[Any] = [None] * len(items)
    left = iter(range(len(items)))

    def take_turns() -> None:
        for i in left:
            results[i] = work(items[i])

    helpers = []
    try:
        for _ in range(min(get_threads(), len(items)) - 1):
            # Settings such as np.errstate go with a context.
            helpers.append(_pool().submit(copy_context().run, take_turns))
    except RuntimeError as error:
        if "shutdown" not in str(error):  # Python ends its pools before its last threads
            raise
    take_turns()
    for helper in helpers:
        if not helper.cancel():
            helper.result()
    return results


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cpus(), thread_name_prefix="svs-unet")


# A process that was forked has none of its parent's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
