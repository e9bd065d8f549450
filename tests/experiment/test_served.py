"""A policy's model says the same in this process and over gRPC."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from piano_tf.cli import piano
from piano_tf.errors import PianoError
from piano_tf.experiment.abtest import policy_of
from piano_tf.experiment.config import PolicyConfig, SelectionConfig
from piano_tf.experiment.policies import Request, Sorted
from piano_tf.experiment.served import exported, served
from piano_tf.experiment.traffic import past_of_the_log
from piano_tf.simulation import SimulationConfig, World
from piano_tf.simulation.logs import ListColumns
from piano_tf.simulation.searches import searches_of
from serving.server import ModelServer

SETTINGS = SimulationConfig.model_validate(
    {
        "lists": 300,
        "days": 10,
        "days_after": 2,
        "listeners": {"count": 20},
        "catalogue": {"tracks": 100, "artists": 20, "genres": 4},
        "first_stage": {"pool": 30},
    }
)
CONFIGS = {
    "model": """{
        "model": {"width": 8, "heads": 2, "blocks": 1, "rank": "training"},
        "training": {"epochs": 1, "debiasing": {}}
    }""",
    "ranked": """{
        "model": {"width": 8, "heads": 2, "blocks": 1, "rank": "always"},
        "training": {"epochs": 1}
    }""",
}


@pytest.fixture(scope="module")
def request_of_a_day() -> Request:
    world = World(SETTINGS)
    past, _ = past_of_the_log(world)
    searches = searches_of(world, 10)
    return Request(searches, past.of(searches), ListColumns(world))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model` knows ranks in training only, `ranked` when serving too."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "world.json").write_text(SETTINGS.model_dump_json())
    commands = [f"logs simulated --config {folder}/world.json --output {folder}/logs"]
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(config)
        made = f"--config {folder}/{name}.json --output {folder}/{name}/1 --seed 3"
        commands.append(f"train {folder}/logs {made}")
    for command in commands:
        result = CliRunner().invoke(piano, command.split())
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def address(models: Path) -> Iterator[str]:
    with ModelServer(models / "model", port=0) as server:
        yield server.address


def test_a_served_model_says_what_it_says_here(models: Path, address: str, request_of_a_day):
    here, there = exported(models / "model" / "1"), served(address, timeout_s=60)
    rows = request_of_a_day.rows()
    one, other = here(rows), there(rows)
    for field in dataclasses.fields(one):
        np.testing.assert_allclose(
            getattr(other, field.name), getattr(one, field.name), atol=1e-5, err_msg=field.name
        )
    for weights in (None, (1.0, 0.5)):
        orders = [Sorted(ask, weights).order(request_of_a_day) for ask in (here, there)]
        np.testing.assert_array_equal(*orders)


def test_who_sees_no_order_cannot_choose_among_orders(models: Path) -> None:
    policy = PolicyConfig(model="model/1", selection=SelectionConfig())
    with pytest.raises(PianoError, match=r"needs a model with model\.rank 'always'"):
        policy_of(policy, models)


def test_who_sees_order_chooses_the_list_of_which_it_expects_most(
    models: Path, request_of_a_day: Request
) -> None:
    selection = SelectionConfig()
    chosen = policy_of(PolicyConfig(model="ranked/1", selection=selection), models)
    predictor = exported(models / "ranked" / "1")
    orders = [Sorted(predictor, weights).order(request_of_a_day) for weights in selection.sweep]

    def value_of(order: np.ndarray) -> np.ndarray:
        said = predictor(request_of_a_day.rows(order))
        click, conversion = selection.value
        return click * said.list_click + conversion * said.list_conversion

    values = np.array([value_of(order) for order in orders])
    assert (np.ptp(values, axis=0) > 1e-5).any()  # it does tell orders apart
    shown = value_of(chosen.order(request_of_a_day))
    np.testing.assert_allclose(shown, values.max(axis=0), atol=1e-5)


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(PianoError, match=r"127\.0\.0\.1:1"):
        served("127.0.0.1:1", timeout_s=0.2)
