"""How long separation takes beside Open-Unmix and HT Demucs.

Weights are random, but for the bundled ones: time does not depend on what a network has learnt. The systems
take turns in one process, so that whatever else the machine does meets all of them, and are compared turn by
turn.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from peers import ht_demucs, open_unmix
from torch import Tensor
from tqdm import tqdm

import svs_unet_plugin
from svs_unet_plugin import STFT, Separator, UNet

SAMPLE_RATE = 44_100
WARM_UP_SECONDS = 10
SEED = 0


@dataclass
class System:
    """Something that separates audio ``(2, samples)`` at 44.1 kHz, and the seconds that it took each time."""

    name: str
    separate: Callable[[Tensor], object]
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="of stereo to separate (default 60)")
    parser.add_argument("--threads", type=int, default=2, help="that torch may use (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="turns for each system (default 5)")
    options = parser.parse_args()
    for name, value in vars(options).items():
        if value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    print(compare_speed(options.seconds, options.threads, options.rounds))


def compare_speed(seconds: int, threads: int, rounds: int) -> str:
    """Let the systems take turns; return a Markdown table."""
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    load = os.getloadavg()[0]  # of others: a thread without an idle core starves
    peers = [  # first, so that a missing one is noticed at once
        System("Open-Unmix", open_unmix("umxhq", targets=["vocals"], residual=True)),
        System("HT Demucs", ht_demucs(shifts=0)),
    ]
    ours = [
        plugin("the paper's U-Net", Separator(_random_unet(), device="cpu", stft=STFT())),
        plugin("bundled U-Net", Separator(device="cpu")),
    ]
    systems = [*ours, *peers]
    audio = 0.1 * torch.randn(2, seconds * SAMPLE_RATE)
    with tqdm(total=(rounds + 1) * len(systems), unit="run") as bar:
        for turn in range(rounds + 1):
            for system in systems:
                bar.set_description(system.name if turn else f"{system.name}, warm-up")
                start = time.perf_counter()
                system.separate(audio if turn else audio[:, : WARM_UP_SECONDS * SAMPLE_RATE])
                if turn:
                    system.seconds.append(time.perf_counter() - start)
                bar.update()
    columns = ["system", "seconds", "times real time", *(f"÷ {our.name}" for our in ours)]
    lines = [
        f"{seconds} s of stereo at 44.1 kHz, {rounds} turns each: median (minimum–maximum).",
        f"{_machine(threads)}; openunmix {version('openunmix')}, demucs {version('demucs')}.",
        f"Load average of the machine before: {load:.1f}.",
        "",
        "| " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * (len(columns) - 1),
    ]
    for system in systems:
        ratios = [_spread([a / b for a, b in zip(system.seconds, our.seconds, strict=True)]) for our in ours]
        real_time = _three_digits(seconds / median(system.seconds))
        lines.append("| " + " | ".join([system.name, _spread(system.seconds), real_time, *ratios]) + " |")
    return "\n".join(lines)


def plugin(name: str, separator: Separator) -> System:
    """This package's `Separator`."""
    return System(name, lambda audio: separator.separate(audio, SAMPLE_RATE))


def _random_unet() -> UNet:
    """A U-Net whose normalisations have seen data, so that no layer's values die out or blow up."""
    network = UNet()
    with torch.no_grad():
        network.train()(torch.rand(4, 1, 513, 128))
    return network.eval()


def _machine(threads: int) -> str:
    """The processor, the number of threads, and the versions."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():  # Linux, where platform knows no name
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {"svs_unet_plugin": svs_unet_plugin.__version__, "torch": torch.__version__}
    versions |= {package: version(package) for package in ("numpy", "soxr")}
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{cpu}, {threads} thread(s); Python {platform.python_version()}, {listed}"


def _spread(values: list[float]) -> str:
    low, high = _three_digits(min(values)), _three_digits(max(values))
    return f"{_three_digits(median(values))} ({low}–{high})"


def _three_digits(value: float) -> str:
    """Three significant digits, and never an exponent: 0.123, 12.3, 123, 1234."""
    return f"{value:.{max(0, 3 - len(str(int(value))) if value >= 1 else 3)}f}"


if __name__ == "__main__":
    main()
