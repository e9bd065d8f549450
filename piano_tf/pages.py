"""Pages that need nothing else: figures of one look, and the template that holds them.

A page's own template extends `page.html.jinja`, which shows `title`, `facts` and, if there are any,
`pictures`, and fills its blocks: `style`, and what stands `before` and `after` the pictures.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from typing import NamedTuple

import jinja2
import matplotlib
from matplotlib.figure import Figure

INK = "#333333"
MARK = "#d1495b"
"""The colour of what stands out."""
COLOURS = ("#00798c", "#edae49", "#30638e", "#7b9e4c", "#8d6a9f", "#56b4e9", "#a0673f")
"""Those of what stands beside it."""

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
"""For `matplotlib.rc_context`, within which figures are drawn."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure and what it says.

    Attributes:
      title: What is seen.
      caption: How to read it.
      figure: The picture.
    """

    title: str
    caption: str
    figure: Figure


class Picture(NamedTuple):
    """A plot as a page shows it.

    Attributes:
      title, caption: The plot's.
      source: The figure inside an address.
    """

    title: str
    caption: str
    source: str


def picture(plot: Plot) -> Picture:
    """A plot for a page; one that is drawn alike gives the same text."""
    source = "data:image/svg+xml;base64," + base64.b64encode(svg(plot.figure)).decode()
    return Picture(plot.title, plot.caption, source)


def svg(figure: Figure) -> bytes:
    """A figure as SVG; one that is drawn alike gives the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "piano"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def templates(package: str) -> jinja2.Environment:
    """The templates of a package, and `page.html.jinja`.

    Text is escaped, and a name that is not given is an error.
    """
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(package, "."), jinja2.PackageLoader("piano_tf", ".")]
        ),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
