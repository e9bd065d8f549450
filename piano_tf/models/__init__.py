"""Re-rankers by name; a new one is a file here and a line in `REGISTRY`."""

from piano_tf.config import ModelConfig
from piano_tf.errors import ConfigError
from piano_tf.features import InputSpec
from piano_tf.models.base import Reranker
from piano_tf.models.piano import PIANO
from piano_tf.models.prm import PRM

REGISTRY: dict[str, type[Reranker]] = {"piano": PIANO, "prm": PRM}


def build(inputs: InputSpec, config: ModelConfig | None = None) -> Reranker:
    """A fresh re-ranker.

    Args:
      inputs: The inputs' columns and vocabularies.
      config: Its name and sizes.

    Raises:
      ConfigError: No model has that name.
    """
    config = config or ModelConfig()
    if config.name not in REGISTRY:
        raise ConfigError(f"model.name: got {config.name!r}, expected one of {', '.join(REGISTRY)}")
    return REGISTRY[config.name](inputs, config, name=config.name)


__all__ = ["PIANO", "PRM", "REGISTRY", "Reranker", "build"]
