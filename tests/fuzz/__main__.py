"""Run cases and print what became of them: ``python tests/fuzz --cases 10000 --seed 1``.

Case N of seed S is always the same one: ``python tests/fuzz --seed S --case N`` runs it alone, and leaves
its folder behind. The exit status is 1 if there were findings.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: its threads would not be forked
sys.path[:1] = map(str, Path(__file__).parents[1:3])

from fuzz.driver import Result, run  # noqa: E402
from fuzz.surfaces import SURFACES, prepare  # noqa: E402


def table(results: list[Result]) -> str:
    """A row a surface, in Markdown."""
    rows = [
        "| surface | cases | right | refused | other | most s | most MB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    by_surface = defaultdict(list)
    for result in results:
        by_surface[result.surface].append(result)
    for name, of in {**dict(sorted(by_surface.items())), "all": results}.items():
        ends = Counter(result.outcome for result in of)
        counts = " | ".join(
            str(number) for number in (len(of), ends["right"], ends["refused"], ends["other"])
        )
        most = max(result.seconds for result in of), max(result.megabytes for result in of)
        rows.append(f"| {name} | {counts} | {most[0]:.1f} | {most[1]:.0f} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=500, help="how many")
    parser.add_argument("--case", type=int, help="this one alone")
    parser.add_argument("--surface", choices=SURFACES, help="this one alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--verbose", action="store_true", help="print every case")
    options = parser.parse_args()
    surfaces = SURFACES if options.surface is None else {options.surface: SURFACES[options.surface]}
    only = f" --surface {options.surface}" if options.surface else ""
    keep = None if options.case is None else Path(tempfile.mkdtemp(prefix="fuzz-case-"))
    numbers = range(options.cases) if options.case is None else [options.case]
    prepare()
    results = []
    for result in run(surfaces, options.seed, numbers, options.jobs, keep):
        results.append(result)
        if result.findings or options.verbose or keep:
            print(f"case {result.number}, {result.surface}: {result.given}", file=sys.stderr)
            took = f"{result.seconds:.1f} s, {result.megabytes:.0f} MB"
            print(f"    {result.outcome}, {took}: {result.said}", file=sys.stderr)
            for finding in result.findings:
                print("    " + finding.replace("\n", "\n    "), file=sys.stderr)
            again = f"python tests/fuzz --seed {options.seed} --case {result.number}{only}"
            print(f"    {keep / str(result.number) if keep else again}", file=sys.stderr, flush=True)
    print(table(results))
    return int(any(result.findings for result in results))


if __name__ == "__main__":
    sys.exit(main())
