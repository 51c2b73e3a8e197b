"""The command of ``benchmarks/`` runs and counts right; how fast anything is, is not looked at here."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from killing import environment_of

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SHORT = ("--seconds", "1", "--rounds", "1", "--threads", "1", "--processor")


def rows(*sections: str) -> list[list[list[str]]]:
    """The cells of the rows of each section's table."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS, *SHORT, *sections], capture_output=True, text=True, env=environment_of()
    )
    assert done.returncode == 0, done.stderr
    return [
        [
            [cell.strip() for cell in line.split("|")[1:-1]]
            for line in section.splitlines()
            if line[:2] == "| "
        ][2:]
        for section in done.stdout.split("\n## ")[1:]
    ]


def test_every_row_has_its_numbers() -> None:
    changes, limit = rows("changes", "limit")
    assert len(changes) >= 10 and all(float(cell) > 0 for _, *cells in changes for cell in cells)
    assert "100 %" in (limit[0][-1], limit[1][-1]) and len(limit) == 8

    # By hand, in 10⁹: 2048 frames of 512 bins, halved six times; a layer has its inputs × 25 taps for each of
    # its outputs, forward as well as, seen from its inputs, transposed. The last has 9 taps and 4 times the
    # outputs instead.
    points = 2048 * 512 / 4 ** np.arange(1, 7)  # of the layers' grids
    widths = 16 * 2 ** np.arange(6)
    inputs_down, inputs_up = [1, *widths[:-1]], [widths[-1], *(2 * widths[-2:0:-1])]
    down = np.sum(points * widths * inputs_down) * 25
    up = np.sum(points[:0:-1] * widths[-2::-1] * inputs_up) * 25
    last = points[0] * 2 * widths[0] * 4 * 9
    expected = (down + up + last) / 1e9
    counted = {name: float(number) for name, number, *_ in limit}
    for name in ("the network", "its convolutions, each alone"):
        assert counted[f"the paper's U-Net: {name}"] == pytest.approx(expected, rel=0.005)  # three digits


def test_what_is_not_there_is_said() -> None:
    done = subprocess.run([sys.executable, BENCHMARKS, "speed"], capture_output=True, text=True)
    assert done.returncode == 2 and "there is no section speed; there are separation, " in done.stderr
