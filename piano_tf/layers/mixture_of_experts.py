"""Expert networks that tasks share, and gates that choose among them."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from piano_tf.layers.dense import Dense


@tf.keras.utils.register_keras_serializable("piano_tf")
class MixtureOfExperts(tf.keras.layers.Layer):
    """A gated sum of experts for each task: customized gate control (PLE, RecSys 2020).

    Experts are relu(W x + b). Task k has `specific` experts over its own input x_k and sees the
    `shared` ones over x_s:

      y_k = sum_e softmax(G_k x_k)_e expert_e

    over its own and the shared experts; y_s, for a further level, over the experts of all tasks and
    the shared ones, by a gate on x_s. Without specific experts this is MMoE's layer (KDD 2018).

    Args:
      units: Width of every expert.
      tasks: K.
      shared: Experts that every task sees.
      specific: Experts of each task's own.
      shared_output: Whether there is a y_s.
    """

    def __init__(
        self,
        units: int,
        tasks: int,
        shared: int,
        specific: int = 0,
        shared_output: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.tasks = tasks
        self.shared = shared
        self.specific = specific
        self.shared_output = shared_output
        self.shared_experts = self._experts("shared", shared)
        self.task_experts = [self._experts(f"task_{k}", specific) for k in range(tasks)]
        self.task_gates = [
            Dense(specific + shared, "softmax", name=f"task_{k}_gate") for k in range(tasks)
        ]
        if shared_output:
            self.shared_gate = Dense(tasks * specific + shared, "softmax", name="shared_gate")

    def _experts(self, name: str, count: int) -> list[tf.keras.layers.Layer]:
        # A Dense each, with an initialiser of its own: experts that start equal stay equal.
        return [
            Dense(self.units, "relu", name=f"{name}_expert_{number}") for number in range(count)
        ]

    def call(
        self, of_tasks: Sequence[tf.Tensor], of_shared: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor | None]:
        """Mixes.

        Args:
          of_tasks: K tensors x_k [..., W].
          of_shared: x_s [..., W].

        Returns:
          K tensors y_k [..., units], and y_s [..., units] or None.
        """
        shared = [expert(of_shared) for expert in self.shared_experts]
        own = [
            [expert(x) for expert in experts]
            for experts, x in zip(self.task_experts, of_tasks, strict=True)
        ]
        mixed = [
            _mixture(gate(x), [*experts, *shared])
            for gate, x, experts in zip(self.task_gates, of_tasks, own, strict=True)
        ]
        if not self.shared_output:
            return mixed, None
        every = [expert for experts in own for expert in experts] + shared
        return mixed, _mixture(self.shared_gate(of_shared), every)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units,
            "tasks": self.tasks,
            "shared": self.shared,
            "specific": self.specific,
            "shared_output": self.shared_output,
        }


def _mixture(gate: tf.Tensor, experts: Sequence[tf.Tensor]) -> tf.Tensor:
    """[..., E] and E tensors [..., units] to [..., units]."""
    return tf.einsum("...e,...eu->...u", gate, tf.stack(experts, axis=-2))
