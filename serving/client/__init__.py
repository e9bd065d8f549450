"""A typed client of a served re-ranker, TensorFlow Serving's or the local one.

    with RerankClient("127.0.0.1:8500") as client:
        client.wait_until_available(timeout_s=60)
        print(client.rank(SearchList("so what", "ada", ["a", "b"])).ranking)

Neither importing nor using it imports TensorFlow; it needs grpcio, protobuf and NumPy.
`serving.client.aio` has the same for asyncio.
"""

from serving.client.attempts import Retries
from serving.client.search_list import (
    FirstStageList,
    Ranking,
    Reason,
    RequestError,
    RerankedList,
    SearchList,
)
from serving.client.session import RerankError
from serving.client.threads import RerankClient

__all__ = [
    "FirstStageList",
    "Ranking",
    "Reason",
    "RequestError",
    "RerankClient",
    "RerankError",
    "RerankedList",
    "Retries",
    "SearchList",
]
