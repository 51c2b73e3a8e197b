"""Charts of scores, costs and losses by Vega-Lite, compiled to Vega.

Colours are the page's CSS variables, so that the charts follow its light and dark mode. The parameters
``source`` and ``metric`` are bound to the page's two lists of the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svs_unet_plugin.evaluation.report.tables import KINDS, SOURCES, medians, ordered
from svs_unet_plugin.evaluation.store import METRICS, System
from svs_unet_plugin.training.history import Losses

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

LOSS_COLOURS = 6
"""Of ``report.css``, ``--c0`` and so on; a seventh network has the first one's colour again."""

_CHOSEN = "datum.source === source && datum.metric === metric"
_LABEL_PLACES = [
    (anchor, distance)
    for distance in (7, 16, 26)
    for anchor in ("right", "left", "top-right", "bottom-right", "top-left", "bottom-left", "top", "bottom")
]
"""Where a point's name may stand, and how many pixels away; the first free place is taken."""


def vega_specifications(
    systems: Sequence[System], scores: pd.DataFrame, losses: Sequence[tuple[System, Losses]]
) -> dict[str, dict[str, Any]]:
    """Vega's specifications of all charts, by the id of their place in the page.

    Args:
        scores: of `svs_unet_plugin.evaluation.store.read_scores`.
        losses: of each network that has some.
    """
    found = {"distribution": _distribution(systems, scores)}
    for id, name, axis, costs in (
        ("seconds", "time", "seconds per minute of audio", [system.seconds_per_minute for system in systems]),
        ("parameters", "size", "parameters", [system.parameters for system in systems]),
    ):
        if any(costs):
            found[id] = _quality_against_cost(systems, scores, costs, name, axis)
    if losses:
        found["losses"] = _losses(losses)
    return {id: _compiled(chart) for id, chart in found.items()}


def vega_javascript() -> str:
    """Vega as a script, which assigns ``window.vegaEmbed``."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_vega_lite_version())


def _distribution(systems: Sequence[System], scores: pd.DataFrame) -> alt.LayerChart:
    """A box for each system, and a dot for each track."""
    import altair as alt

    tracks = sorted(scores.track.unique())
    rows = []
    for row, track_scores in _rows(systems, scores, tracks):
        finite = track_scores[np.isfinite(track_scores)]
        lower, upper = np.quantile(finite, [0.25, 0.75])
        inside = finite[(finite >= lower - 1.5 * (upper - lower)) & (finite <= upper + 1.5 * (upper - lower))]
        box = {"lower": lower, "upper": upper, "least": inside.min(), "most": inside.max()}
        row |= {key: round(float(value), 2) for key, value in box.items()}
        row["score"] = [round(float(s), 2) if np.isfinite(s) else None for s in track_scores]
        rows.append(row)
    hovered = alt.selection_point(
        name="hovered", fields=["track"], on="pointerover", clear="pointerout", empty=False
    )
    y = alt.Y(
        "system:N",
        sort=alt.EncodingSortField("median", op="max", order="descending"),
        title=None,
        axis=alt.Axis(
            labelExpr="names[datum.label]",
            labelLimit=alt.ExprRef("0.4 * containerSize()[0] + 0 * width"),  # again when the width changes
            labelColor="var(--ink)",
            ticks=False,
            domain=False,
        ),
    )
    x = {"title": None, "scale": alt.Scale(zero=False, nice=False, padding=8), "axis": alt.Axis(tickCount=8)}
    name = alt.Tooltip("name:N", title="system")
    box_tooltip = [
        name,
        alt.Tooltip("median:Q", title="median in dB", format=".2f"),
        alt.Tooltip("lower:Q", title="lower quartile", format=".2f"),
        alt.Tooltip("upper:Q", title="upper quartile", format=".2f"),
    ]
    base = alt.Chart(alt.InlineData(rows)).transform_filter(_CHOSEN).encode(y=y, color=_colour("color"))
    whiskers = base.mark_rule(opacity=0.55, aria=False).encode(alt.X("least:Q", **x), alt.X2("most:Q"))
    boxes = (
        base.transform_calculate(
            said="datum.name + ': median ' + format(datum.median, '.2f') + ' dB, middle half from '"
            " + format(datum.lower, '.2f') + ' to ' + format(datum.upper, '.2f')"
        )
        .mark_bar(height=16, cornerRadius=3, fillOpacity=0.18, strokeOpacity=0.55)
        .encode(
            alt.X("lower:Q", **x),
            alt.X2("upper:Q"),
            stroke=_colour("stroke"),
            description="said:N",
            tooltip=box_tooltip,
        )
    )
    dots = (
        base.transform_calculate(track="sequence(length(datum.score))")
        .transform_flatten(["score", "track"])
        .transform_filter("isValid(datum.score)")
        .transform_calculate(shift="(datum.track * 0.618) % 1", track="tracks[datum.track]")
        .transform_calculate(
            said="datum.name + ', ' + datum.track + ': ' + format(datum.score, '.2f') + ' dB'"
        )
        .mark_circle()
        .encode(
            alt.X("score:Q", **x),
            yOffset=alt.YOffset("shift:Q", scale=alt.Scale(domain=[-0.8, 1.8])),
            size=alt.condition(hovered, alt.value(90), alt.value(20)),
            description="said:N",
            opacity=alt.condition(hovered, alt.value(1), alt.value(0.6)),
            tooltip=[alt.Tooltip("track:N"), alt.Tooltip("score:Q", title="dB", format=".2f"), name],
        )
        .add_params(hovered)
    )
    middles = base.mark_tick(thickness=2.5, size=18, opacity=1, aria=False).encode(alt.X("median:Q", **x))
    numbers = base.mark_text(align="left", dx=8, aria=False).encode(
        x=alt.value("width"), text=alt.Text("median:Q", format=".2f"), color=alt.value("var(--ink)")
    )
    layers = {"whiskers": whiskers, "boxes": boxes, "tracks": dots, "medians": middles, "numbers": numbers}
    return (
        _chosen(
            scores,
            layers,
            title="of every track",
            description="Box plot of the chosen score: a row for each system, best first, a dot for each track.",
        )
        .properties(height=alt.Step(28))
        .add_params(
            alt.param("names", value={system.id: system.name for system in systems}),
            alt.param("tracks", value=tracks),
        )
    )


def _quality_against_cost(
    systems: Sequence[System], scores: pd.DataFrame, costs: Sequence[float | None], cost_name: str, axis: str
) -> alt.LayerChart:
    """A point for each system; the best that costs nothing of the kind is a level to be compared with."""
    import altair as alt

    cost = {system.id: value or None for system, value in zip(systems, costs, strict=True)}
    positive = [value for value in cost.values() if value]
    rows = [
        row | {"cost": cost[row["system"]]} for row, _ in _rows(systems, scores) if row["kind"] != "bound"
    ]
    y = alt.Y("median:Q", title=None, scale=alt.Scale(zero=False, nice=False, padding=24))
    domain = (min(positive) / 1.7, max(positive) * 1.7)
    x = alt.X(
        "cost:Q",
        title=axis,
        scale=alt.Scale(type="log", nice=False, domain=domain),
        axis=alt.Axis(
            labelExpr="format(datum.value, datum.value < 1 ? '~g' : '~s')", values=_log_ticks(*domain)
        ),
    )
    base = (
        alt.Chart(alt.InlineData(rows))
        .transform_filter(_CHOSEN)
        .transform_calculate(free="isValid(datum.cost) ? null : datum.median")
        .transform_joinaggregate(best="max(free)", groupby=["kind"])
        .transform_calculate(level="datum.free === datum.best && datum.kind !== 'trained'")
        .transform_filter("isValid(datum.cost) || datum.level")
        .transform_calculate(label="datum.level ? 'best ' + datum.kind + ': ' + datum.name : ''")
    )
    points = base.transform_filter("isValid(datum.cost)").transform_calculate(
        said="datum.name + ': ' + format(datum.median, '.2f') + ' dB, ' + format(datum.cost, ',.3~r')"
        f" + ' {axis}'"
    )
    layers = {
        "levels": base.transform_filter("datum.level")
        .mark_rule(strokeDash=[3, 4], aria=False)
        .encode(y=y, color=_colour("color")),
        # All rows, because Vega places no labels beside a mark without any items.
        "level_names": base.mark_text(align="left", baseline="bottom", dx=2, dy=-3, clip=True).encode(
            x=alt.value(0), y=y, text="label:N"
        ),
        "points": points.mark_circle(size=80, opacity=1).encode(
            x,
            y,
            _colour("color"),
            description="said:N",
            tooltip=[
                alt.Tooltip("name:N", title="system"),
                alt.Tooltip("median:Q", title="median in dB", format=".2f"),
                alt.Tooltip("cost:Q", title=axis, format=",.3~r"),
            ],
        ),
        "names": points.mark_text(color="var(--ink)", clip=True, aria=False).encode(x, y, text="name:N"),
    }
    return _chosen(
        scores,
        layers,
        title=f"against {cost_name}",
        description=f"Scatter plot of the chosen score against {axis}: a point for each system.",
    ).properties(height=280)


def _losses(losses: Sequence[tuple[System, Losses]]) -> alt.LayerChart:
    """A line of the validation's losses and dots of the training's for each network."""
    import altair as alt

    rows = [
        {"system": system.id, "name": system.name, "train": loss.train, "validation": loss.validation}
        for system, loss in losses
    ]
    values = [value for _, loss in losses for value in (*loss.train, *loss.validation)]
    low, high = min(values), max(values)
    if low > 0:  # losses in dB are not
        low, high = low / 1.08, high * 1.08
        scale = alt.Scale(type="log", nice=False, domain=(low, high))
        y = {"title": None, "scale": scale, "axis": alt.Axis(values=_log_ticks(low, high), format="~g")}
    else:
        y = {"title": None, "scale": alt.Scale(zero=False), "axis": alt.Axis(tickCount=6)}
    base = (
        alt.Chart(alt.InlineData(rows))
        .transform_calculate(epoch="sequence(1, length(datum.train) + 1)")
        .transform_flatten(["epoch", "train", "validation"])
        .encode(
            alt.X(
                "epoch:Q",
                scale=alt.Scale(zero=False, nice=False, padding=6),
                axis=alt.Axis(tickMinStep=1, format="d", tickCount=8),
            ),
            color=alt.Color(
                "system:N",
                scale=alt.Scale(
                    domain=[row["system"] for row in rows],
                    range=[f"var(--c{i % LOSS_COLOURS})" for i in range(len(rows))],
                ),
                legend=None,
            ),
            tooltip=[
                alt.Tooltip("name:N", title="network"),
                alt.Tooltip("epoch:Q"),
                alt.Tooltip("validation:Q", format=".3~g"),
                alt.Tooltip("train:Q", title="training", format=".3~g"),
            ],
        )
    )
    lines = base.mark_line().encode(description="name:N", y=alt.Y("validation:Q", **y))
    dots = base.mark_circle(size=20, opacity=0.55, aria=False).encode(alt.Y("train:Q", **y))
    return _styled(
        {"validation": lines, "training": dots},
        description="Losses of each epoch: for each network a line of validation and dots of training.",
    ).properties(height=290)


def _rows(
    systems: Sequence[System], scores: pd.DataFrame, tracks: Sequence[str] = ()
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """The median of each system for each source and metric, and the scores of these tracks, or NaN."""
    by_track = scores.set_index(["source", "metric", "system", "track"]).score.unstack("track")
    found = []
    for source in ordered(scores.source, SOURCES):
        table = medians(scores, source)
        for metric in table.columns:
            for system in systems:
                median = table[metric].get(system.id, np.nan)
                if np.isfinite(median):
                    row = {"source": source, "metric": metric, "system": system.id, "name": system.name}
                    row |= {"kind": system.kind, "median": round(float(median), 2)}
                    own = by_track.loc[(source, metric, system.id)].reindex(tracks).to_numpy()
                    found.append((row, own))
    return found


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two positive bounds, and 2 and 5 times them where those are few."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    factors = (1, 2, 5) if high < 160 * low else (1,)
    ticks = [float(f"{factor}e{power}") for power in powers for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def _colour(channel: str) -> Any:
    import altair as alt

    scale = alt.Scale(domain=list(KINDS), range=[f"var(--{kind})" for kind in KINDS])
    return {"color": alt.Color, "stroke": alt.Stroke}[channel]("kind:N", scale=scale, legend=None)


def _chosen(
    scores: pd.DataFrame, layers: dict[str, alt.Chart], *, title: str, description: str
) -> alt.LayerChart:
    """Layers that show the source and the metric that are chosen in the page."""
    import altair as alt

    sources, metrics = ordered(scores.source, SOURCES), ordered(scores.metric, METRICS)
    defined = scores[np.isfinite(scores.score)]
    there = set(zip(defined.source, defined.metric, strict=True))
    missing = [f"{s} {m}" for s in sources for m in metrics if (s, m) not in there]
    text = (
        f"(indexof(missing, source + ' ' + metric) < 0 ? metric + ' in dB {title}, '"
        " : 'No system has ' + metric + ' of ') + source"
    )
    return (
        _styled(layers, description)
        .properties(title=alt.Title(alt.ExprRef(text)))
        .add_params(
            alt.param("source", value=sources[0], bind=alt.BindDirect(element="#source")),
            alt.param("metric", value=metrics[0], bind=alt.BindDirect(element="#metric")),
            alt.param("missing", value=missing),
        )
    )


def _styled(layers: dict[str, alt.Chart], description: str) -> alt.LayerChart:
    import altair as alt

    named = [layer.properties(name=name) for name, layer in layers.items()]  # altair's own names count calls
    soft = {"labelColor": "var(--soft)", "titleColor": "var(--soft)", "titleFontWeight": "normal"}
    size = {"labelFontSize": 12, "titleFontSize": 12}
    lines = {"gridColor": "var(--faint)", "domainColor": "var(--line)", "ticks": False, "labelPadding": 6}
    return alt.layer(*named, description=description, width="container").configure(
        background="transparent",
        font="system-ui, sans-serif",
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(**soft, **size, **lines),
        text=alt.MarkConfig(color="var(--soft)", fontSize=12),
        title=alt.TitleConfig(color="var(--ink)", anchor="start", fontSize=14, fontWeight=500),
    )


def _compiled(chart: alt.LayerChart) -> dict[str, Any]:
    """Vega's specification of a chart; names of points stand where they hide nothing, or not at all."""
    import vl_convert

    spec = vl_convert.vegalite_to_vega(chart.to_dict(), vl_version=_vega_lite_version())
    for mark in spec["marks"]:
        if mark["name"] == "names_marks":
            mark["transform"] = [
                {
                    "type": "label",
                    "size": {"signal": "[max(width, 1), max(height, 1)]"},
                    "anchor": [anchor for anchor, _ in _LABEL_PLACES],
                    "offset": [distance for _, distance in _LABEL_PLACES],
                    "sort": {"field": "datum.median", "order": "descending"},
                    "avoidMarks": ["points_marks", "level_names_marks"],
                    "padding": 0,
                }
            ]
    return spec


def _vega_lite_version() -> str:
    """The version that altair writes, without its last number."""
    import altair as alt

    return alt.SCHEMA_VERSION.rpartition(".")[0]
