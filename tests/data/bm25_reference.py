"""BM25 term by term, straight from its formula."""

from __future__ import annotations

import math
from collections.abc import Sequence


def bm25(documents: Sequence[Sequence[str]], query: Sequence[str]) -> list[float]:
    """Score of each document, with k1 = 1.5 and b = 0.75."""
    mean = sum(len(terms) for terms in documents) / len(documents)
    scores = [0.0] * len(documents)
    for term in query:
        having = sum(term in terms for terms in documents)
        idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
        for number, terms in enumerate(documents):
            if count := list(terms).count(term):
                scores[number] += (
                    idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(terms) / mean))
                )
    return scores
