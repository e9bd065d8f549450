"""A comparison as Parquet, as Markdown and as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from piano_tf.evaluation import tables
from piano_tf.evaluation.config import ORDERS
from piano_tf.evaluation.conventions import conventions
from piano_tf.evaluation.plots import plots
from piano_tf.evaluation.results import Comparison, results_table, summary_table
from piano_tf.evaluation.tables import Table
from piano_tf.features import LABELS
from piano_tf.files import replacing
from piano_tf.pages import picture, templates

REPORT_FILE = "report.html"
RESULTS_FILE = "results.parquet"
SUMMARY_FILE = "summary.parquet"
MARKDOWN_FILE = "results.md"
FILES = (RESULTS_FILE, SUMMARY_FILE, MARKDOWN_FILE, REPORT_FILE)

_TEMPLATES = templates("piano_tf.evaluation")


def remove_results(output: Path) -> None:
    """Removes what `write_results` wrote, if anything."""
    for name in FILES:
        (output / name).unlink(missing_ok=True)


def write_results(comparison: Comparison, output: Path) -> Path:
    """Writes `results.parquet`, `summary.parquet`, `results.md` and `report.html`.

    Args:
      comparison: What came out.
      output: Folder; made where it is not there.

    Returns:
      The report's file.
    """
    output.mkdir(parents=True, exist_ok=True)
    for name, table in (
        (RESULTS_FILE, results_table(comparison)),
        (SUMMARY_FILE, summary_table(comparison)),
    ):
        with replacing(output / name) as partial:
            pq.write_table(table, partial)
    for name, text in (
        (MARKDOWN_FILE, markdown(comparison)),
        (REPORT_FILE, html(comparison)),
    ):
        with replacing(output / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return output / REPORT_FILE


def markdown(comparison: Comparison) -> str:
    """All tables but that of times, and the conventions."""
    sections = [f"# {title(comparison)}", facts(comparison)]
    sections.append("\n".join(f"- {sentence}" for sentence in tables.headline(comparison)))
    for table in _tables(comparison):
        sections += [f"## {table.title}", table.caption, table.markdown()]
    sections += ["## Conventions", "\n".join(f"- {one}" for one in conventions(comparison))]
    return "\n\n".join(sections) + "\n"


def html(comparison: Comparison) -> str:
    """The report."""
    pictures = [picture(plot) for plot in plots(comparison)]
    shown = _tables(comparison)
    if comparison.records:
        shown.append(tables.training_table(comparison))
    return _TEMPLATES.get_template("report.html.jinja").render(
        title=title(comparison),
        facts=facts(comparison),
        headline=tables.headline(comparison),
        pictures=pictures,
        tables=shown,
        conventions=conventions(comparison),
        versions=_versions(comparison),
        reference=comparison.reference,
        orders=ORDERS,
    )


def title(comparison: Comparison) -> str:
    alone = len(comparison.models) == 1
    return f"{comparison.reference}{'' if alone else ' and its rivals'} on {comparison.dataset}"


def facts(comparison: Comparison) -> str:
    """Of how many lists, and how many of them count."""
    lists = comparison.lists
    counts = {label: int(lists.any(label).sum()) for label in LABELS}
    without = ", ".join(
        f"{1 - count / len(lists):.1%} have no {label}" for label, count in counts.items()
    )
    folds = f" of {comparison.folds} folds" if comparison.folds > 1 else ""
    return (
        f"{len(lists):,} {comparison.split} lists{folds} by {len(set(lists.user_id)):,} users, "
        f"{lists.mask.sum() / len(lists):.1f} items each. Of the lists {without}; these are left "
        "out of the ranking metrics."
    )


def _tables(comparison: Comparison) -> list[Table]:
    tested = ("ndcg_10", "map_10", "mrr")
    found = [tables.quality_table(comparison, "ndcg_10")]
    if comparison.ablated:
        found.append(tables.quality_table(comparison, "ndcg_10", ablations=True))
    found += [tables.quality_table(comparison, metric) for metric in tested[1:]]
    found += [tables.all_metrics_table(comparison, label) for label in LABELS]
    found += [tables.probability_table(comparison, of_lists=of_lists) for of_lists in (False, True)]
    if not comparison.off_policy:
        found.append(tables.off_policy_table(comparison))
    if comparison.searches:
        found.append(tables.search_table(comparison))
    return found


def _versions(comparison: Comparison) -> Sequence[str]:
    found = {
        f"{name} {version}"
        for record in comparison.records
        for name, version in record.versions.items()
    }
    return sorted(found)
