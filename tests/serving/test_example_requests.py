"""Lists as tf.Examples are held to what padded columns are held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from serving.server import Limits
from serving.server.errors import Refusal
from serving.server.servable import Servable
from serving.server.tf_examples import check_examples

INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
COLUMNS = {"query": 1, "item_id": 2, "item_year": 2, "history_item_id": 2, "history_age": 2}
LIMITS = Limits(lists=3, list_length=5, pairs=60, values=40)


def example(items: int = 3, history: int = 2, **columns: Any) -> bytes:
    """A list; a column may be replaced, or left out by None."""
    whole: dict[str, Any] = {
        "query": ["so what"],
        "item_id": ["i"] * items,
        "item_year": [1959.0] * items,
        "history_item_id": ["h"] * history,
        "history_age": [1.0] * history,
        **columns,
    }
    made = tf.train.Example()
    for name, values in whole.items():
        if values is None:
            continue
        feature = made.features.feature[name]
        if values and isinstance(values[0], str):
            feature.bytes_list.value.extend(value.encode() for value in values)
        else:
            feature.float_list.value.extend(values)
    return made.SerializeToString()


def refusal(*serialized: bytes, columns: dict[str, int] = COLUMNS) -> tuple[Any, str]:
    with pytest.raises(Refusal) as caught:
        check_examples(np.array(serialized, object), columns, LIMITS)
    return caught.value.code, str(caught.value)


def test_good_lists_pass() -> None:
    lists = [example(), example(items=4, history=0), example(history=1, stranger=["x"] * 99)]
    check_examples(np.array(lists, object), COLUMNS, LIMITS)


@pytest.mark.parametrize(
    ("lists", "code", "message"),
    [
        ([b"\xff\xff"], INVALID, "input examples holds no tf.Example at [0]"),
        ([example(), b"\x0c" + example()], INVALID, "input examples holds no tf.Example at [1]"),
        (
            [example(), example(item_year=[1959.0])],
            INVALID,
            "input examples [1]: column item_year has 1 values, expected 3 as item_id has",
        ),
        (
            [example(item_year=None)],
            INVALID,
            "input examples [0]: column item_year has 0 values, expected 3 as item_id has",
        ),
        (
            [example(history_item_id=["h"])],
            INVALID,
            "input examples [0]: column history_item_id has 1 values, expected 2 as history_age",
        ),
        (
            [example(item_year=[1.0, float("nan"), 2.0])],
            INVALID,
            "input examples [0]: column item_year holds nan at [1], expected finite numbers",
        ),
        ([example(items=6)], EXHAUSTED, "input item_id has lists of 6, expected at most 5"),
        ([example(history=6)], EXHAUSTED, "input history_age has lists of 6, expected at most 5"),
        ([example(items=5)] * 3, EXHAUSTED, "which makes 75 pairs"),
        ([example(items=4, history=4)] * 3, EXHAUSTED, "the inputs have 51 values"),
        ([example(items=0)], INVALID, "expected a list and a candidate or more"),
    ],
    ids=[
        *(
            "message",
            "end of a group",
            "short",
            "missing",
            "history",
            "nan",
            "long list",
            "long history",
            "pairs",
        ),
        *("values", "no candidate"),
    ],
)
def test_fault_is_named(lists: list[bytes], code: grpc.StatusCode, message: str) -> None:
    found, details = refusal(*lists)
    assert found == code
    assert message in details


def test_columns_of_a_model_that_has_no_other_signature() -> None:
    code, message = refusal(example(items=6), columns={})
    assert code == EXHAUSTED
    assert "column item_id has 6 values, expected at most 5" in message


@pytest.mark.parametrize(
    ("examples", "code", "message"),
    [
        ([example(items=1001)], INVALID, "column history_age has 2 values, expected 0 as"),
        ([b""] * 1001, EXHAUSTED, "input examples has 1001 lists, expected at most 1000"),
        ([], INVALID, "input examples has shape (0,), expected a list or more"),
    ],
    ids=["columns", "many", "none"],
)
def test_server_refuses_them(
    predictions: Any, examples: list[bytes], code: grpc.StatusCode, message: str
) -> None:
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "piano", "serve_examples"
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto(examples, tf.string))
    with pytest.raises(grpc.RpcError) as caught:
        predictions.Predict(request)
    assert caught.value.code() == code
    assert message in caught.value.details()


def test_signatures_that_are_not_held_to_lists_are_named_when_loaded(
    model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Servable(12, model_dir / "12").close()
    named = [line for line in caplog.messages if "are no columns of search lists" in line]
    assert [line.split("signature ")[1].split()[0] for line in named] == ["read_lexicon", "scale"]
