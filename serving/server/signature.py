"""A signature as requests are held to it, read from its message once.

Reading it for every request would cost as much as the rest of the checks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from serving.server.list_signatures import EXPLAIN, is_about_lists, of_fixed_width, passes
from serving.server.tensors import Kind
from serving.server.tf_examples import is_about_examples


@dataclasses.dataclass(frozen=True, eq=False)
class Signature:
    """What a request to it may hold, and how it may be run.

    Attributes:
      name: As requests name it.
      inputs: Input name -> what is expected of the tensor.
      defaults: Of inputs that may be left out.
      outputs: Output name -> its type.
      input_tensors: Input name -> name of the tensor in the graph.
      output_tensors: The same of the outputs.
      is_about_lists: Whether its tensors are the columns of search lists.
      is_about_examples: Whether it takes serialized tf.Examples.
      explains: Whether each run is many of the model, one for each candidate.
      passes: How often a run that does not explain goes through the model.
      of_fixed_width: Names of outputs with so many values per list, however long the lists are.
    """

    name: str
    inputs: Mapping[str, Kind]
    defaults: Mapping[str, TensorProto]
    outputs: Mapping[str, int]
    input_tensors: Mapping[str, str]
    output_tensors: Mapping[str, str]
    is_about_lists: bool
    is_about_examples: bool
    explains: bool
    passes: int
    of_fixed_width: frozenset[str]

    @classmethod
    def read(cls, name: str, message: SignatureDef) -> Signature:
        """Reads the signature of that name."""
        about_lists = is_about_lists(message)
        return cls(
            name=name,
            inputs={key: Kind.of(info) for key, info in message.inputs.items()},
            defaults=dict(message.defaults),
            outputs={key: info.dtype for key, info in message.outputs.items()},
            input_tensors={key: info.name for key, info in message.inputs.items()},
            output_tensors={key: info.name for key, info in message.outputs.items()},
            is_about_lists=about_lists,
            is_about_examples=is_about_examples(message),
            explains=about_lists and name == EXPLAIN,
            passes=passes(name, message),
            of_fixed_width=of_fixed_width(message),
        )
