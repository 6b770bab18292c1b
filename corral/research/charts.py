"""The report's pictures: pure functions from numbers to inline SVG.

Colours are classes, styled by the page for light and dark; text sizes suit a panel about as wide as
a phone. What is drawn, and the words around it, are decided in `report`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from html import escape

from msgspec import Struct

TIMES = "\N{MULTIPLICATION SIGN}"


class Curve(Struct, frozen=True):
    """A line over days."""

    days: Sequence[str]  #: ISO dates
    values: Sequence[float]  #: above 0
    style: str  #: CSS classes
    label: str = ""  #: written at its right end, below the last value
    title: str = ""  #: shown on hover


class Score(Struct, frozen=True):
    """One model in a strip of scores."""

    label: str
    style: str
    score: float
    baseline: float
    luck: float  #: what luck reaches in one of twenty tries
    title: str


class Bar(Struct, frozen=True):
    """One task on the time axis."""

    lane: str  #: the worker
    start: float  #: seconds
    end: float
    style: str
    title: str


def equity(curves: Sequence[Curve], width: int = 460, height: int = 260) -> str:
    """Growth of 1 over time, on a logarithmic axis; the labelled curves are drawn last."""
    left, right, top, bottom = 34, 88, 10, 22
    ordinals = [date.fromisoformat(day).toordinal() for curve in curves for day in curve.days]
    first, last = min(ordinals), max(ordinals)
    every = [value for curve in curves for value in curve.values]
    low, high = math.log(min(every)) - 0.05, math.log(max(every)) + 0.05

    def x(day: str) -> float:
        share = (date.fromisoformat(day).toordinal() - first) / max(1, last - first)
        return left + share * (width - left - right)

    def y(value: float) -> float:
        return top + (high - math.log(value)) / (high - low) * (height - top - bottom)

    parts = []
    for tick in _ratios(math.exp(low), math.exp(high)):
        at = y(tick)
        parts.append(
            f'<path class="{"zero" if tick == 1 else "grid"}" '
            f'd="M{left} {at:.1f}H{width - right}"/>'
            f'<text class="tick end" x="{left - 5}" y="{at + 4:.1f}">{tick:g}{TIMES}</text>'
        )
    years = range(date.fromordinal(first).year + 1, date.fromordinal(last).year + 1)
    for year in years:
        at = x(f"{year}-01-01")
        parts.append(f'<path class="grid" d="M{at:.1f} {height - bottom}v4"/>')
        if year % 2 == 0 or len(years) < 5:
            parts.append(f'<text class="tick mid" x="{at:.1f}" y="{height - 5}">{year}</text>')
    for curve in sorted(curves, key=lambda curve: bool(curve.label)):
        points = " ".join(
            f"{x(day):.1f},{y(value):.1f}"
            for day, value in zip(curve.days, curve.values, strict=True)
        )
        parts.append(
            f'<polyline class="line {curve.style}" points="{points}">'
            f"<title>{escape(curve.title)}</title></polyline>"
        )
    ends = [(y(curve.values[-1]), curve) for curve in curves if curve.label]
    for at, curve in _apart(ends, 28):
        x_text = width - right + 7
        parts.append(
            f'<text class="label {curve.style}" x="{x_text}" y="{at:.1f}">'
            f"{curve.values[-1]:.2f}{TIMES}"
            f'<tspan x="{x_text}" dy="13">{escape(curve.label)}</tspan></text>'
        )
    return _svg(width, height, parts, "Growth of 1 invested, logarithmic")


def strip(groups: Sequence[tuple[str, Sequence[Score]]], reach: float, width: int = 460) -> str:
    """Scores of groups of models: a bar as far as luck reaches, a ring for the baseline, a dot.

    `reach` is the largest value the axis must show, so that panels can share one scale.
    """
    left, right, top, row, gap = 104, 14, 8, 16, 20
    height = top + sum(gap + row * len(scores) for _, scores in groups) + 24
    step = _step(2 * reach, 5)
    reach = math.ceil(reach / step) * step

    def x(value: float) -> float:
        return left + (value + reach) / (2 * reach) * (width - left - right)

    parts = []
    for index in range(-round(reach / step), round(reach / step) + 1):
        tick = index * step
        parts.append(
            f'<path class="{"zero" if index == 0 else "grid"}" '
            f'd="M{x(tick):.1f} {top}V{height - 20}"/>'
            f'<text class="tick mid" x="{x(tick):.1f}" y="{height - 6}">{tick:.2g}</text>'
        )
    at = float(top)
    for name, scores in groups:
        parts.append(f'<text class="group" x="0" y="{at + 14}">{escape(name)}</text>')
        at += gap
        for score in scores:
            middle = at + row / 2
            dot = "hit" if score.score > score.luck else "miss"
            parts.append(
                f"<g><title>{escape(score.title)}</title>"
                f'<rect class="luck" x="{x(-score.luck):.1f}" y="{middle - 5:.1f}" '
                f'width="{x(score.luck) - x(-score.luck):.1f}" height="10" rx="5"/>'
                f'<text class="tick end" x="{left - 8}" y="{middle + 4:.1f}">'
                f"{escape(score.label)}</text>"
                f'<circle class="ring" cx="{x(score.baseline):.1f}" cy="{middle:.1f}" r="3.2"/>'
                f'<circle class="dot {score.style} {dot}" cx="{x(score.score):.1f}" '
                f'cy="{middle:.1f}" r="4.2"/></g>'
            )
            at += row
    return _svg(width, height, parts, "Rank correlation of predictions beside luck and noise")


def gantt(bars: Sequence[Bar], width: int = 1040) -> str:
    """Tasks over time, one row for each thing that a worker does at once."""
    left, right, top, row, gap = 92, 10, 6, 20, 12
    start, end = min(bar.start for bar in bars), max(bar.end for bar in bars)
    span = max(end - start, 1e-9)

    def x(time: float) -> float:
        return left + (time - start) / span * (width - left - right)

    parts, at = [], float(top)
    for lane in sorted({bar.lane for bar in bars}):
        rows = _rows([bar for bar in bars if bar.lane == lane])
        parts.append(f'<text class="group" x="0" y="{at + 15}">{escape(lane)}</text>')
        for tasks in rows:
            parts.append(
                f'<rect class="lane" x="{left}" y="{at}" '
                f'width="{width - left - right}" height="{row - 2}" rx="3"/>'
            )
            for bar in tasks:
                length = max(x(bar.end) - x(bar.start) - 0.6, 0.8)
                parts.append(
                    f'<rect class="bar {bar.style}" x="{x(bar.start):.1f}" y="{at + 2}" '
                    f'width="{length:.1f}" height="{row - 6}" rx="1.5">'
                    f"<title>{escape(bar.title)}</title></rect>"
                )
            at += row
        at += gap
    step = _step(span, 8)
    for index in range(int(span / step) + 1):
        middle = x(start + index * step)
        parts.insert(0, f'<path class="grid" d="M{middle:.1f} {top}V{at - 2}"/>')
        parts.append(
            f'<text class="tick mid" x="{middle:.1f}" y="{at + 12}">{index * step:g} s</text>'
        )
    return _svg(width, round(at + 18), parts, "Which worker ran which task when")


def _svg(width: int, height: int, parts: Sequence[str], name: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">'
        + "".join(parts)
        + "</svg>"
    )


def _ratios(low: float, high: float) -> list[float]:
    """Round numbers inside [low, high] for a logarithmic axis, finer where few would be left."""
    ticks: list[float] = []
    for digits in (
        (1, 2, 5),
        (1, 1.5, 2, 3, 5, 7),
        (1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
    ):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        every = (digit * 10**power for power in powers for digit in digits)
        ticks = [tick for tick in every if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks


def _step(span: float, ticks: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that cuts `span` into about `ticks` pieces."""
    rough = span / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    return power * min((1, 2, 5, 10), key=lambda factor: abs(factor - rough / power))


def _apart(placed: Sequence[tuple[float, Curve]], distance: float) -> list[tuple[float, Curve]]:
    """The same, moved down where two would be closer than `distance`."""
    result: list[tuple[float, Curve]] = []
    for at, curve in sorted(placed, key=lambda pair: pair[0]):
        result.append((max(at, result[-1][0] + distance) if result else at, curve))
    return result


def _rows(bars: Sequence[Bar]) -> list[list[Bar]]:
    """Bars in as few rows as need be for none to overlap, in order of their start."""
    rows: list[list[Bar]] = []
    for bar in sorted(bars, key=lambda bar: bar.start):
        free = next((row for row in rows if row[-1].end <= bar.start), None)
        if free is None:
            rows.append([bar])
        else:
            free.append(bar)
    return rows
