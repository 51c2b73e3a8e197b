"""Kill every long operation at random moments: ``make faults``. Prints a table of what came of it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[:0] = map(str, (Path(__file__).parents[2], Path(__file__).parents[1]))

from faults.kills import survive  # noqa: E402
from faults.operations import OPERATIONS, Kitchen  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operations", nargs="*", help=f"of {', '.join(OPERATIONS)} (all)")
    parser.add_argument("--kills", type=int, default=20, help="of each (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    options = parser.parse_args()
    if unknown := set(options.operations) - set(OPERATIONS):
        parser.error(f"there is no operation {', '.join(unknown)}; there are {', '.join(OPERATIONS)}")
    print("| operation | undisturbed | kills | after it had written something | ends | files equal |")
    print("|---|---|---|---|---|---|", flush=True)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in options.operations or OPERATIONS:
            kitchen = Kitchen(Path(folder))
            try:
                found = survive(kitchen.operation(name), options.kills, options.seed)
            except (AssertionError, OSError, ValueError) as error:
                failed = True
                print(f"| {name} | FAILED: {error} |", flush=True)
                continue
            print(
                f"| {name} | {found.seconds:.1f} s | {found.kills} | {found.at_work} | {found.ends} "
                f"| {found.files} of {found.files} |",
                flush=True,
            )
    sys.exit(failed)


if __name__ == "__main__":
    main()
