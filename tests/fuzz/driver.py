"""Runs cases, each in a process of its own with limits, and judges how they end.

A surface is a generator function: it makes the input of a case, yields what that is, and reads it. If it
comes to its end, the answer was right, and whatever it asserts was true. It may also raise a ``ValueError``
or an ``OSError`` of this package, of one sentence. All else is a finding: other errors, a crash, too much
time or memory, a program or a connection that was started, a file that was written outside of the output
folder, or left half-written.
"""

from __future__ import annotations

import gc
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import svs_unet_plugin

MOST_SECONDS = 60.0
"""Of wall-clock time: far more than any case takes, so that a busy machine makes no finding."""

MOST_MB = 600.0
"""That a process grows by while it reads, and that a program which it starts has: the inputs are small."""

_ADDRESS_SPACE = 3 * 2**30  # beyond what is mapped already; threads and libraries reserve much
_FILE_BYTES = 2**28
_PACKAGE = str(Path(svs_unet_plugin.__file__).parent)
_PROGRAMS = ("ffmpeg", "ffprobe")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
)
_FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "pty.spawn",
    "socket.connect",
    "socket.bind",
)
_FORBIDDEN += ("pickle.find_class", "ctypes.dlopen", "webbrowser.open", "urllib.Request")


class Refused(Exception):
    """A sentence that was printed, or sent, instead of raised."""


@dataclass(frozen=True)
class Case:
    """One case: what it draws from, and its folders, deep enough for ``../..`` to end in what is looked at.

    Args:
        rng: of this case alone.
        root: all that belongs to it.
    """

    rng: random.Random
    root: Path

    @property
    def inputs(self) -> Path:
        return self.root / "a" / "b" / "in"

    @property
    def out(self) -> Path:
        """The only folder that may be written to."""
        return self.root / "a" / "b" / "c" / "out"

    @property
    def scratch(self) -> Path:
        """For temporary files, none of which may be left."""
        return self.root / "a" / "tmp"

    @property
    def canary(self) -> Path:
        """What hostile input tries to make."""
        return self.root / "canary"

    def write(self, name: str, content: bytes) -> Path:
        path = self.inputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


Surface = Callable[[Case], Iterator[str]]


@dataclass
class Result:
    """How a case ended: "right", "refused" or "other", with why."""

    number: int
    surface: str
    outcome: str = "other"
    given: str = "an input that could not be made"
    said: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0
    findings: list[str] = field(default_factory=list)


def run(
    surfaces: dict[str, tuple[int, Surface]],
    seed: int,
    numbers: Iterable[int],
    jobs: int = 1,
    keep: Path | None = None,
) -> Iterator[Result]:
    """Run cases, some at a time, and yield their results as they end.

    Args:
        surfaces: by name, with a weight each: so many of a round of cases are its.
        keep: where the folders of cases stay; by default they go.
    """
    rounds = [name for name, (weight, _) in surfaces.items() for _ in range(weight)]
    running: dict[int, _Running] = {}
    gc.collect()
    gc.freeze()  # what is there is not to be copied by every process that looks for garbage
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        waiting = iter(numbers)
        more = True
        while more or running:
            while more and len(running) < jobs:
                number = next(waiting, None)
                if more := number is not None:
                    surface = rounds[number % len(rounds)]
                    root = (keep or Path(folder)).resolve() / str(number)
                    case = Case(random.Random(f"{seed} {number}"), root)
                    started = _Running(Result(number, surface), case, surfaces[surface][1])
                    running[started.pipe] = started
            ready = select.select(list(running), [], [], 0.02)[0] if running else []
            for one in list(running.values()):
                one.look()
                if one.pipe in ready and one.ended():
                    del running[one.pipe]
                    yield one.result
                    if keep is None:
                        shutil.rmtree(one.case.root, ignore_errors=True)


class _Running:
    """The process of a case, seen from outside."""

    def __init__(self, result: Result, case: Case, surface: Surface) -> None:
        self.result, self.case = result, case
        for folder in (case.inputs, case.out, case.scratch):
            folder.mkdir(parents=True)
        self.pipe, end = os.pipe()
        self.said = b""
        self.begun = time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            try:
                _inside(case, surface, end)
            finally:
                os._exit(0)
        os.close(end)

    def look(self) -> None:
        """See how much memory the programs have that it started, and end it if it takes too long."""
        for children in Path(f"/proc/{self.pid}/task").glob("*/children"):
            try:
                for pid in children.read_text().split():
                    if Path(f"/proc/{pid}/comm").read_text().strip() in _PROGRAMS:
                        self.result.megabytes = max(self.result.megabytes, _memory(pid)["VmHWM"])
            except (OSError, KeyError):  # it has ended
                continue
        if time.monotonic() - self.begun > MOST_SECONDS:
            _kill_group(self.pid)

    def ended(self) -> bool:
        """Read what it says; if that was all, make the result of it."""
        if data := os.read(self.pipe, 1 << 16):
            self.said += data
            return False
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        result = self.result
        for line in self.said.splitlines():
            for key, value in json.loads(line).items():
                setattr(result, key, max(value, result.megabytes) if key == "megabytes" else value)
        taken = time.monotonic() - self.begun
        if _kill_group(self.pid):
            result.findings.append("it left a process behind")
        if taken > MOST_SECONDS:
            result.findings.append(f"it was killed after {MOST_SECONDS:.0f} s")
        elif os.WIFSIGNALED(status):
            result.findings.append(f"it crashed with {signal.Signals(os.WTERMSIG(status)).name}")
        if result.megabytes > MOST_MB:
            result.findings.append(f"it took {result.megabytes:.0f} MB")
        result.seconds = max(result.seconds, taken if taken > MOST_SECONDS else 0)
        result.outcome = "other" if result.findings else result.outcome
        return True


def _kill_group(pid: int) -> bool:
    """Whether there was something to kill."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _inside(case: Case, surface: Surface, pipe: int) -> None:
    """All that the process of a case does."""
    os.setsid()
    log = case.root / "said.txt"
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (open(number, "w", errors="replace", closefd=False) for number in (1, 2))
    tempfile.tempdir = os.environ["TMPDIR"] = str(case.scratch)
    os.chdir(case.inputs)
    sys.dont_write_bytecode = True

    def tell(**what: Any) -> None:
        os.write(pipe, json.dumps(what).encode() + b"\n")

    try:
        steps = surface(case)
        tell(given=next(steps))
    except Exception:
        tell(findings=[f"its input could not be made: {traceback.format_exc(limit=-3)}"])
        return
    findings: list[str] = []
    before = _tree(case)
    memory = _memory("self")
    for kind, limit in (
        ("AS", int(memory["VmSize"] * 1e6) + _ADDRESS_SPACE),
        ("FSIZE", _FILE_BYTES),
        ("CORE", 0),
    ):
        resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (limit, limit))
    Path("/proc/self/clear_refs").write_text("5")  # the highest size is that of now
    armed = threading.Event()
    armed.set()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if armed.is_set() and (problem := _problem(case, event, arguments)):
            findings.append(problem)

    sys.addaudithook(watch)
    begun = time.monotonic()
    outcome, said = "right", ""
    try:
        next(steps, None)
    except (OSError, ValueError, Refused) as error:
        outcome, said = "refused", _sentence(error)
        if fault := _fault(error, said):
            findings.append(f"{fault}: {''.join(traceback.format_exception(error, limit=-4))}")
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"[:300]
        findings.append("".join(traceback.format_exception(error, limit=-4))[-2500:])
    seconds = time.monotonic() - begun
    armed.clear()
    del steps
    after = _tree(case)
    findings += [
        f"it changed {path}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]
    findings += [f"it left {path.name}" for path in case.out.rglob("*") if path.name.endswith(".part")]
    sys.stderr.flush()
    if "Traceback (most recent call" in (printed := log.read_text(errors="replace")):
        findings.append(f"it printed {printed[-1500:]}")
    megabytes = _memory("self")["VmHWM"] - memory["VmRSS"]
    tell(outcome=outcome, said=said, findings=findings, seconds=seconds, megabytes=megabytes)


def _sentence(error: BaseException) -> str:
    from svs_unet_plugin.errors import sentence

    return sentence(error) if isinstance(error, OSError) else str(error)


def is_ours(error: BaseException) -> bool:
    """Whether it was raised in this package itself."""
    return traceback.extract_tb(error.__traceback__)[-1].filename.startswith(_PACKAGE)


def _fault(error: BaseException, said: str) -> str:
    """What is wrong with an error that should be one sentence of this package."""
    if not (is_ours(error) or isinstance(error, Refused) or (isinstance(error, OSError) and error.strerror)):
        return "an error that is not ours"
    if (
        "\n" in said.strip()
        or not said.strip()
        or len(said) > 2000
        or re.search(r"Traceback|<[^>]* at 0x", said)
    ):
        return "no sentence"
    return ""


def _problem(case: Case, event: str, arguments: tuple[Any, ...]) -> str:
    """What is wrong with something that Python is about to do."""
    if event in _FORBIDDEN:
        return f"it did {event}{arguments!r}"[:300]
    if event == "subprocess.Popen":
        program = os.path.basename(os.fsdecode(arguments[0]))
        return "" if program in _PROGRAMS else f"it started {arguments[:2]!r}"[:300]
    paths: tuple[Any, ...] = ()
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
        paths = arguments[:1]
    elif event in _CHANGES:
        relative = arguments[2:] if event in ("os.rename", "os.link") else arguments[1:]
        at_folder = any(isinstance(number, int) and number not in (-1, 0o700, 0o777) for number in relative)
        paths = () if at_folder else arguments[: 2 if event in ("os.rename", "os.link") else 1]
    for path in paths:
        if isinstance(path, (str, bytes, os.PathLike)):
            real = Path(os.path.abspath(os.fsdecode(path)))
            if not (
                real.is_relative_to(case.out) or real.is_relative_to(case.scratch) or str(real) == os.devnull
            ):
                return f"it did {event} of {real}"
    return ""


def _tree(case: Case) -> dict[str, tuple[int, int, str]]:
    """All files of a case but those in the output folder."""
    found = {}
    for parent, folders, names in os.walk(case.root):
        if Path(parent) == case.out:
            folders.clear()
            continue
        for entry in folders + names:
            path = os.path.join(parent, entry)
            status = os.lstat(path)
            regular = (status.st_size, status.st_mtime_ns) if entry in names else (0, 0)
            link = os.readlink(path) if os.path.islink(path) else ""
            if entry != "said.txt":
                found[os.path.relpath(path, case.root)] = (*regular, link)
    return found


def _memory(pid: str) -> dict[str, float]:
    """Sizes of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) / 1e3 for line in lines if line.startswith("Vm")}
