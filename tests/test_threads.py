"""Work on several threads."""

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from svs_unet_plugin import threads
from svs_unet_plugin.threads import each, limited_threads


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


@pytest.mark.parametrize("number, side_by_side", [(1, False), (2, True)])
def test_as_many_threads_as_may_be_used(number: int, side_by_side: bool) -> None:
    both = threading.Barrier(2)

    def work(item: int) -> int:
        try:
            both.wait(timeout=5 if side_by_side else 0.1)
        except threading.BrokenBarrierError:
            assert not side_by_side
        else:
            assert side_by_side
        return -item

    with limited_threads(number):
        assert each(work, [3, 1]) == [-3, -1]


def test_errors_are_those_of_the_work() -> None:
    with limited_threads(2), pytest.raises(ZeroDivisionError):
        each(lambda item: 1 / item, [1, 0])


def _at_the_same_time() -> list[int]:
    both = threading.Barrier(2, timeout=60)
    return each(lambda item: both.wait() * 0 + item, [3, 1])


def test_a_forked_process_starts_threads_of_its_own() -> None:
    """It has none of its parent's, which nothing would tell."""
    with limited_threads(2):
        assert _at_the_same_time() == [3, 1]
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply_async(_at_the_same_time).get(timeout=60) == [3, 1]
