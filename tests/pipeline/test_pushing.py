"""Pusher: a model is pushed once and whole, and recorded, whatever an earlier run left."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest import mock

import pytest
from push_alone import model_at, push
from tfx.utils import io_utils

from tfx_pipeline.pushing import newest_version, same_files


def saved(folder: Path, weights: str) -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_text("graph")
    (folder / "variables" / "data").write_text(weights)
    return folder


def test_the_same_model_is_known_by_its_content(tmp_path: Path) -> None:
    model = saved(tmp_path / "trained", "1")
    same, other = saved(tmp_path / "same", "1"), saved(tmp_path / "other", "2")
    os.utime(same / "variables" / "data", (0, 0))
    assert same_files(model, same)
    assert not same_files(model, other)
    (same / "assets").write_text("")
    assert not same_files(model, same)


def test_a_model_is_pushed_once(tmp_path: Path) -> None:
    """However often the pipeline runs; another model is pushed beside it."""
    pushed = tmp_path / "pushed"
    first, other = (saved(tmp_path / name / "Format-Serving", name) for name in ("one", "two"))
    pushed.mkdir()
    (pushed / ".99.half").mkdir()  # of a run that was killed
    found = [push(model_at(folder.parent), pushed) for folder in (first, first, other, other)]
    one, again, two, _ = (record.get_string_custom_property("pushed_version") for record in found)
    assert one == again
    assert int(two) > int(one), "within a second, too"
    assert sorted(path.name for path in pushed.iterdir()) == [one, two]
    assert same_files(pushed / two, other)


def test_a_version_that_no_run_lived_to_record_is_recorded(tmp_path: Path) -> None:
    """As it would have been: the same properties, and the model beside them."""
    pushed = tmp_path / "pushed"
    model = saved(tmp_path / "model" / "Format-Serving", "1")
    saved(pushed / "1700000000", "1")  # and there the run was killed
    record = push(model_at(model.parent), pushed)
    assert [path.name for path in pushed.iterdir()] == ["1700000000"]
    assert record.get_int_custom_property("pushed") == 1
    assert record.get_string_custom_property("pushed_version") == "1700000000"
    assert record.get_string_custom_property("pushed_destination") == str(pushed / "1700000000")
    assert same_files(Path(record.uri), model)

    (pushed / "1700000000" / "variables" / "data").write_text("2")
    other = push(model_at(model.parent), pushed).get_string_custom_property("pushed_version")
    assert int(other) > 1700000000, "what is there is another model"
    assert push(model_at(model.parent), pushed, blessed=0).get_int_custom_property("pushed") == 0


def test_a_record_that_finds_no_room_leaves_what_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = tmp_path / "pushed"
    saved(pushed / "9", "the last")
    model = model_at(saved(tmp_path / "model" / "Format-Serving", "1").parent)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as failing:
        failing.setattr(io_utils, "copy_dir", mock.Mock(side_effect=full))
        with pytest.raises(OSError, match="No space left"):
            push(model, pushed)
    assert [path.name for path in pushed.iterdir()] == ["9"]
    saved(tmp_path / "record", "half of it")
    record = push(model, pushed)
    assert same_files(Path(record.uri), tmp_path / "model" / "Format-Serving")
    assert len(list(pushed.iterdir())) == 2


def test_the_newest_version_is_the_highest_that_is_whole(tmp_path: Path) -> None:
    assert newest_version(tmp_path / "pushed") is None
    saved(tmp_path / "pushed" / "9", "1")
    newest = saved(tmp_path / "pushed" / "10", "2")
    (tmp_path / "pushed" / "11").mkdir()
    (tmp_path / "pushed" / ".10.tmp").mkdir()
    assert newest_version(tmp_path / "pushed") == newest
