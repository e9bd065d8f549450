"""What came of a run: its metrics against thresholds, the blessing, and the pushed model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import tensorflow_model_analysis as tfma
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tfx.utils import path_utils

from piano_tf.evaluation.tables import whole
from piano_tf.export import CARD_FILE, ModelCard
from piano_tf.features import CLICK, CONVERSION, LABELS, LIST_CLICK, LIST_CONVERSION
from tfx_pipeline import run_folder
from tfx_pipeline.configs import PipelineConfig
from tfx_pipeline.evaluator import BASELINE, CANDIDATE, INITIAL, SERVED, TOP_K, ndcg_name
from tfx_pipeline.gates.blessing import BLESSED, WITHDRAWN
from tfx_pipeline.gates.measures import ALL_LISTS
from tfx_pipeline.gates.model import COMPARISON_FILE, Comparison
from tfx_pipeline.gates.serving import VERDICT_FILE, Verdict
from tfx_pipeline.lineage import MODEL_GATE, Lineage, newly_pushed, read_lineage
from tfx_pipeline.pushing import newest_version


@dataclasses.dataclass(frozen=True)
class Metric:
    """One figure of a run, on the test split.

    Attributes:
      name: For people.
      candidate: The new model's.
      baseline: The last blessed model's, where there was one.
      initial: The first-stage order's, where that has one.
      lower_bound: What the candidate's must reach.
      upper_bound: What it may not exceed.
    """

    name: str
    candidate: float
    baseline: float | None = None
    initial: float | None = None
    lower_bound: float | None = None
    upper_bound: float | None = None

    @property
    def needs(self) -> str:
        """What it is held to, in a few characters."""
        if self.lower_bound is None:
            return ""
        if self.upper_bound is None:
            return f"{self.lower_bound:g}"
        return f"{self.lower_bound:g} to {self.upper_bound:g}"

    @property
    def complaint(self) -> str | None:
        """Why this metric stands against a blessing, in words."""
        value = f"{self.name} {self.candidate:.4f}"
        # A metric that cannot be computed is NaN and fails any comparison: hence `not`.
        if self.lower_bound is not None and not self.candidate >= self.lower_bound:
            return f"{value} is below the threshold {self.lower_bound:.4f}"
        if self.upper_bound is not None and not self.candidate <= self.upper_bound:
            return f"{value} is above the threshold {self.upper_bound:.4f}"
        return None


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """What came of a run.

    Attributes:
      metrics: Of the new model.
      compared: What it gains on other orders, and its figures on slices of the lists.
      blessed: Whether its metrics and its changes allow it to be pushed.
      served: What the serving gate found.
      pushed: The pushed version's folder, if this run pushed one.
      started_from: The folder of the model that training started from, if it did from any.
      lineage: What it made, stage by stage.
      withdrawn: Whether the model was pushed, and taken back since (`withdrawal.py`).
    """

    metrics: tuple[Metric, ...]
    compared: Comparison
    blessed: bool
    served: Verdict
    pushed: Path | None
    started_from: str | None
    lineage: Lineage
    withdrawn: bool = False

    @property
    def complaints(self) -> tuple[str, ...]:
        """Why the model was not blessed."""
        bounds = (metric.complaint for metric in self.metrics if metric.complaint is not None)
        return (*bounds, *self.compared.complaints)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the model was not pushed, if a gate refused it."""
        return (*self.complaints, *self.served.reasons)

    def outcome(self, config: PipelineConfig, card: Path) -> run_folder.Outcome:
        """What a schedule needs to know.

        Args:
          config: Of the run.
          card: The model card.
        """
        newest = newest_version(config.pushed)
        return run_folder.Outcome(
            run=self.lineage.run,
            day=config.day,
            verdict=self.verdict,
            version=self.pushed.name if self.pushed is not None else None,
            reasons=self.reasons,
            newest=newest.name if newest is not None else None,
            model=self.lineage.outputs["Trainer", "Model"].id,
            card=card,
        )

    @property
    def verdict(self) -> run_folder.RunVerdict:
        """What became of the model."""
        if self.pushed is not None:
            return "pushed"
        if self.withdrawn:
            return "withdrawn"
        return "pushed before" if self.blessed and self.served.passed else "refused"

    @property
    def conclusion(self) -> str:
        """The last line of a run."""
        if self.pushed is not None:
            return f"pushed: {self.pushed}"
        return "nothing pushed: what is served stays as it is"

    def print(self, console: Console) -> None:
        """Prints a table, and what each gate said with its reasons; not the conclusion."""
        table = Table(box=box.SIMPLE_HEAD, title="On the test split", title_justify="left")
        table.add_column("metric", no_wrap=True)
        for name in ("first stage", "model", "last blessed"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("needs", no_wrap=True)
        for metric in self.metrics:
            values = (metric.initial, metric.candidate, metric.baseline)
            cells = ["" if value is None else f"{value:.4f}" for value in values]
            mark = f"{_mark(metric.complaint)} " if metric.needs else ""
            table.add_row(metric.name, *cells, mark + metric.needs)
        console.print(whole(table), soft_wrap=True)
        console.print("calibration is mean prediction / mean label", style="dim")
        for change in self.compared.changes:
            if change.part == ALL_LISTS:
                told = f"{change.name} against {change.against}: {change.bounds}"
                console.print(f"{_mark(change.complaint)} {told}", highlight=False, soft_wrap=True)
        if self.blessed:
            console.print("[green]blessed[/green]", highlight=False)
        elif self.withdrawn:
            console.print("[red]withdrawn[/red], though it was blessed", highlight=False)
        else:
            reasons = escape("; ".join(self.complaints))
            console.print(f"[red]not blessed[/red]: {reasons}", highlight=False, soft_wrap=True)
        console.print(_served(self.served), highlight=False, soft_wrap=True)


def _mark(complaint: str | None) -> str:
    """Whether something holds, marked up for rich."""
    return "[red]✗[/red]" if complaint else "[green]✓[/green]"


def _served(verdict: Verdict) -> str:
    """What the serving gate found, marked up for rich."""
    if not verdict.passed:
        return f"[red]not fit to be served[/red]: {escape('; '.join(verdict.reasons))}"
    return (
        f"[green]served[/green]: {verdict.requests} golden requests answered over gRPC, "
        f"{verdict.times()}"
    )


def read_summary(config: PipelineConfig) -> RunSummary:
    """Reads the newest run of a pipeline from its metadata and artifacts."""
    lineage = read_lineage(config)
    blessing = lineage.outputs[MODEL_GATE, "ModelBlessing"]
    served = lineage.outputs["ServingGate", "InfraBlessing"]
    pushed = lineage.outputs["Pusher", "PushedModel"]
    version = newly_pushed(config, pushed) if "Pusher" in lineage.worked else ""
    model = lineage.outputs["Trainer", "Model"]
    exported = Path(path_utils.serving_model_path(model.uri))
    return RunSummary(
        metrics=_metrics(lineage.outputs["Evaluator", "ModelEvaluation"].uri, config),
        compared=Comparison.load(Path(blessing.uri) / COMPARISON_FILE),
        blessed=blessing.custom_properties[BLESSED].int_value == 1,
        withdrawn=model.custom_properties[WITHDRAWN].int_value == 1,
        served=Verdict.load(Path(served.uri) / VERDICT_FILE),
        pushed=config.pushed / version if version else None,
        started_from=ModelCard.load(exported / CARD_FILE).started_from,
        lineage=lineage,
    )


def _metrics(evaluation: str, config: PipelineConfig) -> tuple[Metric, ...]:
    bounds = config.thresholds
    candidate = _Results(evaluation, CANDIDATE)
    baseline = _Results(evaluation, BASELINE)
    metrics = []
    for label, bound in zip(LABELS, (bounds.click_ndcg, bounds.conversion_ndcg), strict=True):
        metrics.append(
            Metric(
                f"{label} NDCG@{TOP_K}",
                candidate=candidate.value(SERVED, ndcg_name(label), TOP_K),
                baseline=baseline.find(SERVED, ndcg_name(label), TOP_K),
                initial=candidate.value(INITIAL, ndcg_name(label), TOP_K),
                lower_bound=bound,
            )
        )
    for output, bound in (
        (CLICK, bounds.click_auc),
        (CONVERSION, bounds.conversion_auc),
        (LIST_CLICK, bounds.list_click_auc),
        (LIST_CONVERSION, None),
    ):
        title = output.replace("_", " ")
        metrics.append(
            Metric(
                f"{title} AUC",
                candidate=candidate.value(output, "auc"),
                baseline=baseline.find(output, "auc"),
                lower_bound=bound,
            )
        )
        metrics.append(
            Metric(
                f"{title} calibration",
                candidate=candidate.value(output, "calibration"),
                baseline=baseline.find(output, "calibration"),
                lower_bound=1 / bounds.calibration,
                upper_bound=bounds.calibration,
            )
        )
    return tuple(metrics)


class _Results:
    """One model's metrics in an evaluation; without metrics where the model took no part."""

    def __init__(self, evaluation: str, model: str) -> None:
        self._by_output: Mapping = {}
        for name in (model, ""):  # a model evaluated alone has no name
            loaded = tfma.load_eval_result(evaluation, model_name=name)
            if loaded.slicing_metrics and (name or model == CANDIDATE):
                self._by_output = loaded.slicing_metrics[0][1]
                break

    def find(self, output: str, name: str, top_k: int | None = None) -> float | None:
        key = "" if top_k is None else f"topK:{top_k}"
        value = self._by_output.get(output, {}).get(key, {}).get(name)
        return None if value is None else float(value["doubleValue"])

    def value(self, output: str, name: str, top_k: int | None = None) -> float:
        found = self.find(output, name, top_k)
        return float("nan") if found is None else found
