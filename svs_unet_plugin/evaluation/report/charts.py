"""Charts of scores, costs and losses by Vega-Lite, compiled to Vega.

Colours are the page's CSS variables, so that the charts follow its light and dark mode. The parameters
``source`` and ``metric`` are bound to the page's lists with these ids. A mark's ``text`` is its tooltip, and
what screen readers say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from svs_unet_plugin.evaluation.report.tables import SOURCES, medians, ordered
from svs_unet_plugin.evaluation.store import METRICS, System
from svs_unet_plugin.training.history import Losses

LOSS_COLOURS = 6
"""Of ``report.css``, ``--c0`` and so on; a seventh network has the first one's colour again."""

_VERSION = alt.SCHEMA_VERSION.rpartition(".")[0]
_KIND_COLOUR = alt.value(alt.ExprRef("'var(--' + datum.kind + ')'"))
_INK, _SOFT = "var(--ink)", "var(--soft)"
_LABEL_PLACES = [
    (anchor, distance)
    for distance in (7, 16, 26)
    for anchor in ("right", "left", "top-right", "bottom-right", "top-left", "bottom-left", "top", "bottom")
]
"""Where a point's name may stand, and how many pixels away; the first free place is taken."""


def vega_javascript() -> str:
    """Vega as a script, which assigns ``window.vegaEmbed``."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_VERSION)


def vega_specifications(
    systems: Sequence[System], scores: pd.DataFrame, losses: Sequence[tuple[System, Losses]]
) -> dict[str, dict[str, Any]]:
    """Vega's specifications of all charts, by the id of their place in the page.

    Args:
        scores: of `svs_unet_plugin.evaluation.store.read_scores`.
        losses: of each network that has some.
    """
    found = {"distribution": _distribution(systems, scores)}
    if any(system.seconds_per_minute for system in systems):
        seconds = {system.id: system.seconds_per_minute for system in systems}
        found["seconds"] = _against_cost(systems, scores, seconds, "time", "seconds per minute of audio")
    if any(system.parameters for system in systems):
        parameters = {system.id: system.parameters for system in systems}
        found["parameters"] = _against_cost(systems, scores, parameters, "size", "parameters")
    if losses:
        found["losses"] = _losses(losses)
    return {id: _compiled(chart) for id, chart in found.items()}


def _distribution(systems: Sequence[System], scores: pd.DataFrame) -> alt.LayerChart:
    """A box for each system, and a dot for each track."""
    tracks = sorted(scores.track.unique())
    by_track = (
        scores.set_index(["source", "metric", "system", "track"]).score.unstack().reindex(columns=tracks)
    )
    rows = _medians(systems, scores)
    for row in rows:
        values = by_track.loc[(row["source"], row["metric"], row["system"])].to_numpy()
        finite = values[np.isfinite(values)]
        lower, upper = np.quantile(finite, [0.25, 0.75])
        reach = 1.5 * (upper - lower)
        inside = finite[(finite >= lower - reach) & (finite <= upper + reach)]
        box = {"lower": lower, "upper": upper, "least": inside.min(), "most": inside.max()}
        row.update({key: round(float(value), 2) for key, value in box.items()})
        row["score"] = [round(float(value), 2) if np.isfinite(value) else None for value in values]
    y = alt.Y(
        "rank:O",
        title=None,
        axis=alt.Axis(
            labelExpr="names[source + ' ' + metric][datum.value]",
            labelLimit=alt.ExprRef("0.4 * containerSize()[0] + 0 * width"),  # again when the width changes
            labelColor=_INK,
            domain=False,
        ),
    )
    x: dict[str, Any] = {
        "title": None,
        "scale": alt.Scale(zero=False, nice=False, padding=8),
        "axis": alt.Axis(tickCount=8),
    }
    hovered = alt.selection_point(
        name="hovered", fields=["track"], on="pointerover", clear="pointerout", empty=False
    )
    base = _chosen(rows).encode(y=y, color=_KIND_COLOUR)
    boxes = _with_text(
        base,
        "datum.name + ': median ' + format(datum.median, '.2f') + ' dB, middle half of the tracks '"
        " + format(datum.lower, '.2f') + ' to ' + format(datum.upper, '.2f') + ' dB'",
    )
    dots = _with_text(
        base.transform_calculate(track="sequence(length(datum.score))")
        .transform_flatten(["score", "track"])
        .transform_filter("isValid(datum.score)")
        .transform_calculate(shift="(datum.track * 0.618) % 1", track="tracks[datum.track]"),
        "datum.name + ', ' + datum.track + ': ' + format(datum.score, '.2f') + ' dB'",
    )
    layers = {
        "whiskers": base.mark_rule(opacity=0.55, aria=False).encode(alt.X("least:Q", **x), x2="most:Q"),
        "boxes": boxes.mark_bar(height=16, cornerRadius=3, fillOpacity=0.18, strokeOpacity=0.55).encode(
            alt.X("lower:Q", **x), x2="upper:Q", stroke=_KIND_COLOUR
        ),
        "tracks": dots.mark_circle()
        .encode(
            alt.X("score:Q", **x),
            yOffset=alt.YOffset("shift:Q", scale=alt.Scale(domain=[-0.8, 1.8])),
            size=alt.condition(hovered, alt.value(90), alt.value(20)),
            opacity=alt.condition(hovered, alt.value(1), alt.value(0.6)),
        )
        .add_params(hovered),
        "medians": base.mark_tick(thickness=2.5, size=18, opacity=1, aria=False).encode(
            alt.X("median:Q", **x)
        ),
        "numbers": base.mark_text(align="left", dx=8, aria=False).encode(
            x=alt.value("width"), text=alt.Text("median:Q", format=".2f"), color=alt.value(_INK)
        ),
    }
    chart = _layered(layers, "Box plot of the chosen score: a row for each system, a dot for each track.")
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(f"{row['source']} {row['metric']}", []).append(row["name"])
    return (
        _titled(chart, scores, "of every track")
        .properties(height=alt.Step(28))
        .add_params(alt.param("names", value=names), alt.param("tracks", value=tracks))
    )


def _against_cost(
    systems: Sequence[System], scores: pd.DataFrame, costs: dict[str, Any], name: str, unit: str
) -> alt.LayerChart:
    """A point for each system; the best that costs nothing of the kind is a level to be compared with."""
    rows = [
        row | {"cost": costs[row["system"]] or None}
        for row in _medians(systems, scores)
        if row["kind"] != "bound"
    ]
    positive = [cost for cost in costs.values() if cost]
    domain = (min(positive) / 1.7, max(positive) * 1.7)
    x = alt.X(
        "cost:Q",
        title=unit,
        scale=alt.Scale(type="log", nice=False, domain=domain),
        axis=alt.Axis(
            values=_log_ticks(*domain), labelExpr="format(datum.value, datum.value < 1 ? '~g' : '~s')"
        ),
    )
    y = alt.Y("median:Q", title=None, scale=alt.Scale(zero=False, nice=False, padding=24))
    base = (
        _chosen(rows)
        .transform_calculate(free="isValid(datum.cost) ? null : datum.median")
        .transform_joinaggregate(best="max(free)", groupby=["kind"])
        .transform_calculate(level="datum.free === datum.best && datum.kind !== 'trained'")
        .transform_filter("isValid(datum.cost) || datum.level")
        .transform_calculate(label="datum.level ? 'best ' + datum.kind + ': ' + datum.name : ''")
        .encode(y=y)
    )
    points = _with_text(
        base.transform_filter("isValid(datum.cost)"),
        "datum.name + ': ' + format(datum.median, '.2f') + ' dB, '"
        f" + format(datum.cost, datum.cost < 100 ? '.3~g' : ',.0f') + ' {unit}'",
    )
    layers = {
        "levels": base.transform_filter("datum.level")
        .mark_rule(strokeDash=[3, 4], aria=False)
        .encode(color=_KIND_COLOUR),
        # Of all rows, because Vega can't place labels beside a mark without items.
        "level_names": base.mark_text(align="left", baseline="bottom", dx=2, dy=-3, clip=True).encode(
            x=alt.value(0), text="label:N"
        ),
        "points": points.mark_circle(size=80, opacity=1).encode(x, color=_KIND_COLOUR),
        "names": points.mark_text(color=_INK, clip=True, aria=False).encode(x, text="name:N"),
    }
    chart = _layered(layers, f"Scatter plot of the chosen score against {unit}: a point for each system.")
    return _titled(chart, scores, f"against {name}").properties(height=280)


def _losses(losses: Sequence[tuple[System, Losses]]) -> alt.LayerChart:
    """A line of the validation's losses and dots of the training's for each network."""
    rows = [
        {
            "name": system.name,
            "colour": i % LOSS_COLOURS,
            "i": i,
            "train": loss.train,
            "valid": loss.validation,
        }
        for i, (system, loss) in enumerate(losses)
    ]
    values = [value for _, loss in losses for value in (*loss.train, *loss.validation)]
    y: dict[str, Any] = {"title": None, "scale": alt.Scale(zero=False)}
    if min(values) > 0:  # losses in dB are not
        domain = (min(values) / 1.08, max(values) * 1.08)
        y["scale"] = alt.Scale(type="log", nice=False, domain=domain)
        y["axis"] = alt.Axis(values=_log_ticks(*domain), format="~g")
    epochs = alt.X(
        "epoch:Q",
        scale=alt.Scale(zero=False, nice=False, padding=6),
        axis=alt.Axis(tickMinStep=1, format="d", tickCount=8),
    )
    base = _with_text(
        alt.Chart(alt.InlineData(rows))
        .transform_calculate(epoch="sequence(1, length(datum.train) + 1)")
        .transform_flatten(["epoch", "train", "valid"]),
        "datum.name + ', epoch ' + datum.epoch + ': ' + format(datum.valid, '.3~g') + ' in validation, '"
        " + format(datum.train, '.3~g') + ' in training'",
    ).encode(epochs, detail="i:N", color=alt.value(alt.ExprRef("'var(--c' + datum.colour + ')'")))
    layers = {
        "validation": base.mark_line().encode(alt.Y("valid:Q", **y), description="name:N"),
        "training": base.mark_circle(size=20, opacity=0.55).encode(alt.Y("train:Q", **y)),
    }
    return _layered(
        layers, "Losses of each epoch: lines of the validation, dots of the training."
    ).properties(height=290)


def _medians(systems: Sequence[System], scores: pd.DataFrame) -> list[dict[str, Any]]:
    """The medians in dB of each source and metric, as in the tables, from the best system to the worst."""
    by_id = {system.id: system for system in systems}
    rows = []
    for source in ordered(scores.source, SOURCES):
        for metric, column in medians(scores, source).items():
            best_first = column[np.isfinite(column)].sort_values(ascending=False, kind="stable")
            for rank, (id, median) in enumerate(best_first.items()):
                row = {"source": source, "metric": metric, "rank": rank, "median": round(float(median), 2)}
                rows.append(row | {"system": id, "name": by_id[id].name, "kind": by_id[id].kind})
    return rows


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two positive bounds, and 2 and 5 times them where those are few."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    factors = (1, 2, 5) if high < 160 * low else (1,)
    ticks = [float(f"{factor}e{power}") for power in powers for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def _chosen(rows: list[dict[str, Any]]) -> alt.Chart:
    """Those rows whose source and metric are chosen in the page."""
    return alt.Chart(alt.InlineData(rows)).transform_filter(
        "datum.source === source && datum.metric === metric"
    )


def _with_text(chart: alt.Chart, expression: str) -> alt.Chart:
    """Marks with a text, which is their tooltip and description."""
    return chart.transform_calculate(text=expression).encode(tooltip="text:N", description="text:N")


def _layered(layers: dict[str, alt.Chart], description: str) -> alt.LayerChart:
    """Layers, each with a name, in the page's style."""
    named = [layer.properties(name=name) for name, layer in layers.items()]
    axis: dict[str, Any] = {
        "labelColor": _SOFT,
        "titleColor": _SOFT,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "gridColor": "var(--faint)",
        "domainColor": "var(--line)",
        "ticks": False,
        "labelPadding": 6,
    }
    return alt.layer(*named, description=description, width="container").configure(
        background="transparent",
        font="system-ui, sans-serif",
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(**axis),
        text=alt.MarkConfig(color=_SOFT, fontSize=12),
        title=alt.TitleConfig(color=_INK, anchor="start", fontSize=14, fontWeight=500),
    )


def _titled(chart: alt.LayerChart, scores: pd.DataFrame, what: str) -> alt.LayerChart:
    """A chart that is bound to the page's lists and names what is chosen there."""
    sources, metrics = ordered(scores.source, SOURCES), ordered(scores.metric, METRICS)
    defined = scores[np.isfinite(scores.score)]
    present = sorted(set(defined.source + " " + defined.metric))
    title = (
        f"(indexof(present, source + ' ' + metric) < 0 ? 'No system has ' + metric + ' of '"
        f" : metric + ' in dB {what}, ') + source"
    )
    return chart.properties(title=alt.Title(alt.ExprRef(title))).add_params(
        alt.param("source", value=sources[0], bind=alt.BindDirect(element="#source")),
        alt.param("metric", value=metrics[0], bind=alt.BindDirect(element="#metric")),
        alt.param("present", value=present),
    )


def _compiled(chart: alt.LayerChart) -> dict[str, Any]:
    """Vega's specification of a chart; names of points stand where they hide nothing, or not at all."""
    spec = vl_convert.vegalite_to_vega(chart.to_dict(), vl_version=_VERSION)
    for mark in spec["marks"]:
        if mark["name"] == "names_marks":
            label = {
                "type": "label",
                "size": {"signal": "[max(width, 1), max(height, 1)]"},
                "anchor": [anchor for anchor, _ in _LABEL_PLACES],
                "offset": [distance for _, distance in _LABEL_PLACES],
                "sort": {"field": "datum.median", "order": "descending"},
                "avoidMarks": ["points_marks", "level_names_marks"],
                "padding": 0,
            }
            mark["transform"] = [label]
    return spec
