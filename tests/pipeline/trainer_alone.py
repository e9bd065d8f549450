"""The pipeline's `run_fn`, called as Trainer calls it, in a process of its own.

Without the other stages: it trains on what Transform made in an earlier run. Run as
`python trainer_alone.py ARGUMENTS`, a JSON file of TFX's `FnArgs`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from piano_tf.config import Config
from piano_tf.data.logs import read_spec
from piano_tf.export import CARD_FILE
from tfx_pipeline import trainer
from tfx_pipeline.configs import PipelineConfig
from tfx_pipeline.lineage import read_lineage


class Training:
    """A training that was begun.

    Args:
      run: Whose transformed examples to train on, by whose configuration.
      folder: Of its checkpoints; several workers share it.
      output: Its own, for its model.
      config: Instead of the run's.
      earlier: The model to start from.
      cluster: TF_CONFIG.
    """

    def __init__(
        self,
        run: PipelineConfig,
        folder: Path,
        output: Path,
        *,
        config: Config | None = None,
        earlier: Path | None = None,
        cluster: dict | None = None,
    ) -> None:
        made = read_lineage(run).outputs
        examples = Path(made["Transform", "Examples"].uri)
        # Of several days TFX numbers the folders, in order.
        several = examples.parent.name.isdigit()
        days = sorted(examples.parent.iterdir()) if several else [examples]
        chosen = run.model_copy(update={"home": folder, "config": config or run.config})
        self.model = output / "model"
        arguments = {
            "train_files": [
                str(day / f"Split-{one}" / "*") for one in trainer.splits(run) for day in days
            ],
            "eval_files": [str(day / "Split-validation" / "*") for day in days],
            "transform_output": made["Transform", "TransformGraph"].uri,
            "serving_model_dir": str(self.model),
            "model_run_dir": str(output / "tensorboard"),
            "base_model": str(earlier) if earlier is not None else None,
            "custom_config": {
                **trainer.custom_config(chosen, read_spec(run.log), "it is alone"),
                trainer.CODE: "as it is",
            },
        }
        output.mkdir(parents=True)
        file = output / "arguments.json"
        file.write_text(json.dumps(arguments))
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if cluster is not None:
            environment["TF_CONFIG"] = json.dumps(cluster)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(file)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self) -> str:
        """Waits for its end; returns what it said."""
        said, _ = self._process.communicate()
        assert self._process.returncode == 0, said
        return said


def assert_same_models(left: Path, right: Path, *, tolerance: float = 0.0) -> None:
    """Two exported models have the same card and the same variables."""
    cards = [json.loads((one / CARD_FILE).read_text()) for one in (left, right)]
    assert cards[0] == cards[1]
    readers = [tf.train.load_checkpoint(str(one / "variables/variables")) for one in (left, right)]
    names = readers[0].get_variable_to_shape_map()
    assert names == readers[1].get_variable_to_shape_map()
    assert len(names) > 10
    for name in names:
        values = [np.asarray(one.get_tensor(name)) for one in readers]
        if values[0].dtype.kind == "f":
            np.testing.assert_allclose(*values, rtol=tolerance, atol=tolerance, err_msg=name)
        else:
            np.testing.assert_array_equal(*values, err_msg=name)


def main() -> None:
    from tfx.components.trainer.fn_args_utils import FnArgs

    trainer.run_fn(FnArgs(**json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
