"""Who trains together, as the environment says it; without TensorFlow, which is slow to import."""

from __future__ import annotations

import json
from collections.abc import Mapping

from piano_tf.errors import ConfigError

VARIABLE = "TF_CONFIG"


def workers(environment: Mapping[str, str]) -> list[str]:
    """Addresses of all that train together, chief first; none where TF_CONFIG says nothing.

    >>> workers({"TF_CONFIG": '{"cluster": {"chief": ["a:1"], "worker": ["b:1"], "ps": ["c:1"]}}'})
    ['a:1', 'b:1']
    >>> workers({})
    []

    Raises:
      ConfigError: TF_CONFIG is not what TensorFlow expects.
    """
    text = environment.get(VARIABLE) or "{}"
    try:
        cluster = json.loads(text).get("cluster", {})
        return [*cluster.get("chief", []), *cluster.get("worker", [])]
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"environment variable {VARIABLE}: got {text!r}, expected JSON with a 'cluster' of "
            "'chief' and 'worker' addresses"
        ) from error
