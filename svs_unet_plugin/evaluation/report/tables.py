"""Scores and costs of all systems as tables, for a page and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from svs_unet_plugin.evaluation.store import METRICS, System, read_scores, read_systems

if TYPE_CHECKING:
    import pandas as pd

SOURCES = ("vocals", "accompaniment", "drums", "bass", "other")
"""In the order of a report; others follow."""

KINDS = {"trained": "Trained", "classical": "Classical", "oracle": "Oracle", "bound": "Mixture"}
"""Names of the kinds of systems, in the order of a report."""

SEPARATORS = ("trained", "classical")
"""The kinds that separate; oracles use the true sources, and the mixture is no separation."""

_Pick = Callable[[list[float]], float] | None
"""What finds the best number of a column; None where no number is better than another."""


@dataclass(frozen=True)
class Cell:
    """A number as text, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A system's numbers."""

    system: System
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Numbers of systems.

    Args:
        name: of the source that they are scores of, or ``"cost"``.
        columns: names of the numbers.
        separators: systems that separate, from best to worst. The best of each column is one of them.
        bounds: oracles, which know the true sources, and the mixture, which is no separation: what scores lie
            between.
    """

    name: str
    columns: tuple[str, ...]
    separators: tuple[Row, ...]
    bounds: tuple[Row, ...]


def ordered(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """Names without repetitions, in this order; others follow by the alphabet."""
    given = set(names)
    return [name for name in order if name in given] + sorted(given.difference(order))


def medians(scores: pd.DataFrame, source: str) -> pd.DataFrame:
    """Medians over the tracks in dB: a row for each system id, a column for each metric.

    Args:
        scores: of `svs_unet_plugin.evaluation.store.read_scores`.
    """
    chosen = scores[scores.source == source]
    table = chosen.groupby(["system", "metric"]).score.median().unstack()
    return table[ordered(table.columns, METRICS)]


def score_table(systems: Sequence[System], scores: pd.DataFrame, source: str) -> Table:
    """Medians over the tracks of one source's scores."""
    table = medians(scores, source)
    rows = [
        (system, [float(value) for value in table.loc[system.id]])
        for system in systems
        if system.id in table.index
    ]
    rows.sort(key=lambda row: -np.nan_to_num(row[1][0], nan=-np.inf))
    return _table(source, tuple(table.columns), rows, [max] * len(table.columns), _decibels)


def best_of_each_kind(systems: Sequence[System], scores: pd.DataFrame) -> list[Row]:
    """The system with the highest median SDR of the vocals of each kind; none without scores of vocals."""
    found = []
    if "vocals" in scores.source.values:
        sdr = medians(scores, "vocals")["SDR"].dropna()
        for kind in KINDS:
            of_kind = {system.id: system for system in systems if system.kind == kind and system.id in sdr}
            if of_kind:
                best = sdr[list(of_kind)].idxmax()
                found.append(Row(of_kind[best], (Cell(f"{sdr[best]:.1f}".replace("-", "−")),)))
    return found


def system_table(results: Path, system: str, tracks: Collection[str] | None = None) -> str:
    """Medians over these tracks, or all, of one system's scores in Markdown, a row for each source."""
    (described,) = read_systems(results, [system])
    scores = read_scores(results, [described], tracks)
    medians = scores.groupby(["source", "metric"]).score.median().unstack()
    metrics = ordered(medians.columns, METRICS)
    lines = [
        f"{described.name}, medians over {scores.track.nunique()} tracks, in dB\n",
        f"| | {' | '.join(metrics)} |",
        f"|---{'|---:' * len(metrics)}|",
    ]
    for source in ordered(medians.index, SOURCES):
        lines.append(f"| {source} | {' | '.join(f'{medians[name][source]:.2f}' for name in metrics)} |")
    return "\n".join(lines)


def cost_table(systems: Sequence[System]) -> Table:
    """What systems cost, the fastest first."""
    rows = [
        (
            system,
            [
                float("nan") if value is None else float(value)
                for value in (system.seconds_per_minute, system.peak_memory_mb, system.parameters)
            ],
        )
        for system in systems
    ]
    rows.sort(key=lambda row: np.nan_to_num(row[1][0], nan=np.inf))
    columns = ("seconds per minute of audio", "peak memory in MB", "parameters")
    return _table("cost", columns, rows, [min, min, None], _amount)


def markdown(table: Table) -> str:
    """A table in Markdown, the best of each column in bold and the bounds in italics."""
    lines = [
        f"| | {' | '.join(table.columns)} |",
        "|---" + "|---:" * len(table.columns) + "|",
    ]
    for rows, name in ((table.separators, "{}"), (table.bounds, "*{}*")):
        for row in rows:
            cells = " | ".join(f"**{cell.text}**" if cell.best else cell.text for cell in row.cells)
            lines.append(f"| {name.format(row.system.name)} | {cells} |")
    return "\n".join(lines)


def _table(
    name: str,
    columns: tuple[str, ...],
    rows: Sequence[tuple[System, Sequence[float]]],
    picks: Sequence[_Pick],
    write: Callable[[float], str],
) -> Table:
    separators = [row for row in rows if row[0].kind in SEPARATORS]
    bounds = [row for row in rows if row[0].kind not in SEPARATORS]
    best: list[str | None] = []
    for column, pick in enumerate(picks):
        finite = [values[column] for _, values in separators if np.isfinite(values[column])]
        best.append(write(pick(finite)) if pick is not None and finite else None)
    return Table(
        name,
        columns,
        # Equal as written is equal: what lies below the last digit is no reason to prefer one of two.
        tuple(
            Row(system, tuple(Cell(write(v), write(v) == b) for v, b in zip(values, best, strict=True)))
            for system, values in separators
        ),
        tuple(Row(system, tuple(Cell(write(value)) for value in values)) for system, values in bounds),
    )


def _decibels(value: float) -> str:
    return f"{value:.2f}".replace("-", "−") if np.isfinite(value) else "–"


def _amount(value: float) -> str:
    """Three digits, and all of a larger number."""
    if not np.isfinite(value):
        return "–"
    if 0 < value < 0.001:
        return "< 0.001"
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"
