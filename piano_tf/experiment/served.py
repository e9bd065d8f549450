"""Models that policies ask: exported ones in this process, or whatever a server has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from piano_tf.data.batches import padded
from piano_tf.errors import PianoError
from piano_tf.evaluation.predictions import Predictions
from piano_tf.evaluation.served import load_exported
from piano_tf.experiment.policies import Predictor


def exported(model_dir: Path) -> Predictor:
    """The signature `serving_default` of an exported model, in this process.

    Raises:
      PianoError: The folder holds no such model.
    """
    answer, features = load_exported(model_dir)

    def predict(rows: pa.RecordBatch) -> Predictions:
        return answer(padded(rows, features, labels=False))

    return predict


def served(address: str, timeout_s: float = 30.0) -> Predictor:
    """A model on a server, over gRPC.

    Raises:
      PianoError: The server cannot be reached, or does not take these lists.
    """
    from serving.client import RequestError, RerankClient, RerankError, SearchList

    client = RerankClient(address, timeout_s=timeout_s)
    try:
        client.wait_until_available(timeout_s)
    except RerankError as error:
        raise PianoError(str(error)) from error

    def predict(rows: pa.RecordBatch) -> Predictions:
        lists = [SearchList.from_columns(row) for row in rows.to_pylist()]
        try:
            answers = client.rerank_batch(lists)
        except (RequestError, RerankError) as error:
            raise PianoError(str(error)) from error
        width = max(len(answer.item_id) for answer in answers)

        def dense(name: str) -> np.ndarray:
            found = np.zeros((len(answers), width), np.float32)
            for row, answer in enumerate(answers):
                values = getattr(answer, name)
                found[row, : len(values)] = values
            return found

        of_lists = {
            name: np.array([getattr(answer, name) for answer in answers], np.float32)
            for name in ("list_click", "list_conversion")
        }
        return Predictions(
            **{name: dense(name) for name in ("score", "click", "conversion")}, **of_lists
        )

    return predict
