"""What a run is asked for is checked before it begins, and given to those who need it."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from pipeline_run import piano
from tiny_training import clusters

from piano_tf.errors import ConfigError
from tfx_pipeline.configs import PipelineConfig, environment
from tfx_pipeline.local_runner import run
from tfx_pipeline.pipeline import create_pipeline


def test_what_a_run_is_asked_for_is_checked_before_it_begins(tmp_path: Path) -> None:
    for name in ("2026-07-01", "2026-07-03", "2026-07-02", "notes"):
        (tmp_path / "days" / name).mkdir(parents=True)
    asked = environment(logs=tmp_path / "days", home=tmp_path / "run")
    chosen = PipelineConfig.from_environment(asked)
    assert (chosen.day, chosen.window, chosen.warm_start) == (dt.date(2026, 7, 3), 7, True)
    assert chosen.log == tmp_path / "days" / "2026-07-03"
    more = {"PIANO_DAY": "2026-07-02", "PIANO_WINDOW": "2", "PIANO_WARM_START": "0"}
    more["PIANO_BEAM_ARGS"] = "--direct_num_workers=2 '--job_name=lists of today'"
    chosen = PipelineConfig.from_environment(asked | more)
    assert chosen.beam_args == ("--direct_num_workers=2", "--job_name=lists of today")
    assert chosen.beam_options == [*chosen.beam_args, "--sdk_container_image=none"]
    for given, more in (
        ("--runner=FlinkRunner", []),
        ("--runner=DirectRunner", ["--sdk_container_image=none"]),
        ("--sdk_container_image=ours", []),
    ):
        options = PipelineConfig.from_environment(asked | {"PIANO_BEAM_ARGS": given}).beam_options
        assert options == [given, *more]
    assert (chosen.day, chosen.window, chosen.warm_start) == (dt.date(2026, 7, 2), 2, False)
    for name, value, sentence in (
        ("PIANO_DAY", "2026-07-04", "has no such day; expected one of the 3 from 2026-07-01 to "),
        ("PIANO_DAY", "2024-02-30", "day 2024-02-30: \\S+ has no such day; expected one of the 3 "),
        ("PIANO_WINDOW", "0", "got '0', expected a number of days, at least 1"),
        ("PIANO_WARM_START", "yes", "got 'yes', expected 1 or 0"),
        ("PIANO_BEAM_ARGS", "--job_name='of", "expected options separated by spaces, quoted"),
        ("PIANO_SCHEMA", "gone.pbtxt", "schema gone.pbtxt: cannot be read"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            PipelineConfig.from_environment(asked | {name: value})

    done = piano("pipeline", "--logs", tmp_path / "days", "--home", tmp_path / "run", "--day", "30")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: day 30: {tmp_path / 'days'} has no such day; expected one of the 3 from "
        "2026-07-01 to 2026-07-03\n"
    )

    one_log = environment(logs=tmp_path / "days" / "notes", home=tmp_path / "run")
    assert PipelineConfig.from_environment(one_log).day is None
    with pytest.raises(ConfigError, match="is no folder of days"):
        PipelineConfig.from_environment(one_log | {"PIANO_DAY": "2026-07-01"})


def test_beam_is_given_what_a_run_asks_for(log_dir: Path, tmp_path: Path) -> None:
    asked = "--direct_num_workers=3"
    config = PipelineConfig(logs=log_dir, home=tmp_path / "home", beam_args=(asked,))
    assert create_pipeline(config).beam_pipeline_args == config.beam_options
    assert asked in config.beam_options


def test_no_run_is_one_worker_of_several(
    log_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for the others in Trainer, where the stages before come from an earlier run."""
    first, _ = clusters(2)
    monkeypatch.setenv("TF_CONFIG", json.dumps(first))
    config = PipelineConfig(logs=log_dir, home=tmp_path / "home")
    with pytest.raises(ConfigError, match="TF_CONFIG: names 2 workers, expected one, for all stag"):
        run(config)
    assert not config.home.exists()
