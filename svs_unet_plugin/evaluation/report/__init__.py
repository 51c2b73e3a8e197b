"""One HTML page, which opens without a network, from a folder of results; and its numbers as text.

The page is made of ``report.html``, ``report.css`` and ``report.js`` beside this file. Its tables are written
here; its charts are drawn by the script from the numbers in the page, at the width of the screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svs_unet_plugin.evaluation import store as results_io
from svs_unet_plugin.evaluation.report.excerpts import HIGHEST_HZ, LOWEST_HZ, excerpts
from svs_unet_plugin.evaluation.report.tables import (
    KINDS,
    Table,
    cost_table,
    markdown,
    medians,
    ordered,
    score_table,
)
from svs_unet_plugin.evaluation.store import METRICS, System
from svs_unet_plugin.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

MEDIA_BYTES = 13_000_000
"""Most of all sounds and pictures in a page, which then stays below some 15 MB."""

MUSDB18_TEST_TRACKS = 50


@dataclass(frozen=True)
class Fact:
    """Something to know about the data or the measurement."""

    name: str
    value: str


@dataclass(frozen=True)
class Published:
    """A score that somebody else has published: median SDR of the vocals in dB."""

    name: str
    what: str
    vocals_sdr: float


PUBLISHED_BY = (
    "F.-R. Stöter, A. Liutkus, N. Ito: “The 2018 Signal Separation Evaluation Campaign”, LVA/ICA 2018; "
    "its scores are at https://github.com/sigsep/sigsep-mus-2018-analysis"
)
PUBLISHED = (
    Published("IRM2", "oracle: ideal ratio mask of power spectrograms", 9.43),
    Published("IRM1", "oracle: ideal ratio mask of magnitude spectrograms", 8.52),
    Published("JY3", "a trained network", 5.74),
    Published("Wave-U-Net", "a trained network", 4.97),
    Published("REPET-SIM", "classical", 2.30),
    Published("Melodia", "classical", 1.97),
    Published("Mixture", "the mixture as the estimate", 1.12),
)
"""Medians over the 50 test tracks of MUSDB18 of the medians over windows of one second, by museval."""


@dataclass(frozen=True)
class Headline:
    """The best of a kind of systems."""

    kind: str
    label: str
    name: str
    value: str


@dataclass(frozen=True)
class Report:
    """The files that were written."""

    page: Path
    csv: Path
    markdown: Path


def write_report(
    results: Path, out: Path, title: str, facts: Sequence[Fact] = (), *, musdb18_test: bool = False
) -> Report:
    """Write ``report.html``, ``scores.csv`` and ``scores.md``.

    The same results give the same files.

    Args:
        results: see `svs_unet_plugin.evaluation.store`.
        out: a folder, made if it is missing.
        title: of the page.
        facts: what to tell about the data and the measurement.
        musdb18_test: whether the tracks are of MUSDB18's own test split, at full length. If they are all
            50 of it, published scores are shown too.

    Raises:
        FileNotFoundError: if there are no results.
        ValueError: if a file there is not what it should be, or if there are no scores.
    """
    import jinja2
    from markupsafe import Markup

    systems = results_io.read_systems(results)
    scores = results_io.read_scores(results, systems)
    if scores.empty:
        raise ValueError(f"{results} holds no scores: there is no <system>/test/<track>.json in it")
    sources = ordered(scores.source.unique())
    tables = [score_table(systems, scores, source) for source in sources]
    costs = cost_table(systems)
    best_first = [row.system for row in (*tables[0].bounds, *tables[0].separators)]
    played, left_out = excerpts(results, best_first, MEDIA_BYTES)
    warnings = _warnings(systems, scores)
    if left_out:
        warnings.append(f"To keep the page small, there is nothing to hear of {', '.join(left_out)}.")
    published = PUBLISHED if musdb18_test and scores.track.nunique() == MUSDB18_TEST_TRACKS else ()
    data = _chart_data(results, systems, scores, sources)

    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html").render(
        title=title,
        facts=facts,
        warnings=warnings,
        headlines=_headlines(systems, scores),
        kinds=KINDS,
        tables=tables,
        costs=costs,
        tracks=scores.track.nunique(),
        excerpts=played,
        picture_hz=(LOWEST_HZ, HIGHEST_HZ),
        published=published,
        published_by=PUBLISHED_BY,
        data=data,
        style=Markup((here / "report.css").read_text(encoding="utf-8")),
        script=Markup((here / "report.js").read_text(encoding="utf-8")),
    )
    out.mkdir(parents=True, exist_ok=True)
    report = Report(out / "report.html", out / "scores.csv", out / "scores.md")
    for path, text in (
        (report.page, page),
        (report.csv, _csv(systems, scores)),
        (report.markdown, _markdown(title, facts, warnings, tables, costs, published, scores)),
    ):
        with atomic_write(path) as beside:
            beside.write_text(text, encoding="utf-8", newline="\n")
    return report


def _headlines(systems: Sequence[System], scores: pd.DataFrame) -> list[Headline]:
    """The best of each kind by the median SDR of the vocals."""
    if "vocals" not in scores.source.values:
        return []
    sdr = medians(scores, "vocals")["SDR"].dropna()
    headlines = []
    for kind, label in (
        ("trained", "Best trained"),
        ("classical", "Best classical"),
        ("oracle", "Best oracle"),
        ("bound", "Mixture as it is"),
    ):
        of_kind = {system.id: system.name for system in systems if system.kind == kind and system.id in sdr}
        if of_kind:
            best = sdr[list(of_kind)].idxmax()
            headlines.append(Headline(kind, label, of_kind[best], f"{sdr[best]:.1f}".replace("-", "−")))
    return headlines


def _warnings(systems: Sequence[System], scores: pd.DataFrame) -> list[str]:
    """What forbids a comparison: systems without scores, or with those of fewer tracks."""
    counts = scores.groupby("system").track.nunique()
    tracks = scores.track.nunique()
    missing = [system.name for system in systems if system.id not in counts]
    fewer = [
        f"{system.name} ({counts[system.id]})" for system in systems if 0 < counts.get(system.id, 0) < tracks
    ]
    warnings = []
    if missing:
        warnings.append(f"Without scores: {', '.join(missing)}.")
    if fewer:
        warnings.append(
            f"Scored on fewer than all {tracks} tracks, and so not to be compared with the others: "
            f"{', '.join(fewer)}."
        )
    return warnings


def _chart_data(
    results: Path, systems: Sequence[System], scores: pd.DataFrame, sources: Sequence[str]
) -> dict[str, Any]:
    """What the script draws: for each source and metric, the tracks' scores of each system."""
    tracks = sorted(scores.track.unique())
    losses = {system.id: results_io.read_losses(results, system.id) for system in systems}
    index = scores.set_index(["source", "metric", "system", "track"]).score
    table = index.unstack("track").reindex(columns=tracks)
    values: dict[str, dict[str, dict[str, list[float | None]]]] = {source: {} for source in sources}
    for (source, metric, system), row in zip(table.index, table.to_numpy(), strict=True):
        rounded = [round(float(value), 2) if np.isfinite(value) else None for value in row]
        values[source].setdefault(metric, {})[system] = rounded
    return {
        "tracks": tracks,
        "sources": list(sources),
        "kinds": KINDS,
        "systems": [
            {
                "id": system.id,
                "name": system.name,
                "kind": system.kind,
                "seconds": system.seconds_per_minute,
                "parameters": system.parameters,
            }
            for system in systems
        ],
        "metrics": [metric for metric in METRICS if metric in scores.metric.values],
        "scores": values,
        "losses": [
            {"name": system.name, "train": loss.train, "validation": loss.validation}
            for system in systems
            if (loss := losses[system.id]) is not None
        ],
    }


def _csv(systems: Sequence[System], scores: pd.DataFrame) -> str:
    by_id = {system.id: system for system in systems}
    table = scores.assign(
        name=[by_id[name].name for name in scores.system], kind=[by_id[name].kind for name in scores.system]
    )
    columns = ["system", "name", "kind", "track", "source", "metric", "score"]
    return table.to_csv(columns=columns, index=False, float_format="%.5f", lineterminator="\n")


def _markdown(
    title: str,
    facts: Sequence[Fact],
    warnings: Sequence[str],
    tables: Sequence[Table],
    costs: Table,
    published: Sequence[Published],
    scores: pd.DataFrame,
) -> str:
    parts = [f"# {title}"]
    if facts:
        parts.append("\n".join(f"- {fact.name}: {fact.value}" for fact in facts))
    parts.extend(f"**{warning}**" for warning in warnings)
    for table in tables:
        parts.append(f"## {table.title.capitalize()}")
        parts.append(
            f"Medians over {scores[scores.source == table.title].track.nunique()} tracks in dB. The best of "
            "each column is bold; oracles and the mixture, in italics, do not take part."
        )
        parts.append(markdown(table))
    parts += ["## Cost", markdown(costs)]
    if published:
        parts += [
            "## Published scores, not measured here",
            f"Median SDR of the vocals in dB. {PUBLISHED_BY}.",
        ]
        rows = [f"| {score.name} | {score.what} | {score.vocals_sdr:.2f} |" for score in published]
        parts.append("\n".join(["| | | SDR |", "|---|---|---:|", *rows]))
    return "\n\n".join(parts) + "\n"
