import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import TESTS, kill_when
from threadpoolctl import threadpool_info
from tqdm import tqdm

from svs_unet_plugin.workers import in_parallel


def wait(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


def threads(item: int) -> tuple[int, int, int]:
    """The item, the process, and the most threads of a library in it."""
    import numpy  # noqa: F401, whose BLAS is one of them

    return item, os.getpid(), max(library["num_threads"] for library in threadpool_info())


def die(item: str) -> str:
    if item in ("heavy", "crash"):
        os.kill(os.getpid(), signal.SIGKILL if item == "heavy" else signal.SIGSEGV)
    return item


def die_once(folder: str, item: int) -> int:
    """The third item is too much beside others, the first time."""
    if item == 2 and not (Path(folder) / "died").exists():
        (Path(folder) / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def show(item: int) -> None:
    """Work with a bar of its own, that fails."""
    list(tqdm([item]))
    raise OSError(f"{item} can't be written")


SCRIPT = """
import sys
from test_workers import die, die_once, in_parallel, show, threads, wait
if __name__ == "__main__":
"""


def ended(script: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    environment.pop("OMP_NUM_THREADS", None)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + script], capture_output=True, text=True, env=environment, timeout=120
    )


def run(script: str) -> str:
    done = ended(script)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_results_in_order_from_processes_of_one_thread() -> None:
    said = run("  import os; print((os.getpid(), list(in_parallel(threads, range(6), 2, title='Test'))))")
    parent, found = eval(said)
    assert [item for item, _, _ in found] == list(range(6))
    processes = {process for _, process, _ in found}
    assert parent not in processes and len(processes) <= 2  # one may have done all before the other was there
    assert {count for _, _, count in found} == {1}


def test_as_many_processes_as_there_are_cpus_to_run_on() -> None:
    """Not as many as the machine has: an affinity or a container may leave fewer."""
    one = min(os.sched_getaffinity(0))
    said = run(
        f"  import os; os.sched_setaffinity(0, [{one}])\n"
        "  print([process == os.getpid() for _, process, _ in in_parallel(threads, range(3), title='Test')])"
    )
    assert said.strip() == "[True, True, True]"  # one process, this one


def test_a_process_that_is_killed_loses_one_item_which_is_named() -> None:
    """A crash takes the items with it that were in work beside it; they are done again."""
    items = ["light", "heavy", "other", "crash", *"abcd"]
    said = run(
        f"  try: list(in_parallel(die, {items}, 2, title='Test'))\n"
        "  except RuntimeError as error: print(error)\n"
        f"  print(list(in_parallel(die, {items}, 2, title='Test', lost='{{}}: {{}}'.format)))"
    )
    first, second = said.splitlines()
    killed, crashed = (
        "heavy: its process ended by SIGKILL, perhaps for lack of memory",
        "crash: its process ended by SIGSEGV",
    )
    assert first == (
        f"Test: 2 of 8 are not done, and a new run does the rest ({killed}; {crashed}); "
        "fewer --jobs take less memory"
    )
    assert eval(second) == ["light", killed, "other", crashed, *"abcd"]


def test_what_fits_into_memory_alone_is_not_lost(tmp_path: Path) -> None:
    said = run(
        f"  import functools; work = functools.partial(die_once, {str(tmp_path)!r})\n"
        "  print(list(in_parallel(work, range(5), 2, title='Test')))"
    )
    assert eval(said) == list(range(5))


def test_one_job_is_done_here() -> None:
    assert list(in_parallel(lambda number: (number, os.getpid()), [1], title="Test")) == [(1, os.getpid())]
    assert list(in_parallel(str, [], title="Test")) == []
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        list(in_parallel(str, [1], 0, title="Test"))


def test_processes_end_with_the_one_that_is_killed(tmp_path: Path) -> None:
    def started() -> list[int]:
        return [int(path.name) for path in tmp_path.iterdir()]

    script = SCRIPT + "  list(in_parallel(wait, 2 * [sys.argv[1]], 2, title='Test'))"
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert kill_when(lambda: len(started()) == 2, command, group=False)
    deadline = time.monotonic() + 30
    while any(map(alive, started())):
        assert time.monotonic() < deadline, "they wait for work that never comes"
        time.sleep(0.02)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_sentence_is_the_last_thing_that_is_said() -> None:
    """Not that semaphores are leaked: those that tqdm makes, of processes that are ended where one fails."""
    script = "  try: list(in_parallel(show, range(4), 2, title='Test'))\n"
    done = ended(script + "  except OSError as error: sys.exit(str(error))")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].endswith("can't be written"), done.stderr
