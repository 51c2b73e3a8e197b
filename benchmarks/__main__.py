"""What separation and training cost, side by side: ``python benchmarks``, and each table is Markdown."""

from __future__ import annotations

import argparse
import pkgutil
import time

import torch
from timing import Setting

SECTIONS = {
    "separation": ("Separation, beside others", "separation.section"),
    "changes": ("What a change costs", "costs.changes"),
    "batches": ("Items at once", "costs.batches"),
    "engines": ("What computes the network", "costs.engines"),
    "limit": ("The machine's limit", "costs.limit"),
    "memory": ("Memory against length", "memory.section"),
    "training": ("A training step", "training.section"),
}
"""By name: a title, and the function that measures and returns a table."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)} (all)")
    parser.add_argument("--quick", action="store_true", help="less audio, one turn: two minutes in all")
    parser.add_argument("--seconds", type=float, help="of stereo to separate (60, quick 6)")
    parser.add_argument("--rounds", type=int, help="turns that each takes (5, quick 1)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="that torch may use")
    parser.add_argument(
        "--processor",
        action="store_true",
        help="count the processor's time, not the clock's; with --threads 1, where other programs run",
    )
    parser.add_argument("--device", help="cpu, cuda … (default: the CPU, and a GPU if there is one)")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    seconds = options.seconds or (6 if options.quick else 60)
    rounds = options.rounds or (1 if options.quick else 5)
    for name, value in {"seconds": seconds, "rounds": rounds, "threads": options.threads}.items():
        if value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    if options.processor and (options.threads > 1 or options.device not in (None, "cpu")):
        parser.error("--processor goes with --threads 1 and the CPU: others are waited for")
    gpu = torch.cuda.is_available() and not options.processor  # which does not know when a GPU works
    devices = [options.device] if options.device else ["cpu", *["cuda"] * gpu]
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.processor else time.perf_counter
    for device in devices:
        setting = Setting(torch.device(device), options.threads, seconds, rounds, options.quick, clock)
        print(f"# {device}\n\n{setting}", flush=True)
        for name in options.sections or SECTIONS:
            title, place = SECTIONS[name]
            section = pkgutil.resolve_name(place)  # which imports the hosts, where it needs them
            print(f"\n## {title}\n\n{section(setting)}", flush=True)


if __name__ == "__main__":
    main()
