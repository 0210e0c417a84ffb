"""Small charts as inline SVG and HTML, styled by the classes of report.html. No scripts, nothing from outside."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np

WIDTH, HEIGHT, BASE, LEFT = 340.0, 150.0, 126.0, 4.0
"""Width and height of a histogram's view box; its baseline and left margin."""


def histogram(
    title: str, parts: Mapping[str, np.ndarray], edges: np.ndarray, *, unit: str = "", note: str = "", links: Sequence[str] = ()
) -> str:
    """Stacked bars of several sets of values over the same bins; values outside count in the outermost bin, others than finite nowhere.

    A part's name is its CSS class. The first part's median is marked. `links`: of each bin what `whim browse` shows of it.
    """
    finite = {name: values[np.isfinite(values)] for name, values in parts.items()}
    counts = {name: np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] for name, values in finite.items()}
    total = np.sum(list(counts.values()), axis=0)
    step, highest = (WIDTH - 2 * LEFT) / len(total), max(1, int(total.max(initial=0)))
    bars = []
    for i, of_bin in enumerate(total):
        top = BASE
        for name, count in counts.items():
            if count[i]:
                height = max(0.8, float(count[i]) / highest * (BASE - 22))
                top -= height
                bars.append(
                    f'<rect class="{name}" x="{LEFT + i * step:.2f}" y="{top:.2f}" width="{step * 0.86:.2f}" height="{height:.2f}"/>'
                )
        if of_bin:
            tip = f"{number(edges[i])} to {number(edges[i + 1])}{unit}: {', '.join(f'{c[i]:,} {n}' for n, c in counts.items())}"
            place = f'x="{LEFT + i * step:.2f}" y="14" width="{step:.2f}" height="{BASE - 14:.2f}"'
            hit = f'<title>{escape(tip)}</title><rect class="hit" {place}/>'
            bars.append(linked(hit, links[i]) if links else f"<g>{hit}</g>")
    first = next(iter(finite.values()))
    body = "".join([*bars, _axis(edges, unit), _median(first, edges, unit)]) if sum(total) else _nothing()
    role = "group" if links else "img"
    return (
        f'<figure class="chart"><figcaption>{escape(title)}<small>{escape(note)}</small></figcaption>'
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="{role}" aria-label="{escape(title)}">{body}</svg></figure>'
    )


def quartiles(title: str, place: np.ndarray, values: np.ndarray, edges: Sequence[float], *, unit: str = "", note: str = "") -> str:
    """The middle half of `values` in [0, 1], and their median, of each bin of `place`; bins are drawn equally wide."""
    step, shapes = (WIDTH - 2 * LEFT) / (len(edges) - 1), [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{BASE}" y2="{BASE}"/>']
    for i, (low, high) in enumerate(pairwise(edges)):
        inside = values[(place >= low) & (place < high) & np.isfinite(values)]
        x = LEFT + i * step
        shapes.append(
            f'<text class="tick" x="{x + step / 2:.1f}" y="{BASE + 16:.0f}" text-anchor="middle">{low:g}\u2013{high:g}{escape(unit)}</text>'
        )
        if len(inside):
            lower, middle, upper = (BASE - (BASE - 22) * float(q) for q in np.clip(np.percentile(inside, (25, 50, 75)), 0, 1))
            box = f'x="{x + step * 0.2:.1f}" y="{upper:.1f}" width="{step * 0.6:.1f}" height="{max(lower - upper, 1):.1f}"'
            tip = f"{len(inside):,} hands, median {np.median(inside):.2f}"
            shapes.append(
                f'<rect class="kept" opacity=".45" {box}/><line class="median" x1="{x + step * 0.2:.1f}" x2="{x + step * 0.8:.1f}" '
            )
            shapes[-1] += f'y1="{middle:.1f}" y2="{middle:.1f}"/><rect class="hit" {box}><title>{tip}</title></rect>'
            shapes.append(
                f'<text class="label" x="{x + step / 2:.1f}" y="{upper - 5:.1f}" text-anchor="middle">{np.median(inside):.2f}</text>'
            )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}<small>{escape(note)}</small></figcaption>'
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{escape(title)}">{"".join(shapes)}</svg></figure>'
    )


def _axis(edges: np.ndarray, unit: str) -> str:
    ticks = []
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        x, value = LEFT + share * (WIDTH - 2 * LEFT), edges[0] + share * (edges[-1] - edges[0])
        ticks.append(f'<text class="tick" x="{x:.1f}" y="{BASE + 16:.0f}" text-anchor="{anchor}">{number(value)}{escape(unit)}</text>')
    return f'<line class="axis" x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{BASE}" y2="{BASE}"/>' + "".join(ticks)


def _median(values: np.ndarray, edges: np.ndarray, unit: str) -> str:
    if not len(values):
        return ""
    middle = float(np.median(values))
    share = float(np.clip((middle - edges[0]) / (edges[-1] - edges[0]), 0, 1))
    x = LEFT + share * (WIDTH - 2 * LEFT)
    anchor, shift = ("end", -5) if share > 0.6 else ("start", 5)
    return (
        f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{BASE}"/>'
        f'<text class="label" x="{x + shift:.1f}" y="14" text-anchor="{anchor}">median {number(middle)}{escape(unit)}</text>'
    )


def _nothing() -> str:
    return f'<text class="tick" x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no values yet</text>'


def linked(content: str, link: str) -> str:
    """Content as a link to a view of `whim browse`, which leads there once the page is shown by it, and nowhere before."""
    return f'<a data-browse="{escape(link)}">{content}</a>' if link else content


def bars(rows: Sequence[tuple[str, Mapping[str, int]]], *, highest: int | None = None, links: Mapping[str, str] | None = None) -> str:
    """Horizontal stacked bars, one a row, each with its label and total; drawn to the scale of the longest or of `highest`.

    `links`: by label what `whim browse` shows of it.
    """
    highest = highest or max([1, *(sum(parts.values()) for _, parts in rows)])
    lines = []
    for label, parts in rows:
        tip = ", ".join(f"{count:,} {name}" for name, count in parts.items())
        pieces = "".join(f'<i class="{name}" style="width:{100 * count / highest:.3f}%"></i>' for name, count in parts.items() if count)
        name = linked(escape(label), (links or {}).get(label, ""))
        lines.append(
            f'<div class="row" title="{escape(f"{label}: {tip}")}"><span class="name">{name}</span>'
            f'<span class="track">{pieces}</span><b>{sum(parts.values()):,}</b></div>'
        )
    return f'<div class="bars">{"".join(lines)}</div>'


def split_bar(title: str, parts: Mapping[str, int]) -> str:
    """One bar of several shares, with a legend that gives each in per cent and its count."""
    total = max(1, sum(parts.values()))
    pieces = "".join(f'<i class="{name}" style="width:{100 * n / total:.3f}%"></i>' for name, n in parts.items() if n)
    legend = "".join(
        f'<li><i class="{name}"></i>{escape(name)} <b>{100 * n / total:.0f} %</b> <small>{n:,}</small></li>' for name, n in parts.items()
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption><div class="split">{pieces}</div>'
        f'<ul class="legend">{legend}</ul></figure>'
    )


def number(value: float) -> str:
    """Short: 0, 0.25, 12, 3,400."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.2f}".rstrip("0").rstrip(".") or "0"
