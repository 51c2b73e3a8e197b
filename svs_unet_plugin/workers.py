"""Work on many items at once: a process for each CPU, one thread each, with a bar.

joblib's loky starts the processes: it counts the CPUs that an affinity or a container leaves, limits the
threads of every BLAS, and ends with an error where a process was killed, which multiprocessing's pool waits
for without end.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_parallel(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    jobs: int | None = None,
    *,
    title: str,
    unit: str = "track",
) -> Iterator[_Result]:
    """What ``work`` returns for each item, in order.

    Processes are spawned, not forked, since threads of torch or of a BLAS do not survive a fork. They end
    with the process that started them, even if that is killed.

    Args:
        work: a function of a module, or a method of an object that can be pickled.
        jobs: processes, ≥ 1; None for one for each CPU. With one, all is done in this process.
        title, unit: of the bar.

    Raises:
        ValueError: if ``jobs`` is less than 1.
        RuntimeError: if a process was killed; it names the items that are not done.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if not items:
        return
    jobs = min(jobs or cpus(), len(items))
    if jobs <= 1:
        yield from tqdm(map(work, items), desc=title, total=len(items), unit=unit)
        return
    pool = joblib.Parallel(
        jobs,
        return_as="generator",
        batch_size=1,
        pre_dispatch="all",
        initializer=_prepare_process,
        initargs=imported(),
    )
    done = 0
    try:
        for result in tqdm(pool(map(joblib.delayed(work), items)), desc=title, total=len(items), unit=unit):
            done += 1
            yield result
    except TerminatedWorkerError as error:
        raise RuntimeError(
            f"{title}: a process was killed, perhaps for lack of memory, at one of "
            f"{_names(items[done:][:jobs])}; {done} of {len(items)} are done, and a new run does the rest; "
            "fewer --jobs take less memory"
        ) from error


def cpus() -> int:
    """How many CPUs this process may use: what an affinity or a container leaves of them."""
    return joblib.cpu_count()


def imported() -> list[str]:
    """The modules of this package that this process has imported.

    Another process imports them before anything is sent to it: with them come the repairs of the hosts.
    """
    return sorted(name for name in sys.modules if name.startswith(f"{__package__}."))


def _prepare_process(*modules: str) -> None:
    end_with_parent()
    for module in modules:
        importlib.import_module(module)


def end_with_parent() -> None:
    """To begin a process of a pool with: those of one that was killed would wait for work for ever."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _names(items: Sequence[object]) -> str:
    """What messages call items: their names or paths, where they have some."""
    return ", ".join(str(getattr(item, "name", getattr(item, "path", item))) for item in items)
