"""Work on several threads."""

import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from svs_unet_plugin import STFT, threads
from svs_unet_plugin.threads import cpus, each, limited_threads


@pytest.mark.parametrize(
    "quota, expected",
    [(None, 8), ("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("900000 100000", 8)],
)
def test_cpus_are_those_that_a_container_leaves(
    quota: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8), raising=False)
    if quota is not None:
        threads.CPU_QUOTA.write_text(f"{quota}\n")
    assert threads.cpus() == expected


@pytest.mark.parametrize("number", [1, 2, 3])
def test_as_many_threads_as_may_be_used(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them is the one that asks."""
    monkeypatch.setattr(threads, "cpus", lambda: 2)
    together = threading.Barrier(number, timeout=60)

    def work(item: int) -> tuple[int, int]:
        together.wait()
        return item, threading.get_ident()

    threads._pool.cache_clear()
    with limited_threads(number):
        items, workers = zip(*each(work, range(number)), strict=True)
    assert items == tuple(range(number)) and len(set(workers)) == number and threading.get_ident() in workers
    threads._pool.cache_clear()


def test_nobody_waits_for_helpers_that_are_busy() -> None:
    """Not even work that asks for helpers itself."""
    with limited_threads(3):
        found = each(lambda item: sum(each(lambda more: item + more, range(40))), range(40))
    assert found == [40 * item + 780 for item in range(40)]


def test_errors_are_those_of_the_work() -> None:
    with limited_threads(2):
        for items in ([1, 0, 1], [0, 1, 1], [1, 1, 0]):
            with pytest.raises(ZeroDivisionError):
                each(lambda item: 1 / item, items)


def test_settings_of_numpy_go_along() -> None:
    loud = np.full((2, 20_000), 1e38, np.float32)
    with limited_threads(2):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("error")
            STFT().analyse(loud)
        with np.errstate(all="raise"), pytest.raises(FloatingPointError):
            STFT().analyse(loud)


def test_torch_that_is_being_imported_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    with limited_threads(3):
        assert threads.get_threads() == 3


def test_a_thread_goes_on_when_the_main_one_has_ended() -> None:
    """Python ends its pools before."""
    script = """
import threading, time
from svs_unet_plugin.threads import each, set_threads

def go():
    threading.main_thread().join()
    time.sleep(0.2)
    print(each(abs, [-1, -2]))

set_threads(2)
threading.Thread(target=go).start()
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert said.stdout == "[1, 2]\n" and said.stderr == ""


def _at_the_same_time() -> list[int]:
    both = threading.Barrier(2, timeout=60)
    return each(lambda item: both.wait() * 0 + item, [3, 1])


def test_a_forked_process_starts_threads_of_its_own() -> None:
    """It has none of its parent's, which nothing would tell."""
    with limited_threads(cpus() + 1):
        number = threading.Barrier(cpus() + 1, timeout=60)
        each(lambda item: number.wait(), range(cpus() + 1))  # all that there may be
    with limited_threads(2):
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply_async(_at_the_same_time).get(timeout=60) == [3, 1]
