"""Hits of a search engine through the client; the JSON is after the engines' documentation."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from stub_server import StubServer

from serving.client import RerankClient
from serving.server import ModelServer

ROOT = Path(__file__).parents[2]
FOUND = json.loads(Path(__file__).with_name("search_hits.json").read_text())


def load_example() -> Any:
    path = ROOT / "examples" / "search_hits.py"
    spec = importlib.util.spec_from_file_location("search_hits", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["search_hits"] = module
    spec.loader.exec_module(module)
    return module


example = load_example()
FIELDS = {
    "item_artist": example.Field("artist.name", missing=""),
    "item_popularity": example.Field("popularity", missing=0.0),
}
ASKED = example.Asked(
    query="so what",
    user_id="ada",
    timestamp=1_700_000_000,
    history={
        "history_query": ["art blakey"],
        "history_item_id": ["free-for-all"],
        "history_action": ["conversion"],
        "history_age": [0.0],
        "history_item_artist": ["blakey"],
    },
    features={"user_country": "IT"},
)
IDS = ["kind-of-blue", "bags-groove", "moanin", "untitled"]


def ids(found: Any) -> list[str]:
    return [hit["_id"] for hit in found["hits"]["hits"]]


def test_hits_become_a_list() -> None:
    columns = example.search_list_of(FOUND, ASKED, FIELDS).columns()
    assert columns["item_id"] == IDS
    assert columns["initial_score"] == [9.31, 4.2, 4.1, 0.7]
    assert columns["item_artist"] == ["davis", "davis", "blakey", ""]
    assert columns["item_popularity"] == [91.0, 0.0, 70.5, 0.0]
    assert columns["history_item_artist"] == ["blakey"]
    assert (columns["user_country"], columns["timestamp"]) == ("IT", 1_700_000_000)


@pytest.mark.parametrize(
    ("held", "value"),
    [
        *(("70.5", 70.5), ("n/a", -1.0), ({"week": 3}, -1.0), (10**400, -1.0), ("NaN", -1.0)),
        *((1e39, -1.0), (-1e39, -1.0), (3e38, 3e38)),
    ],
    ids=[
        *("text of a number", "text", "object", "too large", "no number"),
        *("beyond float32", "below float32", "of float32"),
    ],
)
def test_a_document_with_an_odd_number(held: Any, value: float) -> None:
    found = copy.deepcopy(FOUND)
    found["hits"]["hits"][1]["_source"]["popularity"] = held
    fields = {"item_popularity": example.Field("popularity", missing=-1.0)}
    columns = example.search_list_of(found, ASKED, fields).columns()
    assert columns["item_popularity"] == [91.0, value, 70.5, -1.0]


def test_a_search_sorted_by_a_field_has_no_scores() -> None:
    found = copy.deepcopy(FOUND)
    for hit in found["hits"]["hits"]:
        hit["_score"] = None
    columns = example.search_list_of(found, ASKED, FIELDS).columns()
    assert columns["initial_score"] == [0.0] * 4
    without = example.search_list_of(found, ASKED, FIELDS, scores=False).columns()
    assert "initial_score" not in without


@pytest.mark.parametrize(
    ("held", "value"),
    [(12, "12"), ([], "none"), (["davis", "evans"], "davis"), ("\ud83c", "none")],
    ids=["number", "empty", "several", "half a surrogate pair"],
)
def test_a_document_with_odd_text(held: Any, value: str) -> None:
    found = copy.deepcopy(FOUND)
    found["hits"]["hits"][1]["_source"]["artist"] = {"name": held}
    fields = {"item_artist": example.Field("artist.name", missing="none")}
    columns = example.search_list_of(found, ASKED, fields).columns()
    assert columns["item_artist"] == ["davis", value, "blakey", "none"]


@pytest.mark.parametrize("score", [None, float("nan"), float("inf"), 1e39, "high", ...])
def test_a_hit_with_an_odd_score(client: RerankClient, score: Any) -> None:
    """Of one hit alone, which then goes last; ... is a hit without any."""
    found = copy.deepcopy(FOUND)
    first = found["hits"]["hits"][0]
    first["_score"] = score
    if score is ...:
        del first["_score"]
    columns = example.search_list_of(found, ASKED, FIELDS).columns()
    assert columns["initial_score"] == [0.0, 4.2, 4.1, 0.7]
    page, reason = example.rerank_hits(client, found, ASKED, FIELDS)
    assert reason is None
    assert ids(page) == ["moanin", "bags-groove", "untitled", "kind-of-blue"]


def test_a_document_with_an_odd_number_does_not_cost_the_page(client: RerankClient) -> None:
    found = copy.deepcopy(FOUND)
    found["hits"]["hits"][1]["_source"]["popularity"] = 1e39
    page, reason = example.rerank_hits(client, found, ASKED, FIELDS)
    assert reason is None
    assert ids(page) == ["kind-of-blue", "moanin", "bags-groove", "untitled"]


def test_a_model_that_takes_more_leaves_the_page(server: ModelServer) -> None:
    fields = {"item_artist": FIELDS["item_artist"]}
    with RerankClient(server.address, timeout_s=60, first_stage_on_request_error=True) as client:
        page, reason = example.rerank_hits(client, FOUND, ASKED, fields)
    assert page == FOUND
    assert reason.code == "INVALID_ARGUMENT"
    assert "item_popularity" in reason.message


def test_the_model_orders_them(client: RerankClient) -> None:
    """One past track by an artist adds 1 to the score, which is enough to pass the second hit."""
    before = copy.deepcopy(FOUND)
    page, reason = example.rerank_hits(client, FOUND, ASKED, FIELDS)
    assert reason is None
    assert ids(page) == ["kind-of-blue", "moanin", "bags-groove", "untitled"]
    assert page["hits"]["hits"][0] == FOUND["hits"]["hits"][0]
    assert {**page, "hits": None} == {**FOUND, "hits": None}
    assert page["hits"]["total"] == FOUND["hits"]["total"]
    assert before == FOUND


def test_without_a_model_they_stay() -> None:
    with StubServer().running() as stub:
        address = stub.address
    with RerankClient(address, timeout_s=60) as client:
        page, reason = example.rerank_hits(client, FOUND, ASKED, FIELDS)
    assert page == FOUND
    assert reason.code == "UNAVAILABLE"


@pytest.mark.parametrize("timeout_s", [None, 1.0])
def test_no_hits_no_call(timeout_s: float | None) -> None:
    nothing = {**FOUND, "hits": {**FOUND["hits"], "hits": []}}
    page, reason = example.rerank_hits(None, nothing, ASKED, FIELDS, timeout_s=timeout_s)
    assert (page, reason) == (nothing, None)
