"""The curve of a plan, seconds until the last VM is up over the number of replicas: as text and as SVG."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from opengallery.cli.progress import format_bytes

Point = dict[str, Any]

BAR_WIDTH = 44
WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 50, 50


def draw_text(points: Sequence[Point], target_s: float, title: str) -> str:
    """A bar for each number of replicas, on a logarithmic scale; `|` is the target."""
    low_s, high_s = _bounds(points, target_s)

    def place(value_s: float) -> int:
        return round(math.log(value_s / low_s) / math.log(high_s / low_s) * BAR_WIDTH)

    lines = [title, f"{'replicas':>8} {'stored':>10} {'VMs each':>9} {'all up':>10}"]
    for point in points:
        bar = list("#" * place(point["bootSeconds"]) + " " * BAR_WIDTH)
        bar[place(target_s)] = "|"
        mark = "meets the target" if point["meetsTarget"] else ""
        stored = format_bytes(point["storedBytes"])
        row = (
            f"{point['replicas']:>8} {stored:>10} {point['vmsPerReplica']:>9} {point['bootSeconds']:>8.1f} s"
        )
        lines.append(f"{row} {''.join(bar[: BAR_WIDTH + 1])} {mark}".rstrip())
    return "\n".join(lines) + "\n"


def draw_svg(points: Sequence[Point], target_s: float, title: str) -> str:
    """Both axes are logarithmic: twice the replicas halve the time for as long as the links are what is slow."""
    low_s, high_s = _bounds(points, target_s)
    most = max(points[-1]["replicas"], 2)

    def x(replicas: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(replicas) / math.log(most)

    def y(value_s: float) -> float:
        span = math.log(high_s / low_s)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(value_s / low_s) / span

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="14">{escape(title)}</text>',
    ]
    value_s = low_s
    while value_s <= high_s * 1.001:
        parts.append(_line(LEFT, y(value_s), WIDTH - RIGHT, y(value_s), "#ddd"))
        parts.append(f'<text x="{LEFT - 8}" y="{y(value_s) + 4:.1f}" text-anchor="end">{value_s:g} s</text>')
        value_s *= 10
    for point in points:
        at = x(point["replicas"])
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{point["replicas"]}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">replicas</text>'
    )
    parts.append(_line(LEFT, y(target_s), WIDTH - RIGHT, y(target_s), "#c60", "6 4"))
    parts.append(
        f'<text x="{WIDTH - RIGHT}" y="{y(target_s) - 6:.1f}" text-anchor="end" fill="#c60">'
        f"target {target_s:g} s</text>"
    )
    path = " ".join(f"{x(point['replicas']):.1f},{y(point['bootSeconds']):.1f}" for point in points)
    parts.append(f'<polyline points="{path}" fill="none" stroke="#26c" stroke-width="2"/>')
    for point in points:
        color = "#283" if point["meetsTarget"] else "#26c"
        label = f"{point['replicas']} replicas: {point['bootSeconds']} s, {point['storedBytes']} bytes stored"
        parts.append(
            f'<circle cx="{x(point["replicas"]):.1f}" cy="{y(point["bootSeconds"]):.1f}" r="4" fill="{color}">'
            f"<title>{escape(label)}</title></circle>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bounds(points: Sequence[Point], target_s: float) -> tuple[float, float]:
    """The powers of ten around all that is drawn."""
    values = [*(point["bootSeconds"] for point in points), target_s]
    low, high = math.floor(math.log10(min(values))), math.floor(math.log10(max(values))) + 1
    return 10.0**low, 10.0**high


def _line(x1: float, y1: float, x2: float, y2: float, color: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"{dashed}/>'
