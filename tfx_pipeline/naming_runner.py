"""TFX's local runner, with an identity of each run that is a folder's name too."""

from __future__ import annotations

import datetime as dt

from tfx.dsl.compiler import constants
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.portable.runtime_parameter_utils import substitute_runtime_parameter
from tfx.proto.orchestration import pipeline_pb2


class NamingRunner(LocalDagRunner):
    """Calls a run by when it began, in UTC to the microsecond, without the colons of TFX's name."""

    def run_with_ir(
        self,
        pipeline: pipeline_pb2.Pipeline,
        run_options: pipeline_pb2.RunOptions | None = None,
    ) -> None:
        """Runs a compiled pipeline; where it has its name, TFX gives it no other."""
        began = dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H-%M-%S.%f")
        substitute_runtime_parameter(pipeline, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: began})
        super().run_with_ir(pipeline, run_options)
