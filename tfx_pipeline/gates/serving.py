"""The serving gate: a model is pushed only if the real server process answers with it.

TFX's own InfraValidator does as much with containers. This one needs none, and tells Pusher in the
same way: by an `InfraBlessing`.
"""

# Without `from __future__ import annotations`: TFX reads a component's annotations as objects.

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from piano_tf.config import Frozen
from serving.client import RequestError, RerankClient, RerankError, SearchList
from tfx_pipeline.configs import ServingLimits
from tfx_pipeline.gates.blessing import bless, model_of
from tfx_pipeline.gates.golden import Golden, faults, golden_requests, padding_faults
from tfx_pipeline.gates.server import ServerError, served
from tfx_pipeline.origin import stamp

VERDICT_FILE = "verdict.json"


class Verdict(Frozen):
    """What came of asking a served model; written beside the blessing.

    Attributes:
      reasons: What stands against the model; it may be pushed if there are none.
      requests: How many golden requests were answered.
      p50_ms: Name of a golden request -> its median latency, where they were answered.
      latency_ms: What each of them may be.
    """

    reasons: tuple[str, ...]
    requests: int = 0
    p50_ms: Mapping[str, float] = {}
    latency_ms: float

    @property
    def passed(self) -> bool:
        return not self.reasons

    def times(self) -> str:
        """What the requests took, for a person."""
        each = ", ".join(f"{name} {taken:.1f} ms" for name, taken in self.p50_ms.items())
        return f"p50 {each} (each at most {self.latency_ms:g} ms)"


@component
def ServingGate(
    model: InputArtifact[standard_artifacts.Model],
    examples: InputArtifact[standard_artifacts.Examples],
    blessing: OutputArtifact[standard_artifacts.InfraBlessing],
    logs: Parameter[str],
    limits: Parameter[str],
    settings: Parameter[str],
    code: Parameter[str],
    later: InputArtifact[standard_artifacts.InfraBlessing] = None,
) -> None:
    """Serves a model in a process of its own and asks golden requests over gRPC.

    Args:
      model: Trainer's.
      examples: Those of the run's day that it was trained on.
      blessing: For Pusher; `verdict.json` beside it says why.
      logs: The log whose lists are asked about.
      limits: JSON of `ServingLimits`.
      settings: Digest of all that the model was made by.
      code: Fingerprint of our own source, for the cache.
      later: The blessing of a model of a later day, if there is one: an older model is not pushed
        over it.
    """
    del code
    folder = Path(path_utils.serving_model_path(model.uri))
    chosen = ServingLimits.from_json(limits)
    verdict = examine(folder, golden_requests(Path(logs), chosen.longest_list), chosen)
    if later is not None:
        reason = f"a model of a later day, {model_of(later)}, is blessed"
        verdict = verdict.model_copy(update={"reasons": (*verdict.reasons, reason)})
    stamp(blessing, examples, settings)
    bless(blessing, model, passed=verdict.passed, why=verdict, file=VERDICT_FILE)


def examine(model: Path, requests: tuple[Golden, ...], limits: ServingLimits) -> Verdict:
    """Serves a SavedModel and asks; whatever goes wrong is a reason, never an exception.

    Args:
      model: Folder of a SavedModel.
      requests: What to ask; each is timed.
      limits: Of time.
    """
    try:
        with served(model, limits.startup_s) as address:
            return _asked(address, requests, limits)
    except (ServerError, RerankError, RequestError) as error:
        return Verdict(reasons=(str(error),), latency_ms=limits.latency_ms)


def _asked(address: str, requests: tuple[Golden, ...], limits: ServingLimits) -> Verdict:
    lists = [golden.asked for golden in requests]
    with RerankClient(address, timeout_s=limits.startup_s) as client:
        alone = [client.rerank(asked) for asked in lists]
        reasons = [
            f"{golden.name}: {fault}"
            for golden, answer in zip(requests, alone, strict=True)
            for fault in faults(golden.asked, answer)
        ]
        reasons += padding_faults(alone, client.rerank_batch(lists))
        p50_ms = {
            golden.name: _median_ms(client, golden.asked, limits.timed_requests)
            for golden in requests
        }
    reasons += [
        f"{name}: p50 is {taken:.1f} ms, expected at most {limits.latency_ms:g} ms"
        for name, taken in p50_ms.items()
        if taken > limits.latency_ms
    ]
    return Verdict(
        reasons=tuple(reasons),
        requests=len(requests),
        p50_ms=p50_ms,
        latency_ms=limits.latency_ms,
    )


def _median_ms(client: RerankClient, asked: SearchList, times: int) -> float:
    """The median latency of a request, one at a time; its shape is no longer new to the server."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        client.rerank(asked)
        seconds.append(time.perf_counter() - began)
    return 1000 * float(np.median(seconds))
