"""Bars on a logarithmic axis, as an SVG; no package is needed for that."""

import math
from collections.abc import Callable
from html import escape

from .results import Spread

Bar = tuple[str, Spread, bool]  # the label, the value, and whether it is ours

_LEFT, _WIDTH, _ROW, _TOP = 400, 420, 22, 34
_OURS, _THEIRS, _INK = "#20639b", "#a9b8c6", "#222222"


def svg(panels: list[tuple[str, list[Bar]]]) -> str:
    """Return a picture of panels, one below the other, each a title and its bars."""
    parts: list[str] = []
    y = 10
    for title, bars in panels:
        parts += _panel(title, bars, y)
        y += _TOP + len(bars) * _ROW + 40
    width = _LEFT + _WIDTH + 150
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}">\n'
        f'<rect width="{width}" height="{y}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(title: str, bars: list[Bar], top: int) -> list[str]:
    least = min((bar.low for _, bar, _ in bars), default=1.0)
    most = max((bar.high for _, bar, _ in bars), default=10.0)
    lowest = math.floor(math.log10(max(least, 1e-3)))
    highest = max(lowest + 1, math.ceil(math.log10(most)))

    def x(value: float) -> float:
        share = (math.log10(max(value, 1e-3)) - lowest) / (highest - lowest)
        return _LEFT + _WIDTH * max(0.0, share)

    parts = [_text(10, top + 14, title, 'font-weight="bold"')]
    bottom = top + _TOP + len(bars) * _ROW
    for power in range(lowest, highest + 1):
        at = x(10.0**power)
        parts.append(_line(at, top + 24, at, bottom, "#dddddd"))
        parts.append(_text(at, bottom + 14, f"{10.0**power:g}", 'text-anchor="middle"'))
    for number, (label, value, ours) in enumerate(bars):
        parts += _bar(label, value, ours, top + _TOP + number * _ROW, x)
    return parts


def _bar(
    label: str, value: Spread, ours: bool, y: float, x: Callable[[float], float]
) -> list[str]:
    middle = y + _ROW / 2 - 2
    fill = _OURS if ours else _THEIRS
    width = x(value.median) - _LEFT
    return [
        _text(_LEFT - 8, middle + 4, label, 'text-anchor="end"'),
        f'<rect x="{_LEFT}" y="{y:.1f}" width="{width:.1f}" height="{_ROW - 6}" '
        f'fill="{fill}"/>',
        _line(x(value.low), middle, x(value.high), middle, _INK),
        _text(x(value.high) + 6, middle + 4, f"{value.median:.3g}"),
    ]


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, ink: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{ink}"/>'
    )
