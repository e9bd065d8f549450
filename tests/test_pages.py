"""Pages that need nothing else, whatever they are about."""

from __future__ import annotations

import base64
from pathlib import Path

import jinja2
import matplotlib
import pytest
from matplotlib.figure import Figure
from test_architecture import run

from piano_tf.pages import MARK, STYLE, Picture, Plot, picture, svg, templates


def line() -> Figure:
    """A figure with a clip path, whose name matplotlib would draw by chance."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2, 1))
        axes = figure.subplots()
        axes.plot([0, 1], [1, 0], color=MARK, label="down")
        axes.legend()
    return figure


def test_the_same_figure_gives_the_same_bytes_in_the_common_look() -> None:
    drawn = svg(line())
    assert drawn == svg(line())
    assert b"clip-path" in drawn and b"<dc:date>" not in drawn
    assert MARK.encode() in drawn
    assert [name for name, spine in line().axes[0].spines.items() if spine.get_visible()] == [
        "left",
        "bottom",
    ]


def test_a_picture_is_the_figure_itself() -> None:
    found = picture(Plot("Down", "From 1 to 0.", line()))
    kind, data = found.source.split(",")
    assert found[:2] == ("Down", "From 1 to 0.")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(data) == svg(line())


@pytest.fixture
def of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> jinja2.Environment:
    """The templates of a package that has one page."""
    package = tmp_path / "package_with_a_page"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "own.html.jinja").write_text(
        '{% extends "page.html.jinja" %}{% block before %}[{{ one }}]{% endblock %}'
        "{% block after %}[{{ other }}]{% endblock %}{% block style %}b { }{% endblock %}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return templates(package.name)


def test_a_page_has_its_blocks_around_the_pictures(of_a_package: jinja2.Environment) -> None:
    page = of_a_package.get_template("own.html.jinja").render(
        title="<b>", facts="&", one=1, other=2, pictures=[Picture("P", "Q", "data:,")]
    )
    parts = ("<title>&lt;b&gt;<", "b { }", "</style>", "<h1>&lt;b&gt;<", "&amp;", "[1]")
    places = [page.index(part) for part in (*parts, '<img src="data:," alt="P">', "Q", "[2]")]
    assert places == sorted(places)


def test_a_name_that_is_not_given_is_an_error(of_a_package: jinja2.Environment) -> None:
    with pytest.raises(jinja2.UndefinedError, match="'other' is undefined"):
        of_a_package.get_template("own.html.jinja").render(title="", facts="", one=1, pictures=[])


def test_pages_of_the_pipeline_load_no_tensorflow() -> None:
    said = run(
        """
        import sys
        import piano_tf.pages
        import tfx_pipeline.events.report
        print("matplotlib" in sys.modules, "tensorflow" in sys.modules)
        """
    )
    assert said == "True False"
