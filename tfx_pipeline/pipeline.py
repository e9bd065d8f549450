"""The stages, from a log to a pushed model, for any orchestrator."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

import tensorflow_data_validation as tfdv
from google.protobuf import any_pb2, wrappers_pb2
from tfx import v1 as tfx
from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2
from tfx.types import channel

import piano_tf
import tfx_pipeline
from piano_tf.data.logs import read_spec
from piano_tf.features import SPLITS, FeatureSpec
from tfx_pipeline import evaluator, trainer
from tfx_pipeline.configs import PIPELINE_NAME, PipelineConfig
from tfx_pipeline.gates.data import DataGate
from tfx_pipeline.gates.model import ModelGate
from tfx_pipeline.gates.serving import ServingGate
from tfx_pipeline.ingestion import CheckedParquetExecutor
from tfx_pipeline.lineage import LAST_MODEL, MODEL_GATE
from tfx_pipeline.origin import FIRST_DAY
from tfx_pipeline.pushing import OncePusher
from tfx_pipeline.resolvers import LastAccepted, LastBlessedModel, Window
from tfx_pipeline.schema import schema_file
from tfx_pipeline.transform import EncodingSpec

_TRAIN, _VALIDATION, _TEST = SPLITS
_EXAMPLE_GEN = "ExampleGen"
_DATA_GATE = "DataGate"
# Values of a column that statistics list with their counts: the gate compares items by these.
_TOP_VALUES = 1000


def create_pipeline(config: PipelineConfig, *, remembers: bool = True) -> tfx.dsl.Pipeline:
    """ExampleGen, statistics, schema, data gate, Transform, Trainer, Evaluator, gates, Pusher.

    Args:
      config: Of the run.
      remembers: Whether the orchestrator can run our own rules for what a run takes from earlier
        ones (`resolvers.py`), as the local one can. Without them data is held to no earlier data, a
        model is trained on one day, and the last blessed model is TFX's own idea of it.
    """
    features = read_spec(config.log)
    encoding = EncodingSpec(features=features, encoding=config.config.encoding)
    code = {trainer.CODE: _code_fingerprint()}
    settings = _settings_fingerprint(config, features, code[trainer.CODE])
    # ExampleGen's own fingerprint sees the Parquet files alone, and not what they are held to.
    contract = any_pb2.Any()
    contract.Pack(wrappers_pb2.StringValue(value=features.model_dump_json() + code[trainer.CODE]))

    # TFX finds the day's folder by itself, and marks the examples with the day.
    day = "" if config.day is None else "{YYYY}-{MM}-{DD}/"
    example_gen = FileBasedExampleGen(
        input_base=str(config.logs),
        input_config=tfx.proto.Input(
            splits=[
                tfx.proto.Input.Split(name=split, pattern=f"{day}{split}/*.parquet")
                for split in SPLITS
            ]
        ),
        range_config=None if config.day is None else _only(config.day),
        custom_config=example_gen_pb2.CustomConfig(custom_config=contract),
        custom_executor_spec=executor_spec.BeamExecutorSpec(CheckedParquetExecutor),
    ).with_id(_EXAMPLE_GEN)
    examples = example_gen.outputs["examples"]
    statistics_gen = tfx.components.StatisticsGen(
        examples=examples, stats_options=tfdv.StatsOptions(num_top_values=_TOP_VALUES)
    )
    statistics = statistics_gen.outputs["statistics"]
    schema_gen = tfx.components.ImportSchemaGen(
        schema_file=str(schema_file(features, config.schemas, config.own_schema))
    ).with_id("SchemaGen")
    schema = schema_gen.outputs["schema"]
    example_validator = tfx.components.ExampleValidator(statistics=statistics, schema=schema)
    earlier = _OwnRules(config, settings, examples) if remembers else _Plain(examples)
    data_gate = DataGate(
        examples=examples,
        statistics=statistics,
        schema=schema,
        anomalies=example_validator.outputs["anomalies"],
        baseline=earlier.accepted,
        logs=str(config.log),
        limits=config.thresholds.data.model_dump_json(),
        page=str(config.statistics_page),
    ).with_id(_DATA_GATE)
    transform = tfx.components.Transform(
        examples=earlier.window,
        schema=schema,
        preprocessing_fn="tfx_pipeline.transform.preprocessing_fn",
        splits_config=tfx.proto.SplitsConfig(
            analyze=[_TRAIN], transform=sorted({*trainer.splits(config), _VALIDATION})
        ),
        custom_config={**encoding.custom_config(), **code},
        # The next run's window shares most of its days with this one's, but a cache of analyses is
        # of the lists that it is made of; what it would save of the rest was not measured.
        disable_analyzer_cache=True,
        # Those of the raw columns are StatisticsGen's. Here they would be computed again, and those
        # of the encoded ones wait for the whole data in memory.
        disable_statistics=True,
    )
    transform.add_upstream_node(data_gate)
    model_trainer = tfx.components.Trainer(
        run_fn="tfx_pipeline.trainer.run_fn",
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema,
        base_model=earlier.start,
        train_args=tfx.proto.TrainArgs(splits=trainer.splits(config)),
        eval_args=tfx.proto.EvalArgs(splits=[_VALIDATION]),
        custom_config={**trainer.custom_config(config, features, earlier.no_start), **code},
    )
    model_evaluator = tfx.components.Evaluator(
        examples=examples,
        model=model_trainer.outputs["model"],
        baseline_model=earlier.model,
        example_splits=[_TEST],
        eval_config=evaluator.eval_config(config.thresholds),
        schema=schema,
        module_path="tfx_pipeline.evaluator",
    )
    model_gate = ModelGate(
        model=model_trainer.outputs["model"],
        baseline=earlier.model,
        evaluated=model_evaluator.outputs["blessing"],
        logs=str(config.log),
        limits=config.thresholds.model_dump_json(),
        **code,
    ).with_id(MODEL_GATE)
    serving_gate = ServingGate(
        model=model_trainer.outputs["model"],
        examples=examples,
        logs=str(config.log),
        limits=config.thresholds.serving.model_dump_json(),
        later=earlier.later,
        settings=settings,
        **code,
    ).with_id("ServingGate")
    serving_gate.add_upstream_node(model_gate)
    pusher = tfx.components.Pusher(
        model=model_trainer.outputs["model"],
        model_blessing=model_gate.outputs["blessing"],
        infra_blessing=serving_gate.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=str(config.pushed))
        ),
        custom_executor_spec=executor_spec.ExecutorClassSpec(OncePusher),
    )
    return tfx.dsl.Pipeline(
        pipeline_name=PIPELINE_NAME,
        pipeline_root=str(config.artifacts),
        components=[
            example_gen,
            statistics_gen,
            schema_gen,
            example_validator,
            *earlier.nodes,
            data_gate,
            transform,
            model_trainer,
            model_evaluator,
            model_gate,
            serving_gate,
            pusher,
        ],
        enable_cache=config.cache,
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
            str(config.metadata)
        ),
        beam_pipeline_args=config.beam_options,
    )


_ACCEPTED = tfx.dsl.Channel(
    type=tfx.types.standard_artifacts.ExampleStatistics, producer_component_id=_DATA_GATE
)
# Evaluator's blessings are of the same type, and not the last word.
_MODELS = {
    "model": tfx.dsl.Channel(type=tfx.types.standard_artifacts.Model),
    "model_blessing": tfx.dsl.Channel(
        type=tfx.types.standard_artifacts.ModelBlessing, producer_component_id=MODEL_GATE
    ),
}


class _OwnRules:
    """What a run takes from earlier ones, by the rules of `resolvers.py`.

    Attributes:
      accepted: The statistics to hold this run's to.
      window: The examples to train on.
      model: The model to hold this run's to.
      start: The model to start from, if one is wanted: of a day before, so that a day's model does
        not depend on what else was tried on that day.
      no_start: Why training starts from none, where there is none.
      later: The blessing of a model of a later day, which this run's may not replace.
      nodes: That find them.
    """

    def __init__(
        self, config: PipelineConfig, settings: str, examples: tfx.types.BaseChannel
    ) -> None:
        last_accepted = tfx.dsl.Resolver(
            strategy_class=LastAccepted, examples=examples, accepted=_ACCEPTED
        ).with_id("last_accepted_data")
        window = tfx.dsl.Resolver(
            strategy_class=Window,
            config={"days": config.window},
            now=examples,
            examples=tfx.dsl.Channel(
                type=tfx.types.standard_artifacts.Examples, producer_component_id=_EXAMPLE_GEN
            ),
            accepted=_ACCEPTED,
        ).with_id("window")
        last_model = _last_blessed(examples, settings=settings).with_id(LAST_MODEL)
        self.nodes = [last_accepted, window, last_model]
        self.start = None
        if config.day is None:
            self.no_start = "the log is not divided into days"
        elif not config.warm_start:
            self.no_start = "it was asked for"
        else:
            self.no_start = "no model of an earlier day is blessed"
            start = _last_blessed(examples).with_id("model_to_start_from")
            self.start = start.outputs["model"]
            self.nodes.append(start)
        self.accepted = last_accepted.outputs["accepted"]
        # A union keeps its order, and what a resolver finds does not: this run's are the last.
        self.window = channel.union([window.outputs["examples"], examples])
        self.model = last_model.outputs["model"]
        self.later = last_model.outputs["infra_blessing"]


def _last_blessed(examples: tfx.types.BaseChannel, **config: str) -> tfx.dsl.Resolver:
    """Of `LastBlessedModel`, with its arguments."""
    return tfx.dsl.Resolver(
        strategy_class=LastBlessedModel,
        config=config,
        examples=examples,
        **_MODELS,
        infra_blessing=tfx.dsl.Channel(type=tfx.types.standard_artifacts.InfraBlessing),
    )


class _Plain:
    """The same with TFX's own rules alone."""

    def __init__(self, examples: tfx.types.BaseChannel) -> None:
        last_model = tfx.dsl.Resolver(
            strategy_class=tfx.dsl.experimental.LatestBlessedModelStrategy, **_MODELS
        ).with_id(LAST_MODEL)
        self.accepted = self.later = self.start = None
        self.no_start = "this orchestrator starts from no earlier model"
        self.window = examples
        self.model = last_model.outputs["model"]
        self.nodes = [last_model]


def _only(day: dt.date) -> tfx.proto.RangeConfig:
    """The one day to read, as a number of days since 1970."""
    span = (day - FIRST_DAY).days
    static = tfx.proto.StaticRange(start_span_number=span, end_span_number=span)
    return tfx.proto.RangeConfig(static_range=static)


def _settings_fingerprint(config: PipelineConfig, features: FeatureSpec, code: str) -> str:
    """Of all that a model is made by, but for the examples."""
    chosen = (config.config.model_dump_json(), features.model_dump_json(), code)
    how = (config.window, config.warm_start)
    return hashlib.sha256(repr((chosen, how)).encode()).hexdigest()[:16]


def _code_fingerprint() -> str:
    """Of our own source: TFX does not see edits of functions that are named by their module."""
    digest = hashlib.sha256()
    for package in (piano_tf, tfx_pipeline):
        for folder in package.__path__:
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
