"""What a person sees of a run: held to what TFX's local runner really logs."""

from __future__ import annotations

import io
import json
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
