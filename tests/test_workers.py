import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from svs_unet_plugin.workers import in_parallel


def wait(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


def test_results_in_order_from_processes_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OTHER", "other")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    names = ["OMP_NUM_THREADS", "OTHER", "MKL_NUM_THREADS"]
    assert list(in_parallel(os.getenv, names, 2, title="Test")) == ["1", "other", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ


def test_one_job_is_done_here() -> None:
    assert list(in_parallel(lambda number: (number, os.getpid()), [1], title="Test")) == [(1, os.getpid())]
    assert list(in_parallel(str, [], title="Test")) == []
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        list(in_parallel(str, [1], 0, title="Test"))


def test_processes_end_with_the_one_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom test_workers import in_parallel, wait\n"
        "if __name__ == '__main__':\n  list(in_parallel(wait, 2 * [sys.argv[1]], 2, title='Test'))"
    )
    (tmp_path / "out").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(
        [sys.executable, script, tmp_path / "out"], env=environment, stderr=subprocess.DEVNULL
    )
    while len(started := [int(path.name) for path in (tmp_path / "out").iterdir()]) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    while any(map(alive, started)):
        assert time.monotonic() < deadline, "they wait for work that never comes"
        time.sleep(0.02)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
