"""How long engines take, and how far their masks are from torch's.

They take turns in one process. Besides the time that passes, the processor's is measured: that of others, on
a machine that has other work, is not in it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from svs_unet_plugin import Separator, engines

SAMPLE_RATE = 44_100
FRAMES = 1664
"""Of a chunk and what the network sees around it, in frames."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["vocals", "small"], help="default: vocals small")
    parser.add_argument("--seconds", type=int, default=60, help="of stereo to separate (default 60)")
    parser.add_argument("--threads", type=int, default=1, help="of each engine (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="turns for each engine (default 5)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{options.threads} threads, {options.rounds} turns, load of the machine {os.getloadavg()[0]:.1f}\n"
    )
    print(f"| weights | engine | {options.seconds} s of stereo | a chunk's network | to begin | difference |")
    print("|---|---|---:|---:|---:|---:|")
    for weights in options.weights:
        compare(weights, options.seconds, options.rounds)
    print("\nIn seconds of the processor, and in brackets those that passed: medians.")


def compare(weights: str, seconds: int, rounds: int) -> None:
    """Let the engines take turns, and print a row for each."""
    mixture = np.random.default_rng(0).normal(0, 0.1, (2, seconds * SAMPLE_RATE)).astype(np.float32)
    separators = {name: Separator(weights, "cpu", engine=name) for name in engines.installed()}
    network = separators["torch"].network
    torch.manual_seed(0)
    magnitude = torch.rand(1, network.inputs, 513, FRAMES) ** 8  # mostly small, as those of music
    masks = {}
    with torch.inference_mode():
        for name, separator in separators.items():
            separator.separate(mixture[:, : 10 * SAMPLE_RATE], SAMPLE_RATE)
            masks[name] = separator.masker.engine.masks(magnitude)

        def begin(name: str) -> None:
            engine = engines.make_engine(name, network, torch.device("cpu"))
            engine.masks(magnitude[..., : network.stride])

        works: dict[str, Callable[[str], object]] = {
            "song": lambda name: separators[name].separate(mixture, SAMPLE_RATE),
            "chunk": lambda name: separators[name].masker.engine.masks(magnitude),
            "begin": begin,
        }
        taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for _ in range(rounds):
            for work, run in works.items():
                for name in separators:
                    before = time.process_time(), time.perf_counter()
                    run(name)
                    after = time.process_time(), time.perf_counter()
                    taken.setdefault((name, work), []).append((after[0] - before[0], after[1] - before[1]))
    for name in separators:
        cells = []
        for work in works:
            processor, passed = (median(column) for column in zip(*taken[name, work], strict=True))
            cells.append(f"{processor:.2f} ({passed:.2f})")
        difference = float((masks[name] - masks["torch"]).abs().max())
        print(f"| {weights} | {name} | {' | '.join(cells)} | {difference:.0e} |", flush=True)


if __name__ == "__main__":
    main()
