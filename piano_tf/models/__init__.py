"""Re-rankers by name; a new one is a file here and a line in `REGISTRY`."""

from piano_tf.config import ModelConfig
from piano_tf.errors import ConfigError
from piano_tf.features import InputSpec
from piano_tf.models.base import Reranker, inference
from piano_tf.models.din import DIN
from piano_tf.models.dlcm import DLCM
from piano_tf.models.dnn import DNN
from piano_tf.models.esmm import ESMM
from piano_tf.models.first_stage import FirstStage
from piano_tf.models.lambdamart import LambdaMART
from piano_tf.models.mir import MIR
from piano_tf.models.mmoe import MMoE
from piano_tf.models.piano import PIANO
from piano_tf.models.ple import PLE
from piano_tf.models.prm import PRM
from piano_tf.models.rankformer import RankFormer
from piano_tf.models.setrank import SetRank

REGISTRY: dict[str, type[Reranker]] = {
    "piano": PIANO,
    "first_stage": FirstStage,
    "dnn": DNN,
    "din": DIN,
    "esmm": ESMM,
    "mmoe": MMoE,
    "ple": PLE,
    "dlcm": DLCM,
    "prm": PRM,
    "setrank": SetRank,
    "mir": MIR,
    "rankformer": RankFormer,
}

# Not Keras models: they have `fit_lists` in place of `compile` and `fit`, and are not exported.
TREES: dict[str, type[LambdaMART]] = {"lambdamart": LambdaMART}


_IN_INITIAL_ORDER = ("first_stage", "dlcm", "lambdamart")


def require_possible(config: ModelConfig) -> None:
    """Raises a `ConfigError` for a model that there is not, or that cannot be as configured."""
    if config.name not in (*REGISTRY, *TREES):
        known = ", ".join((*REGISTRY, *TREES))
        raise ConfigError(f"model.name: got {config.name!r}, expected one of {known}")
    if config.rank == "training" and config.name in _IN_INITIAL_ORDER:
        raise ConfigError(
            f"model.rank: got 'training', but {config.name!r} cannot do without the initial order "
            "when serving; expected 'always'"
        )


def build(inputs: InputSpec, config: ModelConfig | None = None) -> Reranker | LambdaMART:
    """A fresh re-ranker.

    Args:
      inputs: The inputs' columns and vocabularies.
      config: Its name and sizes.

    Raises:
      ConfigError: No model has that name, or it cannot leave the initial rank out when serving.
    """
    config = config or ModelConfig()
    require_possible(config)
    kinds: dict[str, type[Reranker] | type[LambdaMART]] = {**REGISTRY, **TREES}
    return kinds[config.name](inputs, config, name=config.name)


__all__ = [
    "DIN",
    "DLCM",
    "DNN",
    "ESMM",
    "MIR",
    "PIANO",
    "PLE",
    "PRM",
    "REGISTRY",
    "TREES",
    "FirstStage",
    "LambdaMART",
    "MMoE",
    "RankFormer",
    "Reranker",
    "SetRank",
    "build",
    "inference",
    "require_possible",
]
