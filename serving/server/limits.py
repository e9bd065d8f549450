"""What a request may ask for at most [ours]; the real server sets none of these limits."""

from __future__ import annotations

import dataclasses

from serving.server.errors import ServingError


@dataclasses.dataclass(frozen=True)
class Limits:
    """The most that the server takes on.

    Attributes:
      message_bytes: Of one request. So many requests as are in progress may be as long, and take
        several times as much while they are read.
      lists: Of one request, whether batching is on or not.
      list_length: Candidates of one list, and entries of one history.
      pairs: Lists x candidates x the longer of candidates and history entries, over one request:
        what attention over a list needs memory for.
      explained: Lists x candidates x candidates of one request to `explain`, which runs the model
        once for each candidate of the longest list.
      values: Of one request, over all its inputs.
      concurrency: Requests in progress, waiting ones included.

    Raises:
      ServingError: A limit is below 1.
    """

    message_bytes: int = 8 * 2**20
    lists: int = 1000
    list_length: int = 1000
    pairs: int = 50_000_000
    explained: int = 40_000
    values: int = 10_000_000
    concurrency: int = 128

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ServingError(
                    f"the limit {field.name} is {getattr(self, field.name)}, expected 1 or more"
                )
