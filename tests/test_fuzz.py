"""The short form of ``make fuzz``, and that its driver notices what it is there for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="it measures and limits processes by Linux's means"
)


def run(*command: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment
    )


def test_odd_input_ends_in_a_right_answer_or_one_sentence() -> None:
    pytest.importorskip("pyarrow")
    done = run(TESTS / "fuzz", "--cases", 500, "--seed", 0)
    assert done.returncode == 0, done.stderr
    assert "| all | 500 |" in done.stdout


BAD = """
import json, os, signal, subprocess, time
from pathlib import Path
from fuzz import driver
from svs_unet_plugin import audio

def surface(act):
    def run(case):
        case.write("input", b"some")
        yield "an input"
        act(case)
    return 1, run

def leave(case):
    subprocess.Popen = None
    os.posix_spawn("/bin/sleep", ["sleep", "20"], {})

driver.MOST_SECONDS, driver.MOST_MB = 8.0, 100.0
results = {}
ACTS = {
    "right": lambda case: (case.out / "stem.wav").write_bytes(b"a stem"),
    "refused": lambda case: audio.check_rate(0, "the rate"),
    "not ours": lambda case: int("x"),
    "two lines": lambda case: audio.check_rate(0, "one\\ntwo"),
    "unexpected": lambda case: {}["key"],
    "shell": lambda case: os.system(f"touch {case.canary}"),
    "program": lambda case: subprocess.run(["true"]),
    "elsewhere": lambda case: (case.out / "../../../up").write_bytes(b"no"),
    "input": lambda case: (case.inputs / "input").write_bytes(b"other"),
    "temporary": lambda case: (case.scratch / "left").write_bytes(b"some"),
    "half": lambda case: (case.out / ".a.part").write_bytes(b"ha"),
    "printed": lambda case: os.write(2, b"Traceback (most recent call last):"),
    "crash": lambda case: os.kill(os.getpid(), signal.SIGSEGV),
    "slow": lambda case: time.sleep(30),
    "large": lambda case: len(b"x" * 2 * 10**8),
    "too large": lambda case: bytes(2**40),
    "process": leave,
}
for result in driver.run({name: surface(act) for name, act in ACTS.items()}, 0, range(len(ACTS)), 3):
    results[result.surface] = (result.outcome, " ".join(result.findings))
print(json.dumps(results))
"""


def test_the_driver_notices_what_must_not_be() -> None:
    done = run("-c", BAD)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results.pop("right") == ["right", ""]
    assert results.pop("refused") == ["refused", ""]
    assert results.pop("large")[1].startswith("it took ")
    for surface, words in {
        "not ours": "an error that is not ours",
        "two lines": "no sentence",
        "unexpected": "KeyError",
        "shell": "it did os.system",
        "program": "it started",
        "elsewhere": "it changed a/up",
        "input": "it changed a/b/in/input",
        "temporary": "it changed a/tmp/left",
        "half": "it left .a.part",
        "printed": "it printed Traceback",
        "crash": "it crashed with SIGSEGV",
        "slow": "it was killed after 8 s",
        "too large": "MemoryError",
        "process": "it left a process behind",
    }.items():
        outcome, said = results.pop(surface)
        assert outcome == "other" and words in said, (surface, outcome, said)
    assert not results
