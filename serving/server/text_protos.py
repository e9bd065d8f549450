"""Settings files in the real server's text format, read with the messages that they are of.

TensorFlow Serving's Python package lacks these two messages, so they are declared here, with the
names and numbers of `session_bundle_config.proto` and `ssl_config.proto`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, message_factory, text_format, wrappers_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from serving.server.errors import ServingError

_TYPES = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "int64": FieldDescriptorProto.TYPE_INT64,
}
_MESSAGES = {
    "BatchingParameters": (
        ("max_batch_size", "Int64Value"),
        ("batch_timeout_micros", "Int64Value"),
        ("max_enqueued_batches", "Int64Value"),
        ("num_batch_threads", "Int64Value"),
        ("thread_pool_name", "StringValue"),
        ("allowed_batch_sizes", "repeated int64"),
        ("pad_variable_length_inputs", "bool"),
    ),
    "SSLConfig": (
        ("server_key", "string"),
        ("server_cert", "string"),
        ("custom_ca", "string"),
        ("client_verify", "bool"),
    ),
}


def read(path: Path, message_name: str) -> Any:
    """Reads a settings file.

    Args:
      path: In protobuf's text format.
      message_name: `BatchingParameters` or `SSLConfig`.

    Raises:
      ServingError: It cannot be read, or is not of that message.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ServingError(f"{path} cannot be read: {error}") from error
    try:
        return text_format.Parse(text, _CLASSES[message_name]())
    except text_format.ParseError as error:
        raise ServingError(f"{path} is no {message_name} in text format: line {error}") from error


def _declare() -> dict[str, Any]:
    file = FileDescriptorProto(
        name="serving/text_protos.proto",
        package="piano.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind) in enumerate(fields, start=1):
            field = message.field.add(name=field_name, number=number)
            field.label = FieldDescriptorProto.LABEL_OPTIONAL
            if kind.startswith("repeated "):
                field.label = FieldDescriptorProto.LABEL_REPEATED
                kind = kind.removeprefix("repeated ")
            if kind in _TYPES:
                field.type = _TYPES[kind]
            else:
                field.type = FieldDescriptorProto.TYPE_MESSAGE
                field.type_name = f".google.protobuf.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    factory = message_factory.MessageFactory(pool)
    return {
        name: factory.GetPrototype(pool.FindMessageTypeByName(f"piano.serving.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _declare()
