"""How things are timed: they take turns, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

RATE = 44_100
"""In Hz, of the audio that is separated."""

Work = Callable[[], object]
Seconds = list[float]


@dataclass(frozen=True)
class Setting:
    """Where and how long things are measured.

    Args:
        device: that networks run on.
        threads: that torch may use on the CPU, ≥ 1.
        seconds: of stereo that is separated, > 0.
        rounds: turns that each thing takes, ≥ 1, after one that does not count.
        quick: whether to leave out what takes minutes.
        clock: in seconds; that of this process, where others are at work.
    """

    device: torch.device
    threads: int
    seconds: float
    rounds: int
    quick: bool = False
    clock: Callable[[], float] = time.perf_counter

    @property
    def by_the_wall(self) -> bool:
        """Whether the clock runs while this process waits."""
        return self.clock is time.perf_counter

    def timed(self, work: Work) -> float:
        """The seconds that it takes, with what it leaves a GPU to do."""
        self._wait()
        start = self.clock()
        work()
        self._wait()
        return self.clock() - start

    def turns(
        self, works: Mapping[str, Work], warm_up: Mapping[str, Work] | None = None
    ) -> dict[str, Seconds]:
        """The seconds of each turn of each work.

        Args:
            works: by name.
            warm_up: what is done before, if not one turn of each.
        """
        for work in tqdm((warm_up or works).values(), desc="warm-up", leave=False):
            work()
        taken: dict[str, Seconds] = {name: [] for name in works}
        with tqdm(total=self.rounds * len(works), leave=False) as bar:
            for _ in range(self.rounds):
                for name, work in works.items():
                    bar.set_description(name)
                    taken[name].append(self.timed(work))
                    bar.update()
        return taken

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def __str__(self) -> str:
        """The processor, threads, and versions."""
        name = _processor()
        if self.device.type == "cuda":
            name = f"{torch.cuda.get_device_name(self.device)}, beside {name}"
        versions = {"svs_unet_plugin": version("svs_unet_plugin"), "torch": torch.__version__}
        versions |= {package: version(package) for package in ("numpy", "soxr")}
        listed = ", ".join(f"{package} {number}" for package, number in versions.items())
        clock = "" if self.by_the_wall else " Seconds are the processor's, which other programs don't take."
        return (
            f"{name}, {self.threads} thread(s); Python {platform.python_version()}, {listed}. "
            f"Load average before: {os.getloadavg()[0]:.1f}.{clock}"
        )


def noise(seconds: float) -> torch.Tensor:
    """``(2, samples)`` at `RATE`: time does not depend on what is separated."""
    return 0.1 * torch.randn(2, round(seconds * RATE), generator=torch.Generator().manual_seed(0))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown; the first column is text, the others are numbers."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """The median, and the least and the greatest."""
    if len(values) == 1:
        return digits(values[0])
    return f"{digits(median(values))} ({digits(min(values))}–{digits(max(values))})"


def ratio(values: Sequence[float], others: Sequence[float]) -> str:
    """The median of the ratios, turn by turn."""
    return digits(median(a / b for a, b in zip(values, others, strict=True)))


def digits(value: float) -> str:
    """Three significant digits, and never an exponent: 0.00123, 0.123, 12.3, 123, 1234."""
    if value == 0:
        return "0"
    whole = len(str(int(value))) if value >= 1 else 0
    zeros = 0
    while not whole and value * 10 ** (zeros + 1) < 1 and zeros < 9:
        zeros += 1
    return f"{value:.{max(0, 3 - whole + zeros)}f}"


def _processor() -> str:
    if Path("/proc/cpuinfo").exists():  # Linux, where platform knows no name
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        amx = " with AMX" if any(" amx_tile" in line for line in lines if line.startswith("flags")) else ""
        if names:
            return names[0] + amx
    return platform.processor() or platform.machine()
