"""The few SVG elements that charts are made of. Text is escaped; colours are CSS classes of the page."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

from edgecompile.report.formats import short

ROW = 24  # px: height of a row in charts made of rows
CHARACTER = 6.4  # px: mean width of one at the charts' 12 px


def picture(width: float, height: float, title: str, body: Iterable[Markup], description: str = "") -> Markup:
    """An image that a screen reader announces by its title and description; it scrolls where the page is narrow."""
    return Markup(
        '<div class="chart"><svg role="img" viewBox="0 0 {w:.0f} {h:.0f}" '
        'style="min-width:{least:.0f}px;max-width:{most:.0f}px" aria-label="{title}">'
        "<desc>{desc}</desc>{body}</svg></div>"
    ).format(
        w=width,
        h=height,
        least=width * 0.8,
        most=width * 1.2,
        title=title,
        desc=description or title,
        body=Markup("").join(body),
    )


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start", most: int = 1000) -> Markup:
    """`most`: characters there is room for; what is cut is shown in a tooltip."""
    cut = short(content, most)
    tip = Markup("<title>{}</title>").format(content) if cut != content else ""
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}{}</text>').format(
        x, y, kind, anchor, cut, tip
    )


def rect(x: float, y: float, width: float, height: float, kind: str, tip: str = "", radius: float = 2) -> Markup:
    title = Markup("<title>{}</title>").format(tip) if tip else ""
    return Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="{:g}" class="{}">{}</rect>').format(
        x, y, max(0.0, width), max(0.0, height), radius, kind, title
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(x1, y1, x2, y2, kind)


def dot(x: float, y: float, kind: str, tip: str) -> Markup:
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4.5" class="{}"><title>{}</title></circle>').format(
        x, y, kind, tip
    )


def polyline(points: Iterable[tuple[float, float]], kind: str) -> Markup:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline points="{}" class="{}"/>').format(joined, kind)


def link(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A curve that leaves and arrives horizontally."""
    middle = (x1 + x2) / 2
    path = f"M{x1:.1f} {y1:.1f}C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    return Markup('<path d="{}" class="{}"/>').format(path, kind)
