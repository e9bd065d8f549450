"""What a run takes from earlier ones: never of itself, of later days, or of what was refused."""

from __future__ import annotations

from tfx import types
from tfx.types import standard_artifacts

from tfx_pipeline.gates.blessing import BLESSED, MODEL_ID
from tfx_pipeline.ingestion import CONTRACT
from tfx_pipeline.origin import span_of, stamp
from tfx_pipeline.resolvers import LastAccepted, LastBlessedModel, Window

SETTINGS = "as always"


def made(kind: type[types.Artifact], number: int) -> types.Artifact:
    artifact = kind()
    artifact.id = number
    return artifact


def examples(number: int, span: int, contract: str = "columns") -> types.Artifact:
    found = made(standard_artifacts.Examples, number)
    found.set_int_custom_property("span", span)
    found.set_string_custom_property(CONTRACT, contract)
    return found


def accepted(number: int, of: types.Artifact) -> types.Artifact:
    found = made(standard_artifacts.ExampleStatistics, number)
    stamp(found, of)
    return found


def ids(found: list[types.Artifact]) -> list[int]:
    return [one.id for one in found]


# --- data ---


def window(days: int, now: types.Artifact, before: list[types.Artifact], *refused: int) -> list:
    passed = [accepted(100 + one.id, one) for one in before if one.id not in refused]
    found = Window(days).resolve_artifacts(
        None, {"now": [now], "examples": [*before, now], "accepted": passed}
    )
    assert found["now"] == found["accepted"] == []
    return ids(found["examples"])


def test_a_window_is_of_the_days_before_in_order() -> None:
    days = [examples(5, 13), examples(3, 12), examples(2, 11), examples(1, 10)]
    now = examples(6, 14)
    assert window(1, now, days) == []
    assert window(3, now, days) == [3, 5]
    assert window(9, now, days) == [1, 2, 3, 5]
    assert window(3, now, []) == [], "the first run"


def test_a_window_leaves_out_what_was_refused_and_what_has_other_columns() -> None:
    days = [examples(1, 10), examples(2, 11), examples(3, 12, contract="other columns")]
    assert window(9, examples(6, 14), days, 2) == [1]


def test_a_day_that_was_read_again_counts_once_and_no_later_day_counts() -> None:
    days = [examples(1, 10), examples(2, 11), examples(4, 11), examples(5, 12)]
    assert window(9, examples(6, 12), days) == [1, 4], "its own day is this run's"
    assert window(9, examples(7, 11), days) == [1], "a run of an earlier day"
    assert window(9, examples(6, 12), days, 4) == [1, 2], "the one that passed"


def last_accepted(now: types.Artifact, *before: types.Artifact) -> list[int]:
    found = LastAccepted().resolve_artifacts(None, {"examples": [now], "accepted": [*before]})
    assert found["examples"] == []
    return ids(found["accepted"])


def test_data_is_held_to_the_day_before_and_never_to_itself() -> None:
    first, second, third = (examples(number, 9 + number) for number in (1, 2, 3))
    assert last_accepted(first) == []
    assert last_accepted(second, accepted(11, first)) == [11]
    again = accepted(11, first), accepted(12, second)
    assert last_accepted(second, *again) == [11], "started again"
    assert last_accepted(third, *again) == [12]
    assert last_accepted(first, *again) == [], "a later day is no measure of an earlier"
    late = accepted(13, examples(4, 10))
    assert last_accepted(third, *again, late) == [12], "the day and not the run is the last"
    assert last_accepted(examples(5, 11), *again) == [11], "the same day, read again"


# --- models ---


def last_model(now: types.Artifact, *models: tuple, settings: str = SETTINGS) -> list[int]:
    """Each of (id, its examples, blessed, fit, settings)."""
    found = {"examples": [now], "model": [], "model_blessing": [], "infra_blessing": []}
    for number, of, blessed, fit, how in models:
        found["model"].append(made(standard_artifacts.Model, number))
        for kind, name, says in (
            (standard_artifacts.ModelBlessing, "model_blessing", blessed),
            (standard_artifacts.InfraBlessing, "infra_blessing", fit),
        ):
            blessing = made(kind, 100 + number)
            blessing.set_int_custom_property(MODEL_ID, number)
            blessing.set_int_custom_property(BLESSED, says)
            stamp(blessing, of, how)
            found[name].append(blessing)
    resolved = LastBlessedModel(settings).resolve_artifacts(None, found)
    assert resolved.keys() == found.keys()
    assert resolved["examples"] == resolved["model_blessing"] == []
    later = [
        n for n, of, blessed, fit, _ in models if blessed and fit and span_of(of) > span_of(now)
    ]
    said = [one.get_int_custom_property(MODEL_ID) for one in resolved["infra_blessing"]]
    assert said == later[-1:]
    return ids(resolved["model"])


def test_the_last_model_was_blessed_and_fit_to_be_served() -> None:
    first, second, third, now = (examples(number, 9 + number) for number in (1, 2, 3, 4))
    assert last_model(now) == []
    one, two = (11, first, 1, 1, SETTINGS), (12, second, 1, 1, SETTINGS)
    assert last_model(now, one, two) == [12]
    assert last_model(now, one, (12, second, 0, 1, SETTINGS)) == [11], "not blessed"
    assert last_model(now, one, (12, second, 1, 0, SETTINGS)) == [11], "not fit"
    assert last_model(third, one, (14, now, 1, 1, SETTINGS)) == [11], "of a later day"
    late = (15, first, 1, 1, SETTINGS)
    assert last_model(now, two, late) == [12], "the day and not the run is the last"
    assert last_model(examples(5, 11), one, two) == [11], "the same day, read again"


def test_a_run_that_is_started_again_does_not_meet_its_own_model() -> None:
    first, now = examples(1, 10), examples(2, 11)
    before, own = (11, first, 1, 1, SETTINGS), (12, now, 1, 1, SETTINGS)
    assert last_model(now, before, own) == [11]
    assert last_model(now, own) == []
    assert last_model(now, before, own, settings="another width") == [12], "made otherwise"
    assert last_model(now, before, own, settings=None) == [11], "to start from"


def test_a_log_without_days_meets_earlier_logs() -> None:
    log, other = examples(1, 0), examples(2, 0)
    assert last_model(other, (11, log, 1, 1, SETTINGS)) == [11]
    assert last_accepted(other, accepted(11, log)) == [11]
    assert window(7, other, [log]) == [], "and is no day after them"
    day = examples(3, 10)
    assert last_model(day, (11, log, 1, 1, SETTINGS)) == []
    assert last_accepted(day, accepted(11, log)) == []
