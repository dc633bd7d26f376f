"""The parts of a figure: scales, axes, lines, names beside them. Colours are CSS classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

Point = tuple[float, float]
GAP = 16.0


@dataclass(frozen=True)
class Scale:
    """Values to pixels; logarithmic where `log`."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = True

    def __call__(self, value: float) -> float:
        of = math.log if self.log else float
        part = (of(value) - of(self.low)) / (of(self.high) - of(self.low))
        return self.begin + part * (self.end - self.begin)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values of a logarithmic axis: 1, 2, 5 in every power of ten, or fewer of them."""
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [digit * 10.0**power for power in powers for digit in digits]
        found = [value for value in found if low <= value * 1.0001 and value <= high * 1.0001]
        if len(found) <= most:
            break
    return found


def span(values: Iterable[float], margin: float = 1.15) -> tuple[float, float]:
    """Limits of a logarithmic axis with some room."""
    known = [value for value in values if math.isfinite(value) and value > 0]
    return min(known) / margin, max(known) * margin


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights of labels near `places`, at least `gap` apart, between low and high if they fit."""
    order = sorted(range(len(places)), key=lambda at: places[at])
    found = [0.0] * len(places)
    last = low - gap
    for at in order:
        last = max(places[at], last + gap)
        found[at] = last
    # what was pushed out at the bottom moves up again
    last = high + gap
    for at in reversed(order):
        found[at] = last = min(found[at], last - gap)
    return found


def room(names: Iterable[str]) -> float:
    """Pixels right of a plot that hold names where its lines end: letters of `label` are at most
    8 wide on average, whatever font a browser has."""
    return max(250.0, 30 + 8.0 * max((len(name) for name in names), default=0))


@dataclass
class Figure:
    """An SVG of `width` x `height`; the plot lies within the margins."""

    width: float = 860
    height: float = 380
    left: float = 72
    right: float = 250
    top: float = 14
    bottom: float = 44
    parts: list[str] = field(default_factory=list)

    def x(self, low: float, high: float, log: bool = True) -> Scale:
        return Scale(low, high, self.left, self.width - self.right, log)

    def y(self, low: float, high: float, log: bool = True) -> Scale:
        return Scale(low, high, self.height - self.bottom, self.top, log)

    def text(self, x: float, y: float, text: str, css: str, anchor: str = "start") -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def axes(
        self,
        x: Scale,
        y: Scale,
        xs: Sequence[float],
        ys: Sequence[float],
        titles: tuple[str, str],
        y_text: Callable[[float], str] = lambda value: f"{value:g}",
        x_text: Callable[[float], str] = lambda value: f"{value:g}",
    ) -> None:
        """Light lines for the ticks of y, numbers, and what the axes are."""
        for value in ys:
            at = y(value)
            self.parts.append(
                f'<line class="grid" x1="{x.begin:.1f}" x2="{x.end:.1f}" '
                f'y1="{at:.1f}" y2="{at:.1f}"/>'
            )
            self.text(x.begin - 8, at + 4, y_text(value), "tick", "end")
        for value in xs:
            self.text(x(value), y.begin + 18, x_text(value), "tick", "middle")
        self.text((x.begin + x.end) / 2, self.height - 6, titles[0], "axis", "middle")
        middle = (y.begin + y.end) / 2
        self.parts.append(
            f'<text class="axis" text-anchor="middle" '
            f'transform="translate(14 {middle:.1f}) rotate(-90)">{escape(titles[1])}</text>'
        )

    def line(self, points: Sequence[Point], css: str) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline class="line {css}" points="{path}"/>')

    def dot(self, point: Point, css: str, hint: str, radius: float = 3.6) -> None:
        x, y = point
        self.parts.append(
            f'<circle class="dot {css}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
            f"<title>{escape(hint)}</title></circle>"
        )

    def labels(self, ends: Sequence[tuple[Point, str, str]]) -> None:
        """Names right of where the lines end, with a thin line where they had to move."""
        heights = apart([y for (_, y), _, _ in ends], GAP, self.top, self.height - self.bottom)
        for ((x, y), name, css), height in zip(ends, heights, strict=True):
            self.parts.append(
                f'<path class="lead" d="M{x + 6:.1f} {y:.1f} L{x + 18:.1f} {height:.1f}"/>'
            )
            self.text(x + 22, height + 4, name, f"label {css}")

    def svg(self, title: str) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" '
            f'viewBox="0 0 {self.width:g} {self.height:g}" aria-label="{escape(title)}">'
            f"<title>{escape(title)}</title>{''.join(self.parts)}</svg>"
        )
