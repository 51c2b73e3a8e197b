"""What a separation costs: seconds and memory, in a process of its own, on one thread of a CPU."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from svs_unet_plugin.workers import end_with_parent, imported

HOW_COSTS_ARE_MEASURED = (
    "on 60 s of the first song at most, one thread of a CPU, no GPU; loading is not counted"
)
"""For the report."""


@dataclass(frozen=True)
class Costs:
    """What one separation took.

    Args:
        seconds: wall-clock time.
        peak_memory: the most memory of its process, in bytes, with all that was loaded.
    """

    seconds: float
    peak_memory: int


def measure_all(
    loads: Sequence[Callable[[], Callable[[Any], Any]]], warm_up: Any, measured: Any
) -> Iterator[Costs]:
    """The costs of systems, one at a time, each in a process of its own.

    The processes are forked from one that has imported all that this one has, and has done nothing else. Each
    loads its system, separates the warm-up, and is measured then: what is loaded or compiled once does not
    count.

    Args:
        loads: load a system, which separates a song.
        warm_up, measured: songs.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(imported())
    for load in tqdm(loads, desc="Measure", unit="system"):
        with ProcessPoolExecutor(1, server, end_with_parent) as pool:
            yield pool.submit(measure, load, warm_up, measured).result()


def measure(load: Callable[[], Callable[[Any], Any]], warm_up: Any, measured: Any) -> Costs:
    """The costs of one system, in this process; see `measure_all`."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        separate = load()
        separate(warm_up)
        start = time.perf_counter()
        separate(measured)
        return Costs(time.perf_counter() - start, peak_memory())


def peak_memory() -> int:
    """The most memory that this process has had, in bytes.

    Linux counts for ``getrusage`` what the process that started this one had at that time, too.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
