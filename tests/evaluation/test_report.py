"""The report: whole in itself, the same each time, and readable without explanation."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from rich.console import Console
from stub_runs import compared, config_of

from piano_tf.evaluation import compare as module
from piano_tf.evaluation.config import ComparisonConfig
from piano_tf.evaluation.conventions import conventions
from piano_tf.evaluation.plots import plots
from piano_tf.evaluation.report import facts, html, markdown
from piano_tf.evaluation.results import Comparison
from piano_tf.evaluation.search import SearchResult
from piano_tf.evaluation.summary import Resampling
from piano_tf.evaluation.tables import (
    headline,
    off_policy_table,
    one_model_tables,
    quality_table,
    ranked,
)
from piano_tf.features import OUTPUTS

STUB = {"model": {"name": "first_stage"}}
ODD = '<b> & "Rival"'


def comparison_of(config: ComparisonConfig) -> Comparison:
    """What `compare` would have written down."""
    found: list[Comparison] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_results", lambda comparison, output: found.append(comparison))
        compared(config)
    return found[0]


@pytest.fixture(scope="module")
def comparison(log_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """With an odd label, and more rivals than a figure has lines for."""
    many = {f"rival {number}": STUB for number in range(9)}
    models = {"Ours": STUB, ODD: STUB, **many, "no part": STUB}
    output = tmp_path_factory.mktemp("report")
    return comparison_of(config_of(log_dir, output, models=models))


class Page(HTMLParser):
    """Tags, addresses and text of a page; its tables by their headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.addresses += [known[name] or "" for name in ("src", "href") if name in known]
        assert tag != "script"
        if tag == "img":
            assert known["alt"]
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data.strip())
        if data.strip():
            self.text.append(" ".join(data.split()))


def test_a_page_needs_nothing_from_elsewhere(comparison: Comparison) -> None:
    text = html(comparison)
    page = Page(text)
    assert page.addresses
    for address in page.addresses:
        kind, picture = address.split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        ElementTree.fromstring(base64.b64decode(picture))
    assert "url(" not in text and "@import" not in text


def test_the_page_has_every_table_and_convention_of_the_markdown(comparison: Comparison) -> None:
    page, text = Page(html(comparison)), markdown(comparison)
    cells = [
        cell.strip()
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("|---")
        for cell in line.strip("|").split(" | ")
    ]
    assert len(cells) > 200
    assert page.cells[: len(cells)] == cells
    assert page.cells[len(cells) :][:4] == ["model", "seconds a run", "epochs", "b"]
    for line in text.splitlines():
        if line.startswith(("- ", "## ")):
            assert line.lstrip("-# ") in page.text
    assert ODD in page.text


def test_the_same_comparison_gives_the_same_texts(comparison: Comparison) -> None:
    assert markdown(comparison) == markdown(comparison)
    assert html(comparison) == html(comparison)


def test_no_time_is_in_the_markdown(comparison: Comparison) -> None:
    assert "second" not in markdown(comparison)


def test_facts_count_what_is_left_out(comparison: Comparison) -> None:
    lists = comparison.lists
    without = 1 - lists.any("conversion").mean()
    assert 0 < without < 1
    assert f"{len(lists)} test lists by 3 users" in facts(comparison)
    assert f"{without:.1%} have no conversion" in facts(comparison)


def test_the_headline_is_about_the_best_rival(comparison: Comparison) -> None:
    metric = "conversion_ndcg_10"
    rivals = [row for row in comparison.models if row.name != "Ours"]
    best = max(rivals, key=lambda row: row.values[metric].value)
    ours = comparison.row("Ours").values[metric].value
    (sentence,) = (one for one in headline(comparison) if one.startswith("conversion"))
    assert f"Ours has {ours:.4f}, the best rival, {best.name}, " in sentence
    assert f"{best.values[metric].value:.4f}" in sentence
    assert f"{ours - best.values[metric].value:+.4f} [" in sentence


def test_rows_stand_from_best_to_worst(comparison: Comparison) -> None:
    table = quality_table(comparison, "ndcg_10")
    names = [row[0] for row in table.rows]
    assert names[-3:] == ["initial order", "random order", "ideal order"]
    means = [
        np.mean(
            [
                comparison.row(name).values[f"{label}_ndcg_10"].value
                for label in ("click", "conversion")
            ]
        )
        for name in names[:-3]
    ]
    assert len(means) == 11 and means == sorted(means, reverse=True)
    ablations = quality_table(comparison, "ndcg_10", ablations=True)
    assert [row[0] for row in ablations.rows] == ["Ours", "no part"]
    assert all(len(row) == len(table.header) for row in table.rows)


def test_one_seed_has_no_spread(log_dir: Path, tmp_path: Path) -> None:
    several = quality_table(comparison_of(config_of(log_dir, tmp_path / "a")), "mrr")
    single = comparison_of(config_of(log_dir, tmp_path / "b", seeds=[4]))
    table = quality_table(single, "mrr")
    assert "± seeds" in several.header and "± seeds" not in table.header
    assert "nan" not in markdown(single) and "±" not in markdown(single).split("## Conventions")[0]


def test_without_an_off_policy_estimate_the_report_says_why(
    log_dir: Path, tmp_path: Path, tiny
) -> None:
    asked_not = comparison_of(config_of(log_dir, tmp_path / "a", off_policy=False))
    assert "There is no off-policy estimate: the configuration asks for none." in markdown(
        asked_not
    )
    # Two hundred lists of two items each, where pairs of query and item move.
    still = tiny.write(tmp_path / "log", [tiny.row(n, candidates=2) for n in range(400)])
    known = comparison_of(config_of(still, tmp_path / "b"))
    assert not known.off_policy
    cells = {row[0]: row[1:] for row in off_policy_table(known).rows}
    assert cells["Ours"][1] == "-" and cells["Rival"][1].startswith(("+", "-"))
    assert "ideal order" not in cells  # it knows the very clicks that it is measured by
    assert "Off-policy" in markdown(known)


def test_conventions_are_those_of_the_comparison(comparison: Comparison) -> None:
    text = " ".join(conventions(comparison))
    for sentence in (
        "The curves that calibrate a model's outputs are fitted on validation",
        "calibration on validation itself is in-sample",
        "Pre-trained vectors are learnt from train",
        "bootstraps over lists",
        "random signs of the differences, list by list,",
    ):
        assert sentence in text
    assert "Settings were searched for" not in text
    found = SearchResult(label="Ours", digest="", values={"model.width": 8}, ndcg_10=0.5, trials=2)
    other = dataclasses.replace(comparison, resampling=Resampling(unit="user"), searches=[found])
    text = " ".join(conventions(other))
    assert "random signs of the differences, user by user," in text
    assert "list by list" not in text
    assert "Settings were searched for on validation" in text


def test_every_figure_can_be_drawn(comparison: Comparison, tmp_path: Path) -> None:
    seen = list(plots(comparison))
    assert len(seen) == 5
    for number, plot in enumerate(seen):
        plot.figure.savefig(tmp_path / f"{number}.png", dpi=40)
        image = matplotlib.image.imread(tmp_path / f"{number}.png")
        assert np.ptp(image[..., :3]) > 0.5  # something is drawn
        assert plot.title and plot.caption.endswith(".")


def test_a_model_has_one_colour_in_all_figures_and_the_reference_stands_out(
    comparison: Comparison,
) -> None:
    """Lines are drawn of the reference and the seven best rivals, and the caption says so."""
    best = [row.name for row in ranked(comparison.models) if row.name != "Ours"][:7]
    colours: dict[str, set[str]] = {}
    for plot in plots(comparison):
        for axes in plot.figure.axes:
            for line in axes.get_lines():
                if line.get_label() in {"Ours", *best}:
                    colours.setdefault(str(line.get_label()), set()).add(line.get_color())
    assert set(colours) == {"Ours", *best}
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == 8
    captions = [plot.caption for plot in plots(comparison)]
    assert sum("Shown are Ours and the 7 best others." in caption for caption in captions) == 3


def test_the_trade_off_figure_shows_the_rows_own_curve(comparison: Comparison) -> None:
    (plot,) = (one for one in plots(comparison) if "cost in clicks" in one.title)
    (line,) = (one for one in plot.figure.axes[0].get_lines() if one.get_label() == "Ours")
    np.testing.assert_array_equal(line.get_xydata(), comparison.row("Ours").trade_off)


def test_a_terminal_shows_every_metric_of_the_reference(comparison: Comparison) -> None:
    ranking, gains, probabilities = one_model_tables(comparison)
    assert ranking.header == ["metric", "Ours", "initial", "random", "ideal"]
    by_name = {row[0]: row[1:] for row in ranking.rows}
    assert len(by_name) == 14
    assert re.fullmatch(r"0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]", by_name["click NDCG@10"][0])
    lead = comparison.row("initial order").leads["conversion_mrr"]
    assert len(gains.rows) == 6
    assert [f"{lead.difference:+.4f}"] == [
        row[1].split()[0] for row in gains.rows if row[0] == "conversion MRR"
    ]
    assert [row[0] for row in probabilities.rows] == [name.replace("_", " ") for name in OUTPUTS]
    assert probabilities.rows[2][2] == "-"  # a list output has no group AUC
    narrow = Console(width=20, soft_wrap=True, file=io.StringIO())
    narrow.print(ranking.for_terminal())
    assert by_name["click NDCG@10"][0] in narrow.file.getvalue()
