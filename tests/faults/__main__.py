"""Kill every long operation at random moments, and fill its disk: ``make faults``. Prints what came of it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path[:0] = map(str, (Path(__file__).parents[2], Path(__file__).parents[1]))

from faults.disks import fill, mounted  # noqa: E402
from faults.kills import survive  # noqa: E402
from faults.operations import OPERATIONS, Kitchen  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operations", nargs="*", help=f"of {', '.join(OPERATIONS)} (all)")
    parser.add_argument("--kills", type=int, default=20, help="of each; 0 only fills the disk (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    options = parser.parse_args()
    if unknown := set(options.operations) - set(OPERATIONS):
        parser.error(f"there is no operation {', '.join(unknown)}; there are {', '.join(OPERATIONS)}")
    names = options.operations or list(OPERATIONS)
    sound = True
    with tempfile.TemporaryDirectory() as folder:
        kitchen = Kitchen(Path(folder))

        def kill(name: str) -> Iterable[object]:
            found = survive(kitchen.operation(name), options.kills, options.seed)
            return f"{found.seconds:.1f} s", found.kills, found.at_work, found.ends, f"all {found.files}"

        if options.kills:
            sound &= table(names, kill, "undisturbed", "kills", "of them at work", "ends", "files equal")
        try:
            with mounted(Path(folder) / "disk") as disk:
                on_disk = Kitchen(Path(folder), disk.path / "out")

                def full(name: str) -> Iterable[object]:
                    return (fill(on_disk.operation(name), disk).replace(folder, "..."),)

                sound &= table(names, full, "what it says of a full disk")
        except PermissionError as error:
            print(error)
    sys.exit(not sound)


def table(names: Iterable[str], row: Callable[[str], Iterable[object]], *columns: str) -> bool:
    """Print a row of Markdown for each operation, as they are done; return whether none failed."""
    print(f"\n| operation | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}", flush=True)
    sound = True
    for name in names:
        try:
            cells = row(name)
        except (AssertionError, OSError, ValueError) as error:
            sound, cells = False, (f"FAILED: {error}",)
        print(f"| {name} | {' | '.join(map(str, cells))} |", flush=True)
    return sound


if __name__ == "__main__":
    main()
