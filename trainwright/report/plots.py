"""The report's pictures: SVG that takes its colours from the page, so that light, dark and print are the page's.

A colour is drawn as a placeholder and then replaced by the CSS variable of its name (`--ink`, `--train`, …).
Every picture is drawn for a column of WIDTH pixels and shrinks with it.
"""

import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

WIDTH = 440
HEIGHT = 200
LONGEST_LABEL = 24
FONT = "Liberation Sans"  # vl-convert measures text with it; the page then sets its own
NAMES = ("ink", "soft", "line", "accent", "second", "kept", "lost", "made", "train", "validation", "test", "panel")
COLOUR = {name: f"#f1e{number:03d}" for number, name in enumerate(NAMES)}
UNDRAWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
Records = list[dict[str, Any]]
_NOTE: dict[str, Any] = {"fontSize": 12, "color": COLOUR["soft"]}


def _svg(chart: Any, label: str, key: str) -> Markup:
    """The chart as one inline `<svg>`, described by `label`; `key` keeps its ids apart from other charts'."""
    axis = {
        "domain": False,
        "ticks": False,
        "gridColor": COLOUR["line"],
        "labelColor": COLOUR["soft"],
        "titleColor": COLOUR["soft"],
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelPadding": 6,
        "labelLimit": 190,
    }
    chart = (
        chart.configure(font=FONT, background="transparent", padding=2)
        .configure_axis(**axis)
        .configure_view(stroke=None)
        .configure_legend(labelColor=COLOUR["soft"], title=None, orient="top", labelFontSize=12, symbolType="square")
    )
    drawn = vl_convert.vegalite_to_svg(_cleaned(chart.to_dict(format="vega-lite")))
    for name, colour in COLOUR.items():
        drawn = drawn.replace(f'"{colour}"', f'"var(--{name})"')
    drawn = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{key}-", drawn)
    head = f'<svg role="img" aria-label="{escape(_cleaned(label))}" '
    return Markup(re.sub(r' (font-family|class|aria-\w+|role)="[^"]*"', "", drawn).replace("<svg ", head, 1))


def _cleaned(value: Any) -> Any:
    """Replace the characters that XML 1.0 cannot hold, in a text or in all texts of a chart."""
    if isinstance(value, str):
        return UNDRAWN.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(inner) for key, inner in value.items()}
    return [_cleaned(inner) for inner in value] if isinstance(value, list) else value


def alone(drawn: str, css: str) -> str:
    """A picture as a file of its own, in the colours that the style sheet `css` names first, which are for light
    pages."""

    def colour(name: str) -> str:
        found = re.search(rf"--{name}: *(#[0-9a-f]+)", css)
        return found[1] if found else "currentColor"

    coloured = re.sub(r"var\(--([a-z]+)\)", lambda variable: colour(variable[1]), drawn)
    paper = f'<rect width="100%" height="100%" fill="{colour("panel")}"/>'
    return re.sub(r"<svg [^>]*>", lambda tag: f"{_named(tag[0])}{paper}", coloured, count=1)


def _named(tag: str) -> str:
    space = "" if "xmlns=" in tag else 'xmlns="http://www.w3.org/2000/svg" '
    return tag.replace("<svg ", f'<svg {space}font-family="sans-serif" ', 1)


def _data(records: Iterable[dict[str, Any]]) -> Any:
    return alt.Data(values=list(records))  # type: ignore[no-untyped-call,unused-ignore]


def _scale(kinds: Iterable[str]) -> Any:
    names = list(kinds)
    return alt.Scale(domain=names, range=[COLOUR[name] for name in names])


def steps(records: Records, label: str) -> Markup:
    """A bar a stage. Records: stage, words, place (from 0), name, kind, count; parts of a bar in order."""
    records = [{**record, "order": order} for order, record in enumerate(records)]
    y = alt.Y("place:O", axis=None, scale=alt.Scale(paddingInner=0, paddingOuter=0))
    base = alt.Chart(_data(records))
    kinds = [name for name in NAMES if any(record["kind"] == name for record in records)]
    bars = base.mark_bar(height=16, yOffset=12, stroke=COLOUR["panel"], strokeWidth=1).encode(
        x=alt.X("sum(count):Q", axis=None),
        y=y,
        color=alt.Color("kind:N", scale=_scale(kinds), legend=alt.Legend(columns=6)),
        order="order:O",
    )
    titles = base.transform_aggregate(groupby=["place", "stage", "words"])
    name = titles.mark_text(align="left", x=0, dy=-7, fontSize=13, fontWeight="bold", color=COLOUR["ink"])
    words = titles.mark_text(align="left", x=108, dy=-7, **_NOTE, limit=WIDTH - 110)
    chart = alt.layer(bars, name.encode(y=y, text="stage:N"), words.encode(y=y, text="words:N"))
    return _svg(chart.properties(width=WIDTH - 4, height=alt.Step(52)), label, "steps")


def curves(
    series: dict[str, list[tuple[int, float]]], best: tuple[int, str] | None, title: str, label: str, key: str
) -> Markup:
    """Lines over steps, one a name of `series`, with the best step marked in words. Values are drawn as they are."""
    records = [{"series": name, "step": s, "value": v} for name, points in series.items() for s, v in points]
    names = list(series)
    colours = {"train": "second", "validation": "accent"}
    scale = alt.Scale(domain=names, range=[COLOUR[colours.get(name, "accent")] for name in names])
    encoded = alt.Chart(_data(records)).encode(
        x=alt.X("step:Q", title="optimizer steps", scale=alt.Scale(zero=True), axis=alt.Axis(grid=False, tickCount=6)),
        y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5)),
        color=alt.Color("series:N", scale=scale, legend=alt.Legend(symbolType="stroke") if len(names) > 1 else None),
    )
    layers = [encoded.mark_line(strokeWidth=2)]
    dots = [record for record in records if record["series"] == "validation"]
    if dots:
        layers.append(encoded.properties(data=_data(dots)).mark_point(filled=True, size=45, opacity=1))
    if best is not None:
        place = 10 if key == "loss" else HEIGHT - 10  # a loss falls, other curves rise
        early = 2 * best[0] < max(step for points in series.values() for step, _ in points)
        at = alt.Chart(_data([{"step": best[0], "words": best[1]}])).encode(x="step:Q")
        layers.append(at.mark_rule(strokeDash=[3, 3], color=COLOUR["soft"]))
        layers.append(
            at.mark_text(align="left" if early else "right", dx=5 if early else -5, y=place, **_NOTE).encode(
                text="words:N"
            )
        )
    return _svg(alt.layer(*layers).properties(width=WIDTH - 52, height=HEIGHT), label, key)


def intervals(panels: list[dict[str, Any]], label: str) -> Markup:
    """Points with 95% intervals, a panel a score. Panels: title, scale (begin, end, logarithmic), records of split,
    words, value, low and high (None: undefined). Panels of one scale in a row share the axis of the last. All panels
    have the same splits: test, validation, untrained and maybe the constant baseline."""
    names = list(dict.fromkeys(record["split"] for panel in panels for record in panel["records"]))
    colours = [COLOUR[name] for name in ("test", "validation", "lost", "soft")]
    scale = alt.Scale(domain=names, range=colours[: len(names)])
    charts = []
    for place, panel in enumerate(panels):
        begin, end, logarithmic = panel["scale"]
        shared = place + 1 < len(panels) and panels[place + 1]["scale"] == panel["scale"]
        x = alt.Scale(domain=[begin, end], nice=False, type="log" if logarithmic else "linear")
        powers = {"values": [10**n for n in range(-9, 12) if begin <= 10**n <= end]} if logarithmic else {}
        axis = alt.Axis(labels=not shared, **({"format": "~s", **powers} if logarithmic else {"tickCount": 5}))
        encoded = alt.Chart(_data(panel["records"])).encode(
            y=alt.Y("split:N", sort=names, title=None), color=alt.Color("split:N", scale=scale, legend=None)
        )
        layers = [
            encoded.mark_rule(strokeWidth=5, opacity=0.35, strokeCap="round").encode(
                x=alt.X("low:Q", title=None, scale=x, axis=axis), x2="high:Q"
            ),
            encoded.mark_point(filled=True, size=110, opacity=1).encode(x=alt.X("value:Q", scale=x, axis=axis)),
            encoded.mark_text(dy=-11, fontSize=12, fontWeight="bold").encode(
                x=alt.X("value:Q", scale=x, axis=axis), text="words:N"
            ),
        ]
        title = alt.Title(panel["title"], anchor="start", fontSize=13, color=COLOUR["ink"], offset=4)
        charts.append(alt.layer(*layers).properties(width=WIDTH - 90, height=alt.Step(32), title=title))
    return _svg(alt.vconcat(*charts, spacing=14).resolve_scale(x="independent"), label, "intervals")


def slices(records: Records, overall: float | None, label: str, key: str, scale: tuple[float, float]) -> Markup:
    """One score by slice. Records: name, value (None where undefined), words; `overall` is marked; `scale` is where
    the axis begins and ends, beyond which there is room for words."""
    begin, end = scale
    drawn = [{**record, "end": record["value"] or 0} for record in records]
    base = alt.Chart(_data(drawn)).encode(y=alt.Y("name:N", sort=None, title=None, axis=alt.Axis(grid=False)))
    ticks = {"values": [0, 20, 40, 60, 80, 100]} if scale == (0, 100) else {"tickCount": 5}
    beyond = end + 0.3 * (end - begin) if end != 100 else 120
    across = {"title": None, "scale": alt.Scale(domain=[begin, beyond], nice=False), "axis": alt.Axis(**ticks)}
    line = alt.Chart(_data([{"value": overall}])).mark_rule(strokeDash=[3, 3], color=COLOUR["soft"])
    layers = [line.encode(x=alt.X("value:Q", **across))] if overall is not None else []
    layers += [
        base.mark_bar(height=10, color=COLOUR["test"], cornerRadiusEnd=2).encode(x=alt.X("end:Q", **across)),
        base.mark_text(align="left", dx=6, **_NOTE).encode(x=alt.X("end:Q", **across), text="words:N"),
    ]
    return _svg(_fitted(alt.layer(*layers), 24), label, key)


def confusion(names: list[str], records: Records, label: str) -> Markup:
    """Counts by gold (rows) and predicted label (columns), darker the larger their share of the row.

    Records: gold and predicted (places in `names`), count, share (of its row, from 0 to 1).
    """
    size = max(26, min(64, 420 // len(names)))
    font = 13 if len(names) <= 8 else 11 if len(names) <= 12 else 9
    drawn = [{**r, "words": _short(r["count"], len(names))} for r in records]
    by_place = f"{json.dumps([_cut(name) for name in names])}[datum.value]"
    axis = {"labelExpr": by_place, "grid": False, "labelFontSize": min(12, font + 1)}
    flat = sum(len(_cut(name)) for name in names) * 7 < len(names) * size
    base = alt.Chart(_data(drawn)).encode(
        x=alt.X(
            "predicted:O",
            title="predicted",
            axis=alt.Axis(orient="top", labelAngle=0 if flat else -45, labelAlign="center" if flat else "left", **axis),
        ),
        y=alt.Y("gold:O", title="right", axis=alt.Axis(**axis)),
    )
    shade = alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0, 0.6]), legend=None)
    cells = base.mark_rect(color=COLOUR["accent"], stroke=COLOUR["line"], strokeOpacity=1).encode(fillOpacity=shade)
    frame = base.mark_rect(filled=False, stroke=COLOUR["line"], strokeWidth=1)
    said = base.transform_filter("datum.count > 0").mark_text(fontSize=font, color=COLOUR["ink"])
    chart = alt.layer(cells, frame, said.encode(text="words:N"))
    return _svg(chart.properties(width=alt.Step(size), height=alt.Step(size)), label, "confusion")


def _cut(name: str) -> str:
    """A label as an axis shows it; it goes into an expression, where JSON would hide a character from `_svg`."""
    name = _cleaned(name)
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"


def _short(count: int, labels: int) -> str:
    """A count that fits into its cell."""
    return f"{count:,}" if count < 10_000 or labels <= 8 else f"{count / 1000:.0f}k"


def _fitted(chart: Any, step: int) -> Any:
    """The chart WIDTH wide with its labels, however long they are; `step` high for each bar."""
    return chart.properties(
        width=WIDTH, height=alt.Step(step), autosize=alt.AutoSizeParams(type="fit-x", contains="padding")
    )


def comparison(records: Records, title: str, label: str) -> Markup:
    """A mark a model. Records: name, speed (examples a second), size (MB), value, low, high of its score."""
    base = alt.Chart(_data(records)).encode(
        x=alt.X(
            "speed:Q",
            title="examples a second",
            scale=alt.Scale(domain=[0, 1.3 * max(record["speed"] for record in records)], nice=False),
            axis=alt.Axis(grid=False),
        ),
        color=alt.value(COLOUR["test"]),
    )
    y = {"title": title, "scale": alt.Scale(zero=False, padding=14)}
    chart = alt.layer(
        base.mark_rule(strokeWidth=4, opacity=0.35, strokeCap="round").encode(y=alt.Y("low:Q", **y), y2="high:Q"),
        base.mark_point(filled=True, opacity=1).encode(
            y=alt.Y("value:Q", **y), size=alt.Size("size:Q", legend=None, scale=alt.Scale(range=[60, 500], zero=True))
        ),
        base.mark_text(align="left", dx=12, dy=-8, **_NOTE).encode(
            y=alt.Y("value:Q", **y), text="name:N", color=alt.value(COLOUR["ink"])
        ),
    )
    return _svg(chart.properties(width=WIDTH - 52, height=HEIGHT), label, "comparison")


def timings(records: Records, label: str) -> Markup:
    """Seconds a stage. Records: stage, what (stage or gate), seconds (0 where not timed), total (words), end."""
    order = list(dict.fromkeys(record["stage"] for record in records))
    longest = max((record["end"] for record in records), default=0) or 1
    base = alt.Chart(_data(records)).encode(y=alt.Y("stage:N", sort=order, title=None))
    colours = alt.Scale(domain=["stage", "gate"], range=[COLOUR["accent"], COLOUR["second"]])
    bars = base.mark_bar(height=12, cornerRadius=1).encode(
        x=alt.X("seconds:Q", axis=None, scale=alt.Scale(domain=[0, 1.3 * longest], nice=False)),
        color=alt.Color("what:N", scale=colours),
        order=alt.Order("what:N", sort="descending"),
    )
    ends = base.transform_filter("datum.what == 'stage'").mark_text(align="left", dx=6, **_NOTE)
    chart = alt.layer(bars, ends.encode(x="end:Q", text="total:N"))
    return _svg(_fitted(chart, 26), label, "timings")
