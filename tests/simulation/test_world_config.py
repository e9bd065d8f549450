"""Worlds that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from piano_tf.errors import ConfigError
from piano_tf.simulation import SimulationConfig

WORLDS = Path(__file__).parents[2] / "worlds"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"singers": 3}', "singers: got 3"),
        ('{"listeners": {"number": 3}}', "listeners.number: got 3"),
        ('{"first_stage": {"pool": 20}}', "first_stage.longest_list 30 is more than first_stage"),
        ('{"queries": {"navigational": 0.6, "ambiguous": 0.6}}', "sum to more than 1"),
        ('{"days": 1, "lists": 86401}', "more than one a second"),
    ],
)
def test_an_impossible_world_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SimulationConfig.from_json(text)


def test_a_control_differs_from_the_main_world_in_its_cause_alone() -> None:
    main = SimulationConfig.load(WORLDS / "main.json")
    assert main.lists == 60_000
    plain = {"stop_after_click", "stop_after_conversion", "abandonment", "contrast"}
    plain |= {"click_tiring", "conversion_tiring"}
    causes = {
        "no-ambiguity": {"queries": {"ambiguous": 0.0}},
        "no-list-effects": {"behaviour": dict.fromkeys(plain, 0.0)},
        "fast-drift": {"listeners": {"change": 0.33}, "queries": {"meaning_change": 0.33}},
    }
    causes["neither"] = causes["no-ambiguity"] | causes["no-list-effects"]
    assert {file.stem for file in WORLDS.glob("*.json")} == {"main", *causes}
    for name, cause in causes.items():
        expected = main.model_dump()
        for part, fields in cause.items():
            assert all(expected[part][field] != value for field, value in fields.items())
            expected[part] |= fields
        assert SimulationConfig.load(WORLDS / f"{name}.json").model_dump() == expected, name
