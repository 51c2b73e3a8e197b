"""Work on several threads."""

import multiprocessing
import threading

import pytest

from svs_unet_plugin.threads import each, limited_threads


@pytest.mark.parametrize("threads, side_by_side", [(1, False), (2, True)])
def test_as_many_threads_as_may_be_used(threads: int, side_by_side: bool) -> None:
    both = threading.Barrier(2)

    def work(item: int) -> int:
        try:
            both.wait(timeout=5 if side_by_side else 0.1)
        except threading.BrokenBarrierError:
            assert not side_by_side
        else:
            assert side_by_side
        return -item

    with limited_threads(threads):
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
