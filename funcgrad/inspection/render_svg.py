"""A picture as SVG: text and paths only, colours of Okabe and Ito (2008), dark where the reader's screen is."""

from __future__ import annotations

from html import escape

from funcgrad.inspection.picture import Picture, Row, box_label
from funcgrad.inspection.placement import LINE, Placement, Point, crossing_points, place

MARGIN = 14.0
_TITLE = 30.0
#: More crossing lines would hide the picture.
MOST_CROSSINGS = 80

#: Class by class: light, dark. Values are blue, cotangents orange; shape and words say the same without colour.
STYLE = """
.picture{font:12px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:#1b1f24}
.paper{fill:#fff}.title{font-weight:bold;font-size:14px}.note,.type,.line{fill:#57606a}
.box{fill:#8c959f;fill-opacity:.10;stroke:#8c959f}.box.repeat,.box.scan,.box.while{stroke-width:2;stroke-dasharray:7 3}
.box.closed{fill-opacity:.24}.boxlabel{font-weight:bold;fill:#424a53}
.item{fill:#fff;stroke:#424a53}.item.input{stroke:#0072b2;stroke-width:2}.item.constant{stroke-dasharray:3 3}
.item.output{stroke-width:3}.item.inactive{stroke:#afb8c1}.name{font-weight:bold}
.value{fill:#005f96}.ct{fill:#b04a00}
.link{fill:none;stroke:#57606a;stroke-width:1.3}.link.inactive{stroke:#afb8c1;stroke-dasharray:4 3}

.crossing{fill:none;stroke:#009e73;stroke-width:1.4;stroke-dasharray:2 4}
.arrow{fill:#57606a}
.partial{fill:#b04a00;font-size:11px;paint-order:stroke;stroke:#fff;stroke-width:10px;stroke-linejoin:round}
@media (prefers-color-scheme:dark){.picture{fill:#e6edf3}.paper{fill:#0d1117}.note,.type,.line{fill:#9da7b1}
.box{stroke:#6e7681;fill:#6e7681}.boxlabel{fill:#d0d7de}.item{fill:#161b22;stroke:#b1bac4}
.item.input{stroke:#56b4e9}.item.inactive{stroke:#545d68}.value{fill:#6cc0f5}.ct{fill:#ffb14a}
.link{stroke:#9da7b1}.link.inactive{stroke:#545d68}.arrow{fill:#9da7b1}.partial{fill:#ffb14a;stroke:#0d1117}}
"""


def svg(picture: Picture) -> str:
    """The picture with the boxes that are open at first."""
    placed = place(picture.layout, picture.opened, picture.item_sizes, picture.closed_sizes)
    words = max(len(picture.title) * 8.6, len(picture.note) * 7.3)
    width, height = max(placed.size[0], words) + 2 * MARGIN, placed.size[1] + 2 * MARGIN + _TITLE
    title = escape(picture.title)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="Computation graph of {title}">',
        f"<style>{STYLE}</style>", '<g class="picture"><rect class="paper" width="100%" height="100%"/>',
        f'<text class="title" x="{MARGIN}" y="20">{title}</text>',
        f'<text class="note" x="{MARGIN}" y="37">{escape(picture.note)}</text>',
        f'<g transform="translate({max(MARGIN, (width - placed.size[0]) / 2):.0f} {MARGIN + _TITLE})">',
        *_boxes(picture, placed), *_crossings(picture, placed), *_links(picture, placed),
        *_items(picture, placed), *_partials(picture, placed),
        "</g></g></svg>",
    ]
    return "\n".join(parts)


def _boxes(picture: Picture, placed: Placement) -> list[str]:
    found = []
    for number, (x, y, width, height) in sorted(placed.boxes.items()):
        if number == 0:
            continue
        box = picture.layout.boxes[number]
        opened = number in picture.opened
        first, second = box_label(box)
        found.append(f'<rect class="box {escape(box.kind)}{"" if opened else " closed"}" x="{x:.1f}" y="{y:.1f}" '
                     f'width="{width:.1f}" height="{height:.1f}" rx="8"/>')
        at = y + height - 8 if opened and number in placed.upward else y + 17
        found.append(f'<text class="boxlabel" x="{x + 10:.1f}" y="{at:.1f}">{escape(first)}</text>')
        if not opened:
            found.append(f'<text class="type" x="{x + 10:.1f}" y="{y + 34:.1f}">{escape(second)}</text>')
    return found


def _items(picture: Picture, placed: Placement) -> list[str]:
    found = []
    for number, (x, y) in placed.items.items():
        item = picture.folded.items[number]
        width, height = picture.item_sizes[number]
        classes = " ".join(["item", item.kind, *(["output"] if item.output else []),
                            *([] if item.active else ["inactive"])])
        rounded = 12 if item.kind == "input" else 3
        found.append(f'<g><title>{escape(item.forward)}\n{escape(item.line)}</title><rect class="{classes}" '
                     f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{rounded}"/>')
        for i, row in enumerate(picture.rows[number]):
            found.append(_row(row, x + 9, y + 5 + LINE * (i + 0.75)))
        found.append("</g>")
    return found


def _row(row: Row, x: float, y: float) -> str:
    spans = "".join(f'<tspan class="{kind}">{escape(text)}</tspan>' for kind, text in row)
    return f'<text x="{x:.1f}" y="{y:.1f}" xml:space="preserve">{spans}</text>'


def _links(picture: Picture, placed: Placement) -> list[str]:
    found = []
    for number, points in placed.links.items():
        inactive = "" if picture.folded.links[number].active else " inactive"
        found.append(f'<path class="link{inactive}" d="{curve(points, placed.bows.get(number, 0.0))}"/>')
        x, y = points[-1]
        x += placed.bows.get(number, 0.0) * 0.35
        back = 7 if points[-1][1] < points[0][1] else -7  # the gradient's program runs upwards
        found.append(f'<path class="arrow" d="M{x:.1f} {y:.1f}l-3.5 {back}h7z"/>')
    return found


def _crossings(picture: Picture, placed: Placement) -> list[str]:
    """What the gradient's program reads of the function's, as thin lines between the two."""
    ends = {number: (link.source, link.target) for number, link in enumerate(picture.folded.links) if link.crosses}
    lines = crossing_points(picture.layout, placed, ends, picture.item_sizes)
    if len(lines) > MOST_CROSSINGS:
        return []
    return [f'<path class="crossing" d="M{x:.1f} {y:.1f}C{x + 40:.1f} {y:.1f} {to_x - 40:.1f} {to_y:.1f} {to_x:.1f} '
            f'{to_y:.1f}"/>' for (x, y), (to_x, to_y) in lines.values()]


def curve(points: list[Point], bow: float = 0.0) -> str:
    """A path through points, vertical in each of them; `bow` bends it sideways."""
    x, y = points[0]
    x += bow * 0.35
    parts = [f"M{x:.1f} {y:.1f}"]
    for number, (to_x, to_y) in enumerate(points[1:], 2):
        end = to_x + (bow * 0.35 if number == len(points) else bow)
        half = (to_y - y) / 2
        bend = bow if len(points) == 2 else 0.0
        parts.append(f"C{x + bend:.1f} {y + half:.1f} {end + bend:.1f} {to_y - half:.1f} {end:.1f} {to_y:.1f}")
        x, y = end, to_y
    return "".join(parts)


def _partials(picture: Picture, placed: Placement) -> list[str]:
    """Local partials beside the ends of their links, where there is a number."""
    found = []
    for number, points in placed.links.items():
        link = picture.folded.links[number]
        if link.partial and link.active:
            x, y = points[-1]
            bow = placed.bows.get(number, 0.0)
            from_x, from_y = points[-2]
            share = min(1.0, 26.0 / max(1.0, y - from_y))
            at = x + (from_x - x) * share * 0.55 + bow * 0.9
            anchor = "end" if (bow or from_x - x) < 0 else "start"
            found.append(f'<text class="partial" text-anchor="{anchor}" x="{at + (-5 if anchor == "end" else 5):.1f}" '
                         f'y="{y - 17:.1f}">∂ {escape(link.partial)}</text>')
    return found
