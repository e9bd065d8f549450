"""ExampleGen's executor: a log is checked whole before a single example is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx import types
from tfx.components.example_gen.custom_executors import parquet_executor
from tfx.types import standard_component_specs

from piano_tf.data.logs import check_log


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
        check_log(Path(exec_properties[standard_component_specs.INPUT_BASE_KEY]))
        super().Do(input_dict, output_dict, exec_properties)
