"""Work on many items at once: a process for each CPU, one thread each, with a bar.

joblib's loky starts the processes: it tells where one was killed, which multiprocessing's pool waits for
without end.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from joblib.externals.loky.process_executor import ProcessPoolExecutor, TerminatedWorkerError
from tqdm import tqdm

from svs_unet_plugin.threads import cpus

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_THREADS = [f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR")] + [
    "VECLIB_MAXIMUM_THREADS"
]
"""What the libraries that compute ask for the number of their threads."""


def in_parallel(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    jobs: int | None = None,
    *,
    title: str,
    unit: str = "track",
    lost: Callable[[_Item, str], _Result] | None = None,
) -> Iterator[_Result]:
    """What ``work`` returns for each item, in order.

    Processes are spawned, not forked, since threads of torch or of a BLAS do not survive a fork. They end
    with the process that started them, even if that is killed. Where one of them is killed, or crashes, the
    items that were in work are tried once more, one at a time; the others are done in any case.

    Args:
        work: a function of a module, or a method of an object that can be pickled.
        jobs: processes, ≥ 1; None for one for each CPU. With one, all is done in this process.
        title, unit: of the bar.
        lost: what is returned for an item whose process was killed twice, from the item and the reason.

    Raises:
        ValueError: if ``jobs`` is less than 1.
        RuntimeError: without ``lost``, when all others are done, if items are lost; it names them.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if not items:
        return
    jobs = min(jobs or cpus(), len(items))
    if jobs <= 1:
        yield from tqdm(map(work, items), desc=title, total=len(items), unit=unit)
        return
    kept: dict[int, _Result] = {}
    missing: dict[int, str] = {}
    following = 0
    with tqdm(desc=title, total=len(items), unit=unit) as bar, closing(_each(work, items, jobs)) as found:
        for number, result in found:
            bar.update()
            if isinstance(result, _Death):
                missing[number] = result.reason
                if lost is None:
                    continue
                result = lost(items[number], result.reason)
            kept[number] = result
            while following in kept:
                yield kept.pop(following)
                following += 1
    if missing and lost is None:
        named = "; ".join(f"{_name(items[number])}: {missing[number]}" for number in sorted(missing))
        raise RuntimeError(
            f"{title}: {len(missing)} of {len(items)} are not done, and a new run does the rest ({named}); "
            "fewer --jobs take less memory"
        )


@dataclass(frozen=True)
class _Death:
    """In the place of a result: why there is none."""

    reason: str


def _each(
    work: Callable[[_Item], _Result], items: Sequence[_Item], jobs: int
) -> Generator[tuple[int, _Result | _Death], None, None]:
    """The result of each item by its number, as they come, from processes."""
    with tempfile.TemporaryDirectory() as folder:
        begun = Path(folder)
        left = dict.fromkeys(range(len(items)))
        while left:
            try:
                for number, result in _attempt(work, items, list(left), jobs, begun):
                    del left[number]
                    yield number, result
            except TerminatedWorkerError:
                # One of those that were in work is to blame; if none was, any that is tried alone goes on.
                suspects = sorted(left.keys() & {int(path.name) for path in begun.iterdir()})
                for number in suspects or [*left][:1]:
                    del left[number]
                    try:
                        yield from _attempt(work, items, [number], 1, begun)
                    except TerminatedWorkerError as error:
                        yield number, _Death(_reason(error))
                    (begun / str(number)).unlink(missing_ok=True)


def _attempt(
    work: Callable[[_Item], _Result], items: Sequence[_Item], numbers: Sequence[int], jobs: int, begun: Path
) -> Iterator[tuple[int, _Result]]:
    """Results by number, as they come, as long as no process is killed.

    Raises:
        TerminatedWorkerError: if one was; what can be told is told before.
    """
    pool = ProcessPoolExecutor(
        jobs,
        initializer=_prepare_process,
        initargs=imported(),
        env={name: os.environ.get(name, "1") for name in _THREADS},
    )
    killed = None
    try:
        tasks = {pool.submit(_marked, begun, number, work, items[number]): number for number in numbers}
        for task in as_completed(tasks):
            try:
                result = task.result()
            except TerminatedWorkerError as error:
                killed = error
            else:
                yield tasks[task], result
    finally:
        pool.shutdown(kill_workers=True)
    if killed is not None:
        raise killed


def _marked(begun: Path, number: int, work: Callable[[_Item], _Result], item: _Item) -> _Result:
    """Work on an item, and leave a file with its number for as long as it takes."""
    mark = begun / str(number)
    mark.touch()
    try:
        return work(item)
    finally:
        mark.unlink()


def _reason(error: TerminatedWorkerError) -> str:
    how = re.findall(r"(\w+)\(-?\d+\)", str(error))  # such as {SIGKILL(-9)}
    return f"its process ended by {how[0] if how else 'itself'}" + (
        ", perhaps for lack of memory" if "SIGKILL" in how else ""
    )


def imported() -> list[str]:
    """The modules of this package that this process has imported.

    Another process imports them before anything is sent to it: with them come the repairs of the hosts.
    """
    return sorted(name for name in sys.modules if name.startswith(f"{__package__}."))


def _prepare_process(*modules: str) -> None:
    end_with_parent()
    # By default tqdm makes a lock for several processes, which a process that is ended leaves behind.
    tqdm.set_lock(threading.RLock())
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


def _name(item: object) -> str:
    """What messages call an item: its name or path, where it has one."""
    return str(getattr(item, "name", getattr(item, "path", item)))
