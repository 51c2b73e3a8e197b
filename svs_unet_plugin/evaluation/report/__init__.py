"""One HTML page, which opens without a network, from a folder of results; and its numbers as text.

The page is made of ``report.html``, ``report.css`` and ``report.js`` beside this file. Its charts are by
Vega-Lite; the browser draws them with the one copy of Vega in the page, at the width of the screen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from svs_unet_plugin.evaluation.report.excerpts import HIGHEST_HZ, LOWEST_HZ, read_excerpts
from svs_unet_plugin.evaluation.report.tables import (
    KINDS,
    SOURCES,
    Table,
    best_of_each_kind,
    cost_table,
    markdown,
    ordered,
    score_table,
)
from svs_unet_plugin.evaluation.store import METRICS, System, losses_file, read_scores, read_systems
from svs_unet_plugin.files import write_text
from svs_unet_plugin.training.history import read_losses

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
class Report:
    """The files that were written."""

    page: Path
    csv: Path
    markdown: Path


def write_report(
    results: Path,
    out: Path,
    title: str,
    facts: Sequence[Fact] = (),
    *,
    ids: Collection[str] | None = None,
    tracks: Collection[str] | None = None,
    musdb18_test: bool = False,
) -> Report:
    """Write ``report.html``, ``scores.csv`` and ``scores.md``.

    The same results give the same files.

    Args:
        results: see `svs_unet_plugin.evaluation.store`.
        out: a folder, made if it is missing.
        title: of the page.
        facts: about the data and the measurement.
        ids, tracks: of the systems, and names of the tracks, that it is about; all by default, also those of
            earlier runs.
        musdb18_test: whether the tracks are of MUSDB18's own test split, at full length. If they are all
            50 of it, published scores are shown too.

    Raises:
        FileNotFoundError: if there are no results.
        ValueError: if a file there is not what it should be, or if there are no scores.
    """
    import jinja2
    from markupsafe import Markup

    from svs_unet_plugin.evaluation.report import charts

    systems = read_systems(results, ids)
    scores = read_scores(results, systems, tracks)
    if scores.empty:
        raise ValueError(f"{results} holds no scores: there is no <system>/test/<track>.json in it")
    sources = ordered(scores.source, SOURCES)
    tables = [score_table(systems, scores, source) for source in sources]
    costs = cost_table(systems)
    best_first = [row.system for row in (*tables[0].bounds, *tables[0].separators)]
    played, left_out = read_excerpts(results, best_first, MEDIA_BYTES, tracks)
    warnings = _warnings(systems, scores)
    if left_out:
        warnings.append(f"To keep the page small, there is nothing to hear of {', '.join(left_out)}.")
    published = PUBLISHED if musdb18_test and scores.track.nunique() == MUSDB18_TEST_TRACKS else ()
    losses = [(system, loss) for system in systems if (loss := read_losses(losses_file(results, system.id)))]

    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html").render(
        title=title,
        facts=facts,
        warnings=warnings,
        headlines=best_of_each_kind(systems, scores),
        kinds=KINDS,
        sources=sources,
        metrics=ordered(scores.metric, METRICS),
        tables=tables,
        costs=costs,
        tracks=scores.track.nunique(),
        networks=[system.name for system, _ in losses],
        loss_colours=charts.LOSS_COLOURS,
        excerpts=played,
        picture_hz=(LOWEST_HZ, HIGHEST_HZ),
        published=published,
        published_by=PUBLISHED_BY,
        charts=charts.vega_specifications(systems, scores, losses),
        style=Markup((here / "report.css").read_text(encoding="utf-8")),
        vega=Markup(charts.vega_javascript()),
        script=Markup((here / "report.js").read_text(encoding="utf-8")),
    )
    report = Report(out / "report.html", out / "scores.csv", out / "scores.md")
    write_text(report.page, page)
    write_text(report.csv, _csv(systems, scores))
    write_text(report.markdown, _markdown(title, facts, warnings, tables, costs, published, scores))
    return report


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
        parts.append(f"## {table.name.capitalize()}")
        parts.append(
            f"Medians over {scores[scores.source == table.name].track.nunique()} tracks in dB. The best of "
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
