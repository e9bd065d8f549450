"""Frozen, typed configuration: a key that nobody reads is an error that names it.

>>> Config.model_validate({"model": {"width": 64}}).model.width
64
>>> ScoreConfig.from_json('{"clicks": 2}')
Traceback (most recent call last):
...
piano_tf.errors.ConfigError: clicks: got 2; expected one of click, conversion
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import pydantic

from piano_tf.errors import ConfigError

_Frozen = TypeVar("_Frozen", bound="Frozen")


class Frozen(pydantic.BaseModel):
    """Base of everything configured: immutable, typed, no unknown keys, exact as JSON."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_json(cls: type[_Frozen], text: str | bytes) -> _Frozen:
        """Reads JSON text.

        Raises:
          ConfigError: One sentence that names the key, the value and what was expected.
        """
        try:
            return cls.model_validate_json(text)
        except pydantic.ValidationError as error:
            raise ConfigError(_first_fault(cls, error)) from error

    @classmethod
    def load(cls: type[_Frozen], path: str | Path) -> _Frozen:
        """Reads a JSON file.

        Raises:
          ConfigError: The file is missing or does not hold this configuration.
        """
        try:
            return cls.from_json(Path(path).read_bytes())
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: no such file; expected JSON of {cls.__name__}") from error
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


def _first_fault(config: type[Frozen], error: pydantic.ValidationError) -> str:
    faults = error.errors()
    # A key that nobody knows first: what is missing may be what it was meant to be.
    fault = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
    key = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")  # pydantic's, before what ours say
    message = message[0].lower() + message[1:]
    if not key:
        return message
    if fault["type"] == "missing":
        return f"{key}: missing"
    if fault["type"] == "extra_forbidden":
        message = f"expected one of {', '.join(_keys(config, fault['loc'][:-1]))}"
    return f"{key}: got {fault['input']!r}; {message}"


def _keys(config: type[Frozen], place: tuple[int | str, ...]) -> list[str]:
    """What may stand at a place of a configuration, whose parts are keys of models and of maps."""
    for part in place:
        if field := config.model_fields.get(str(part)):
            config = next(_models_in(field.annotation), config)
    return list(config.model_fields)


def _models_in(annotation: Any) -> Iterator[type[Frozen]]:
    """The configurations in a type like `dict[str, X] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


class TableConfig(Frozen):
    """How the strings of one vocabulary become ids, and ids vectors.

    Attributes:
      buckets: Ids are hashes of the strings into so many, and nothing is counted; strings that
        share a bucket are one to the model. Null numbers the strings of a vocabulary.
      compositional: Whether vectors are made of two small tables
        (`piano_tf.layers.CompositionalEmbedding`), for more ids than memory holds vectors of.
    """

    buckets: int | None = pydantic.Field(default=None, ge=1, lt=2**62)
    compositional: bool = False


# A mapping name -> table in JSON and in constructors; pairs inside, so that it stays immutable.
_Tables = Annotated[
    tuple[tuple[str, TableConfig], ...],
    pydantic.BeforeValidator(
        lambda value: tuple(value.items()) if isinstance(value, Mapping) else value
    ),
    pydantic.PlainSerializer(dict, return_type=dict[str, TableConfig]),
]


class EncodingConfig(Frozen):
    """How raw columns become numbers, the same in Keras, in Transform and in the exported model.

    Attributes:
      query_length: Tokens kept of a query: words and characters first, then pairs of characters.
      history_length: Entries kept of a listener's history, from the newest.
      vocabulary_size: Values kept per vocabulary, the most frequent first; None keeps all.
      oov_buckets: Hash buckets per vocabulary that share the values never seen in training.
      tables: Name of a vocabulary (`item_id`, `user_id`, `query` for words, `item_<name>`) -> how
        it is kept, where that is not the default.
    """

    query_length: int = pydantic.Field(default=8, ge=1)
    history_length: int = pydantic.Field(default=50, ge=1)
    vocabulary_size: int | None = pydantic.Field(default=None, ge=1)
    oov_buckets: int = pydantic.Field(default=8, ge=1)
    tables: _Tables = ()

    def table(self, name: str) -> TableConfig:
        """How a vocabulary is kept."""
        return dict(self.tables).get(name, TableConfig())

    def rows(self, name: str, vocabulary: int) -> int:
        """Ids of a table, padding (0) included.

        >>> encoding = EncodingConfig(tables={"item_id": {"buckets": 1000}})
        >>> encoding.rows("user_id", vocabulary=5), encoding.rows("item_id", vocabulary=0)
        (14, 1001)
        """
        return 1 + (self.table(name).buckets or vocabulary + self.oov_buckets)


class PretrainingConfig(Frozen):
    """Vectors learnt from past interactions before the re-ranker (`piano_tf.pretraining`) [ours].

    Attributes:
      method: `factorisation` (truncated SVD) or `two_tower` (TensorFlow Recommenders).
      width: P, the width of the vectors.
      folds: Groups of listeners; each group's vectors are learnt from the others' interactions.
      epochs: Of `two_tower`: passes over the interactions.
      batch_size: Of `two_tower`: interactions per step, each the others' negatives.
      learning_rate: Of `two_tower`: Adagrad's step size.
      temperature: Of `two_tower`: what the cosines of the two towers are divided by.
    """

    method: Literal["factorisation", "two_tower"] = "factorisation"
    width: int = pydantic.Field(default=32, ge=1)
    folds: int = pydantic.Field(default=5, ge=2)
    epochs: int = pydantic.Field(default=8, ge=1)
    batch_size: int = pydantic.Field(default=1024, ge=2)
    learning_rate: float = pydantic.Field(default=0.1, gt=0.0)
    temperature: float = pydantic.Field(default=0.2, gt=0.0)


class PIANOConfig(Frozen):
    """The parts of PIANO, each a switch and each an ablation.

    Known of the paper are attention over past queries that refines the profile, and a list token
    that predicts the list's rates and conditions the items; every other part is ours.

    What is off gave nothing beyond noise on any log that we have, on validation or test
    (docs/results.md). That does not say it gives nothing on yours.

    Attributes:
      keys: What QDIR compares with the present query: past queries; past items instead, as models
        without queries would; or nothing, which leaves QDIR and its further passes out.
      null_slot: Whether a listener may attend to nothing.
      gate: Whether a gate decides how much of what was found refines the profile.
      action_age: Whether keys know what was done, and how long ago.
      interest_match: Whether QDIR also attends among pre-trained vectors, and each candidate is
        compared with what it finds there; not without keys or pre-trained vectors.
      second_pass: Whether each candidate attends to past queries and items too; not without keys.
      exact_match: Whether equal queries and equal items count for themselves, beyond being alike.
      token: Whether IAN's token reads the list; without it items count as independent.
      personal_token: Whether the token starts from the refined interest. The paper's does; on
        Last.fm it then predicts a list's clicks worse, and it reads the interest in every item.
      list_residual: Whether the token says how the list differs from independent items, and not
        all that is to be said of it.
      conditioning: How IAN's token conditions the items: `film`, `concat` or `none`.
    """

    keys: Literal["query", "item", "none"] = "query"
    null_slot: bool = False
    gate: bool = False
    action_age: bool = True
    interest_match: bool = True
    second_pass: bool = False
    exact_match: bool = False
    token: bool = True
    personal_token: bool = False
    list_residual: bool = True
    conditioning: Literal["film", "concat", "none"] = "film"


class TreesConfig(Frozen):
    """LambdaMART's trees, by LightGBM's names.

    Attributes:
      learning_rate: What each tree's values are multiplied by.
      num_leaves: Most leaves of a tree.
      min_data_in_leaf: Fewest items in a leaf.
      feature_fraction: Share of features that a tree may use.
    """

    learning_rate: float = pydantic.Field(default=0.05, gt=0.0)
    num_leaves: int = pydantic.Field(default=31, ge=2)
    min_data_in_leaf: int = pydantic.Field(default=50, ge=1)
    feature_fraction: float = pydantic.Field(default=0.7, gt=0.0, le=1.0)


class ModelConfig(Frozen):
    """Which re-ranker, its inputs and its size.

    Attributes:
      name: A name in `piano_tf.models.REGISTRY`.
      width: D, the width of every vector inside the model.
      heads: Attention heads; must divide `width`.
      blocks: L, self-attention blocks over the list.
      experts: Expert networks of a mixture, per task and shared.
      dropout: Share of units dropped in training.
      max_rank: Initial ranks from this one on share one position embedding.
      rank: Whether the initial rank is known `always`, or in `training` only: when serving, every
        candidate is then taken to be at the top, so that what the rank says of examination is
        switched off (H. Guo et al., PAL, RecSys 2019, has a network of its own for it). Not for
        models that read candidates in their initial order.
      ids: Whether users, items and words have trained vectors of their own, beside pre-trained
        ones. Where a log is small they learn it by heart.
      match: Whether inputs say how candidates match the history (`layers.MatchFeatures`).
      match_queries: Whether those compare past queries with the present one. They do it by a fixed
        rule where QDIR learns one [ours], and every model has them; without, a rival knows of the
        past what its paper does, items alone.
      pretraining: The pre-trained vectors; None for a model without.
      piano: The parts of PIANO.
      trees: Of LambdaMART.
    """

    name: str = "piano"
    width: int = pydantic.Field(default=32, ge=1)
    heads: int = pydantic.Field(default=4, ge=1)
    blocks: int = pydantic.Field(default=2, ge=1)
    experts: int = pydantic.Field(default=3, ge=1)
    dropout: float = pydantic.Field(default=0.1, ge=0.0, lt=1.0)
    max_rank: int = pydantic.Field(default=200, ge=1)
    rank: Literal["always", "training"] = "always"
    ids: bool = False
    match: bool = True
    match_queries: bool = True
    pretraining: PretrainingConfig | None = PretrainingConfig()
    piano: PIANOConfig = PIANOConfig()
    trees: TreesConfig = TreesConfig()

    @pydantic.model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    @pydantic.model_validator(mode="after")
    def _queries_have_vectors(self) -> ModelConfig:
        if not self.ids and self.pretraining is None:
            raise ValueError("ids false and pretraining null would leave queries without a vector")
        return self


class LossConfig(Frozen):
    """Weights of `piano_tf.losses.RerankingLoss` (the mix is ours; see its docstring).

    Attributes:
      listwise: Name of a TF-Ranking loss, for example `softmax_loss` or `approx_ndcg_loss`.
      conversion: w_v, weight of the listwise loss on conversion; that on click weighs 1.
      calibration: w_c, weight of the two per-item cross-entropies.
      list_level: w_l, weight of the two list-level cross-entropies.
      consistency: w_k, weight of the squared difference between P(list click) and 1 - prod(1 - p).
      list_target: `any` (at least one in the list) or `rate` (share of the shown items). Reports
        hold the list's outputs against `any` alone.
    """

    listwise: str = "softmax_loss"
    conversion: float = pydantic.Field(default=1.0, ge=0.0)
    calibration: float = pydantic.Field(default=1.0, ge=0.0)
    list_level: float = pydantic.Field(default=0.5, ge=0.0)
    consistency: float = pydantic.Field(default=0.0, ge=0.0)
    list_target: Literal["any", "rate"] = "any"

    @pydantic.model_validator(mode="after")
    def _consistency_is_of_any(self) -> LossConfig:
        if self.consistency and self.list_target == "rate":
            raise ValueError(
                "consistency says what P(any) is, and list_target 'rate' is not that; expected 0"
            )
        return self


class DebiasingConfig(Frozen):
    """Clicks weighted by how unlikely their rank was to be examined (`piano_tf.propensity`).

    Attributes:
      randomised: A column and its value in lists that were shown in random order, from which
        examination is estimated; null estimates it from pairs of query and item that moved.
      depth: Ranks from this one on share one propensity.
      clip: The least propensity to divide by.
    """

    randomised: tuple[str, str] | None = ("context_slice", "randomised")
    depth: int = pydantic.Field(default=20, ge=1)
    clip: float = pydantic.Field(default=0.1, gt=0.0, le=1.0)


class TrainingConfig(Frozen):
    """How long and how fast to learn.

    Attributes:
      batch_size: Lists per step.
      epochs: Most passes over the training split.
      learning_rate: Adam's step size at the start; it falls to 0 along half a cosine, epoch by
        epoch, over `epochs`.
      patience: Epochs without a better validation NDCG@10 before training stops.
      debiasing: Whether the listwise loss weights clicks by inverse propensity, and whence; null
        takes them as they are. Only for logs of lists that were really shown in their order.
      mixed_precision: Whether layers compute in half precision, and in which; weights, losses and
        outputs stay in float32, and float16's losses are scaled. Null computes in float32.
      xla: Whether steps are compiled by XLA, anew for each shape of a batch. One replica alone.
      cache: Whether the pipeline keeps the training lists in memory, as they are on disk but not
        compressed, from one epoch to the next: files are then read in the same order in each, and
        only the buffer shuffles. `piano train` keeps encoded ones in a file anyway.
      checkpoint_steps: Steps between checkpoints, where a folder for them is given.
      seed: Of initialisation, shuffling and dropout.
    """

    batch_size: int = pydantic.Field(default=128, ge=1)
    epochs: int = pydantic.Field(default=10, ge=1)
    learning_rate: float = pydantic.Field(default=3e-3, ge=0.0)
    patience: int = pydantic.Field(default=2, ge=1)
    debiasing: DebiasingConfig | None = None
    mixed_precision: Literal["mixed_bfloat16", "mixed_float16"] | None = None
    xla: bool = False
    cache: bool = False
    checkpoint_steps: int = pydantic.Field(default=500, ge=1)
    seed: int = pydantic.Field(default=0, ge=0, lt=2**32)


class ScoreConfig(Frozen):
    """The ranking score a * log p(click) + b * log p(conversion | click).

    Attributes:
      click: a.
      conversion: b.
    """

    click: float = 1.0
    conversion: float = 1.0


Weights = tuple[float, float]


class SelectionConfig(Frozen):
    """Choosing among several orders by what a model expects of each as a list [ours].

    Attributes:
      sweep: The orders: (a, b) of a log p(click) + b log p(conversion | click).
      value: (A, B) of A P(any click) + B P(any conversion), by which one is chosen.
    """

    sweep: tuple[Weights, ...] = pydantic.Field(
        min_length=1, default=((1.0, 0.0), (1.0, 0.25), (1.0, 0.5), (1.0, 1.0), (1.0, 2.0))
    )
    value: Weights = (1.0, 1.0)


class Config(Frozen):
    """Everything that shapes a trained re-ranker, beside its log."""

    encoding: EncodingConfig = EncodingConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()

    @pydantic.model_validator(mode="after")
    def _pretrained_tables_fit(self) -> Config:
        for name in ("item_id", "query"):
            if self.encoding.table(name).compositional and self.model.pretraining is not None:
                raise ValueError(
                    f"encoding.tables.{name} is compositional, and pre-trained vectors are full "
                    "tables; expected model.pretraining null"
                )
        return self
