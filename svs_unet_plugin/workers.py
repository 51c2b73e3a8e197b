"""Work on many files at once: a process a core, one thread each, with a bar."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def in_parallel(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    jobs: int | None = None,
    *,
    title: str,
    unit: str = "track",
) -> Iterator[_Result]:
    """What ``work`` returns for each item, in order.

    Processes are spawned, not forked, since threads of torch or of a BLAS do not survive a fork: a script
    calls this under ``if __name__ == "__main__":``. They end with the process that started them, even if
    that is killed.

    Args:
        work: a function of a module, or a method of an object that can be pickled.
        jobs: processes, ≥ 1; None for one a core. With one, all is done in this process.
        title, unit: of the bar.

    Raises:
        ValueError: if ``jobs`` is less than 1.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if not items:
        return
    jobs = min(jobs or os.cpu_count() or 1, len(items))
    if jobs <= 1:
        yield from tqdm(map(work, items), desc=title, total=len(items), unit=unit)
        return
    spawn = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(jobs, spawn, end_with_parent) as pool:
        try:
            yield from tqdm(pool.map(work, items), desc=title, total=len(items), unit=unit)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def end_with_parent() -> None:
    """To begin a process of a pool with: those of one that was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """What the processes started meanwhile find in their environment: more threads than cores are slow."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
