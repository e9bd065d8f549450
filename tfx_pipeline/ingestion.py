"""ExampleGen's executor: a log is checked whole before a single example is written."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tfx import types
from tfx.components.example_gen.custom_executors import parquet_executor
from tfx.proto import example_gen_pb2
from tfx.types import standard_component_specs
from tfx.utils import proto_utils

from piano_tf.data.logs import check_log, read_spec

CONTRACT = "contract"
"""Property of examples: a digest of the columns that they have."""


class CheckedParquetExecutor(parquet_executor.Executor):
    """TFX's own ParquetExecutor, behind the checks of `piano_tf.data.logs.check_log`."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Reads the three splits into tf.Examples.

        Raises:
          LogError: The log breaks the contract of `piano_tf.features`.
        """
        log = _log_of(exec_properties)
        check_log(log)
        super().Do(input_dict, output_dict, exec_properties)
        columns = read_spec(log).model_dump_json()
        (examples,) = output_dict[standard_component_specs.EXAMPLES_KEY]
        examples.set_string_custom_property(CONTRACT, hashlib.sha256(columns.encode()).hexdigest())


def _log_of(exec_properties: dict[str, Any]) -> Path:
    """The folder above the splits; by now the driver has put the day into their patterns."""
    asked = example_gen_pb2.Input()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.INPUT_CONFIG_KEY], asked)
    base = Path(exec_properties[standard_component_specs.INPUT_BASE_KEY])
    return base / Path(asked.splits[0].pattern).parent.parent
