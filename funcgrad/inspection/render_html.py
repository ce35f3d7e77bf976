"""A picture as a page of its own: the layout's order goes along as JSON, the script places, draws and steps."""

from __future__ import annotations

import json
import re
from html import escape
from importlib.resources import files
from typing import Any

from funcgrad.inspection import placement
from funcgrad.inspection.picture import Picture, box_label
from funcgrad.inspection.render_svg import MOST_CROSSINGS, STYLE


def html(picture: Picture) -> str:
    """The page: no address outside it, no library."""
    return page(picture.title, payload(picture))


def page(title: str, data: str) -> str:
    """The viewer around some data; a page of many pictures holds it once."""
    folder = files("funcgrad.inspection")
    parts = {"title": escape(title), "style": STYLE + (folder / "viewer.css").read_text(encoding="utf-8"),
             "script": (folder / "viewer.js").read_text(encoding="utf-8"), "data": data}
    text = (folder / "viewer.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], text)


def payload(picture: Picture) -> str:
    """What the viewer shows, as JSON that can stand in a script element."""
    return json.dumps(_data(picture), ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")


def _data(picture: Picture) -> dict[str, Any]:
    """What the script needs; items that are not drawn are null."""
    layout, items = picture.layout, picture.folded.items
    drawn = {what for level in layout.levels if level for kind, what in level.vertices if kind == "item"}
    return {
        "title": picture.title, "note": picture.note, "opened": sorted(picture.opened),
        "items": [_item(picture, number) if number in drawn else None for number in range(len(items))],
        "boxes": [{"label": box_label(box), "kind": box.kind, "size": size}
                  for box, size in zip(layout.boxes, picture.closed_sizes, strict=True)],
        "levels": [None if level is None else
                   {"parent": level.parent, "vertices": level.vertices, "layers": level.layers,
                    "segments": level.segments, "rank": level.rank, "passing": level.passing}
                   for level in layout.levels],
        "routes": layout.routes, "crossings": layout.crossings, "both": bool(layout.crossings),
        "links": [[link.source, link.target, link.partial, int(link.active)] for link in picture.folded.links],
        "measures": {"line": placement.LINE, "padding": placement.PADDING, "gapX": placement.GAP_X,
                     "gapY": placement.GAP_Y, "header": placement.HEADER, "rounds": placement.ROUNDS,
                     "bow": placement.BOW, "crossings": MOST_CROSSINGS},
    }


def _item(picture: Picture, number: int) -> dict[str, Any]:
    item = picture.folded.items[number]
    return {"kind": item.kind, "name": item.name, "rows": picture.rows[number], "size": picture.item_sizes[number],
            "active": int(item.active), "output": int(item.output), "forward": item.forward,
            "backward": item.backward, "line": item.line, "expression": item.expression}
