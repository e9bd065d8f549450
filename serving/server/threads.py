"""How many threads TensorFlow computes with, in a process that serves.

TensorFlow makes its threads once a process, for the first session or operation, and all versions
of a model share them: what the configuration of a later session says of them is without effect.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from serving.server.errors import ServingError


@dataclasses.dataclass(frozen=True)
class Threads:
    """TensorFlow's threads, of the whole process; 0 leaves a number to TensorFlow.

    Attributes:
      intra_op: That share the work of one operation. The operations of a model of lists are so
        small that sharing them costs more than it gains while callers run side by side.
      inter_op: That operations which do not need each other are run on.

    Raises:
      ServingError: A number is below 0.
    """

    intra_op: int = 1
    inter_op: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise ServingError(
                    f"threads: {field.name} is {getattr(self, field.name)}, expected 0 or more"
                )

    def start(self) -> None:
        """Has TensorFlow make these threads, and no others until the process ends.

        Raises:
          ServingError: It has made others before.
        """
        try:
            tf.config.threading.set_intra_op_parallelism_threads(self.intra_op)
            tf.config.threading.set_inter_op_parallelism_threads(self.inter_op)
        except RuntimeError as error:
            raise ServingError(
                f"TensorFlow cannot have {self} any more: it was used before in this process"
            ) from error
        # Makes the device, and with it the threads.
        tf.config.list_logical_devices()
