"""What an experiment compares."""

from __future__ import annotations

from pathlib import Path

import pydantic

from piano_tf.config import Frozen, SelectionConfig, Weights
from piano_tf.evaluation.config import require_apart


class PolicyConfig(Frozen):
    """What decides on an order; without a model and a server it is the first stage.

    Attributes:
      model: Folder of one exported version, in the experiment's `models`.
      server: `host:port` of a server that has the model.
      weights: (a, b) of the score; those that the model was exported with unless given.
      selection: Chooses among several orders instead of sorting once.
      assigned: Whether the experiment assigns listeners to it; else it is compared in truth only.
    """

    model: str | None = None
    server: str | None = None
    weights: Weights | None = None
    selection: SelectionConfig | None = None
    assigned: bool = True

    @pydantic.model_validator(mode="after")
    def _is_possible(self) -> PolicyConfig:
        if self.model is not None and self.server is not None:
            raise ValueError("got a model and a server, expected one of the two")
        if self.weights is not None and self.selection is not None:
            raise ValueError("got weights and a selection, expected one of the two")
        if self.model is None and self.server is None and (self.weights or self.selection):
            raise ValueError("weights and a selection need a model or a server")
        return self


class ExperimentConfig(Frozen):
    """Policies that meet the listeners of a world in the days after its log.

    Attributes:
      world: JSON of the SimulationConfig whose log the models were trained on.
      models: Folder that policies' models are in.
      output: Folder of what comes out. All three are relative to this configuration's own file.
      policies: By name.
      control: The one that lifts are measured against.
      reference: One that every other is measured against as well, in truth; none unless given.
      days: How many of the days after the log; all of them unless given.
      salt: Of the hash that assigns listeners to policies; another salt, another assignment.
      seed: Of resampling.
      aa: Experiments of the control against itself, each with an assignment of its own, which show
        how often a difference is found where there is none.
    """

    world: str
    models: str = "."
    output: str
    policies: dict[str, PolicyConfig] = pydantic.Field(min_length=2)
    control: str
    reference: str | None = None
    days: int | None = pydantic.Field(default=None, ge=1)
    salt: str = "0"
    seed: int = pydantic.Field(default=0, ge=0)
    aa: int = pydantic.Field(default=200, ge=0)

    @pydantic.model_validator(mode="after")
    def _names_are_of_policies(self) -> ExperimentConfig:
        require_apart("policies", self.policies)
        names = ", ".join(self.policies)
        for field in ("control", "reference"):
            name = getattr(self, field)
            if name is not None and name not in self.policies:
                raise ValueError(f"{field}: got {name!r}, expected one of {names}")
        if not self.policies[self.control].assigned:
            raise ValueError(f"control: {self.control!r} is not assigned, expected one that is")
        if len(self.assigned) < 2:
            raise ValueError("policies: expected at least two that are assigned")
        return self

    @property
    def assigned(self) -> list[str]:
        """Policies of the experiment proper."""
        return [name for name, policy in self.policies.items() if policy.assigned]

    @classmethod
    def load(cls, path: str | Path) -> ExperimentConfig:
        """Reads a JSON file, and makes its paths those of its folder."""
        found = super().load(path)
        base = Path(path).parent
        paths = {name: str(base / getattr(found, name)) for name in ("world", "models", "output")}
        return found.model_copy(update=paths)
