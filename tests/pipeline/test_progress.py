"""What a person sees of a run: held to what TFX's local runner really logs."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from pathlib import Path

import pytest
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from one_stage import one_stage_pipeline
from rich.console import Console
from rich.table import Table
from tfx import v1 as tfx

from piano_tf.evaluation.tables import whole
from tfx_pipeline import progress, tfx_command
from tfx_pipeline.naming_runner import NamingRunner
from tfx_pipeline.progress import NEWS, StageLines


def lines_of(pipeline: tfx.dsl.Pipeline, folder: Path, capfd: pytest.CaptureFixture) -> list[str]:
    with progress.quiet(folder / "run.log"):
        NamingRunner().run(pipeline)
    return capfd.readouterr().out.splitlines()


def test_a_stage_that_is_taken_from_an_earlier_run_does_not_look_as_if_it_worked(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    pipeline = one_stage_pipeline(tmp_path)
    worked, again = (lines_of(pipeline, tmp_path, capfd) for _ in range(2))
    assert len(worked) == len(again) == 1
    assert re.fullmatch(r"  ✓ Counting {16} +\d+\.\d s", worked[0])
    assert again == [f"  ✓ {'Counting':<24}  from an earlier run"]


class Watch:
    """Lines of a run on a console of a fixed width, and a clock that stands still.

    Args:
      terminal: Whether the console is one.
      width: Of it.
    """

    def __init__(self, *, terminal: bool, width: int = 60) -> None:
        self._told = io.StringIO()
        # A terminal that shows no colours, so that what is said can be read.
        self.console = Console(
            file=self._told,
            force_terminal=terminal,
            width=width,
            soft_wrap=True,
            color_system=None,
            _environ={"TERM": "xterm"},
        )
        self.now = 0.0
        self.lines = StageLines(self.console, clock=lambda: self.now)

    def log(self, message: str, name: str = "absl") -> str:
        """What is written once something is logged."""
        before = self._told.tell()
        self.lines.handle(logging.LogRecord(name, logging.INFO, "", 0, message, None, None))
        return self._told.getvalue()[before:]


def test_on_a_terminal_a_long_stage_says_for_how_long_it_has_been_at_work() -> None:
    watch = Watch(terminal=True)
    began = watch.log("Component Transform is running.")
    assert f"  … {'Transform':<24}    0 s" in began
    watch.now = 125.4
    news = watch.log("half of it", name=NEWS.name)
    assert "    half of it\n" in news
    assert news.endswith(f"  … {'Transform':<24}  125 s"), "it goes on below the news"
    watch.now = 251.2
    ended = watch.log("Component Transform is finished.")
    assert f"\n  ✓ {'Transform':<24}  251.2 s\n" in re.sub(
        r"\x1b\[[^A-Za-z]*[A-Za-z]|\r", "\n", ended
    )
    assert "…" not in ended.rpartition("✓")[2]
    assert "\x1b[?25h" in began, "the cursor is there"


def test_a_narrow_terminal_has_one_line_of_what_is_at_work() -> None:
    watch = Watch(terminal=True, width=20)
    began = watch.log("Component latest_blessed_model is running.")
    assert "  … latest_blessed_…" in began
    watch.lines.close()


def test_what_is_no_terminal_gets_lines_alone() -> None:
    watch = Watch(terminal=False)
    watch.lines.start()
    assert watch.log("Component Transform is running.") == ""
    watch.now = 12.3
    assert watch.log("Component Transform is finished.") == f"  ✓ {'Transform':<24}   12.3 s\n"


def test_a_run_has_a_name_that_a_folder_may_have(tmp_path: Path) -> None:
    NamingRunner().run(one_stage_pipeline(tmp_path))
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(tmp_path / "metadata.sqlite")
    (run,) = metadata_store.MetadataStore(connection).get_contexts_by_type("pipeline_run")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}", run.name)


def test_of_the_tfx_command_a_person_sees_the_pipeline_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """By itself it says `CLI`, and what it is going to do, before the pipeline says anything."""
    (tmp_path / "piano").mkdir()
    runner = tmp_path / "runner.py"
    runner.write_text("print('of the pipeline')\n")
    arguments = json.dumps({"pipeline_dsl_path": str(runner)})
    (tmp_path / "piano" / "pipeline_args.json").write_text(arguments)
    monkeypatch.setenv("LOCAL_HOME", str(tmp_path))
    command = ["tfx", "run", "create", "--engine=local", "--pipeline_name=piano"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        tfx_command.main()
    assert ended.value.code == 0
    assert capfd.readouterr().out == "of the pipeline\n"


def test_no_line_of_the_summary_ends_in_blanks() -> None:
    table = Table("metric", "needs", title="On the test split", title_justify="left")
    table.add_row("click AUC", "")
    table.add_row("click NDCG@10", "[green]✓[/green] 0.5")
    console = Console(file=io.StringIO(), width=12)
    console.print(whole(table), soft_wrap=True)
    lines = console.file.getvalue().splitlines()
    assert any("click NDCG@10" in line and "✓ 0.5" in line for line in lines), "it is not wrapped"
    assert [line for line in lines if line != line.rstrip()] == []
