"""TensorFlow Serving's messages, as much of them as the client sends and reads.

The generated modules of `tensorflow_serving.apis` import TensorFlow, which takes seconds and
hundreds of megabytes. These messages have the same names, field numbers and types and need only
protobuf. They live in a descriptor pool of their own, so that a process may import TensorFlow
beside them. `tests/serving/test_messages.py` holds every field against the real messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    # Enumerations too: their numbers travel in the same way, also those that nobody knows yet.
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
}

# Package -> message -> field -> number and type; [] repeats, {} is a map from text, and a type with
# a dot is a message. A choice of fields (oneof) is "oneof" -> its fields.
_SCHEMA: dict[str, dict[str, dict[str, Any]]] = {
    "tensorflow": {
        "TensorShapeProto.Dim": {"size": (1, "int64"), "name": (2, "string")},
        "TensorShapeProto": {
            "dim": (2, "[].tensorflow.TensorShapeProto.Dim"),
            "unknown_rank": (3, "bool"),
        },
        "TensorProto": {
            "dtype": (1, "int32"),
            "tensor_shape": (2, ".tensorflow.TensorShapeProto"),
            "tensor_content": (4, "bytes"),
            "float_val": (5, "[]float"),
            "double_val": (6, "[]double"),
            "int_val": (7, "[]int32"),
            "string_val": (8, "[]bytes"),
            "int64_val": (10, "[]int64"),
        },
        "TensorInfo": {
            "oneof": {"encoding": {"name": (1, "string")}},
            "dtype": (2, "int32"),
            "tensor_shape": (3, ".tensorflow.TensorShapeProto"),
        },
        "SignatureDef": {
            "inputs": (1, "{}.tensorflow.TensorInfo"),
            "outputs": (2, "{}.tensorflow.TensorInfo"),
            "method_name": (3, "string"),
        },
    },
    "tensorflow.serving": {
        "ModelSpec": {
            "name": (1, "string"),
            "oneof": {
                "version_choice": {
                    "version": (2, ".google.protobuf.Int64Value"),
                    "version_label": (4, "string"),
                }
            },
            "signature_name": (3, "string"),
        },
        "PredictRequest": {
            "model_spec": (1, ".tensorflow.serving.ModelSpec"),
            "inputs": (2, "{}.tensorflow.TensorProto"),
            "output_filter": (3, "[]string"),
        },
        "PredictResponse": {
            "outputs": (1, "{}.tensorflow.TensorProto"),
            "model_spec": (2, ".tensorflow.serving.ModelSpec"),
        },
        "SignatureDefMap": {"signature_def": (1, "{}.tensorflow.SignatureDef")},
        "GetModelMetadataRequest": {
            "model_spec": (1, ".tensorflow.serving.ModelSpec"),
            "metadata_field": (2, "[]string"),
        },
        "GetModelMetadataResponse": {
            "model_spec": (1, ".tensorflow.serving.ModelSpec"),
            "metadata": (2, "{}.google.protobuf.Any"),
        },
        "GetModelStatusRequest": {"model_spec": (1, ".tensorflow.serving.ModelSpec")},
        "ModelVersionStatus": {"version": (1, "int64"), "state": (2, "int32")},
        "GetModelStatusResponse": {
            "model_version_status": (1, "[].tensorflow.serving.ModelVersionStatus")
        },
    },
}
# Of ModelVersionStatus.state: loaded, and on its way to that.
AVAILABLE = 30
COMING = frozenset({10, 20})


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    dependencies = []
    for module in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        dependencies.append(module.DESCRIPTOR.name)
    for package, messages in _SCHEMA.items():
        file = descriptor_pb2.FileDescriptorProto(
            name=f"piano/{package}.proto", package=package, syntax="proto3", dependency=dependencies
        )
        dependencies = [*dependencies, file.name]
        made: dict[str, Any] = {}
        # An outer message before what it contains.
        for name, fields in sorted(messages.items(), key=lambda each: each[0].count(".")):
            outer, _, inner = name.rpartition(".")
            made[name] = (made[outer].nested_type if outer else file.message_type).add(name=inner)
            _add_fields(made[name], f".{package}.{name}", fields)
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add_fields(message: Any, full_name: str, fields: dict[str, Any]) -> None:
    for name, number_and_type in fields.items():
        if name == "oneof":
            for choice, members in number_and_type.items():
                message.oneof_decl.add(name=choice)
                for member, (number, kind) in members.items():
                    field = _typed(message.field.add(name=member, number=number), kind)
                    field.oneof_index = len(message.oneof_decl) - 1
            continue
        number, kind = number_and_type
        field = message.field.add(name=name, number=number)
        if kind.startswith("{}"):
            entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
            entry.options.map_entry = True
            _typed(entry.field.add(name="key", number=1), "string")
            _typed(entry.field.add(name="value", number=2), kind[2:])
            _typed(field, f"[]{full_name}.{entry.name}")
        else:
            _typed(field, kind)


def _typed(field: Any, kind: str) -> Any:
    repeated, kind = kind.startswith("[]"), kind.removeprefix("[]")
    field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    if kind.startswith("."):
        field.type, field.type_name = _Field.TYPE_MESSAGE, kind
    else:
        field.type = _TYPES[kind]
    return field


def _classes(names: Sequence[str]) -> list[Any]:
    descriptors = [POOL.FindMessageTypeByName(name) for name in names]
    # Newer protobufs have a function in place of the factory.
    if hasattr(message_factory, "GetMessageClass"):
        return [message_factory.GetMessageClass(descriptor) for descriptor in descriptors]
    return [*map(message_factory.MessageFactory(POOL).GetPrototype, descriptors)]


POOL = _pool()
(
    TensorProto,
    SignatureDefMap,
    PredictRequest,
    PredictResponse,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
) = _classes(
    [
        "tensorflow.TensorProto",
        "tensorflow.serving.SignatureDefMap",
        "tensorflow.serving.PredictRequest",
        "tensorflow.serving.PredictResponse",
        "tensorflow.serving.GetModelMetadataRequest",
        "tensorflow.serving.GetModelMetadataResponse",
        "tensorflow.serving.GetModelStatusRequest",
        "tensorflow.serving.GetModelStatusResponse",
    ]
)

# Method -> its path and what answers it.
METHODS = {
    "Predict": ("/tensorflow.serving.PredictionService/Predict", PredictResponse),
    "GetModelMetadata": (
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        GetModelMetadataResponse,
    ),
    "GetModelStatus": ("/tensorflow.serving.ModelService/GetModelStatus", GetModelStatusResponse),
}
