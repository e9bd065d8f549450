"""How likely each rank of a list is to be examined, from the clicks of a log.

All of it stands on the position-based model: a click is an examination and a relevance, drawn
independently, and examination depends on the rank alone,

    P(click on i at rank r under query q) = theta_r * gamma_qi,    theta_0 = 1.

It says nothing of lists that nobody was shown in the logged order: where lists were constructed
afterwards, as Last.fm's are, an estimate of theta is an artefact.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from piano_tf.data.logs import read_columns
from piano_tf.errors import PianoError
from piano_tf.features import CLICK

DEPTH = 20

_ITERATIONS = 10_000
_TOLERANCE = 1e-8


@dataclasses.dataclass(frozen=True, eq=False)
class ExaminationModel:
    """How likely each rank is to be examined, relative to the first.

    Attributes:
      propensity: [K] theta, 1 at rank 0; the last is that of all deeper ranks too.
    """

    propensity: np.ndarray

    def at(self, ranks: np.ndarray) -> np.ndarray:
        """theta of ranks from 0, of any shape."""
        return self.propensity[np.minimum(ranks, len(self.propensity) - 1)]

    @classmethod
    def fit(
        cls, clicks: np.ndarray, ranks: np.ndarray, pairs: np.ndarray, *, depth: int = DEPTH
    ) -> ExaminationModel:
        """Estimates theta from one ranker's log, out of what moved between its lists.

        Clicks fall with the rank because deeper candidates are seen less, and because they are
        worse. To tell the two apart every (query, item) pair has a gamma of its own, and theta is
        what best explains how clicks on *the same pair* differ between the ranks it was shown at:

            gamma_p = clicks on p / sum over its showings of theta,
            theta_r = clicks at r / sum over its showings of gamma,    in turn until both hold.

        That is the maximum of a Poisson likelihood with fixed effects. It needs only the mean to be
        right to be consistent, however few showings a pair has: J. Wooldridge, Distribution-Free
        Estimation of Some Nonlinear Panel Data Models, Journal of Econometrics 90, 1999. Learning
        from pairs that moved is the idea of A. Agarwal et al., Estimating Position Bias without
        Intrusive Interventions, WSDM 2019 (arXiv 1812.05161), where several rankers move them.

        How we differ [ours]: regression EM (X. Wang et al., Position Bias Estimation for Unbiased
        Learning to Rank in Personal Search, WSDM 2018) fits the same model; with one gamma a pair
        its theta comes out too flat where pairs were shown a few times only, and without it, by
        covariates, what they do not tell of relevance goes into theta.

        What must hold: pairs do move, and why they moved has nothing to do with how relevant they
        were then and to that listener. Where the ranker learnt from clicks meanwhile, or items rise
        and fall with fashion, theta is biased. Pairs that were never clicked, or shown at one rank
        only, say nothing. Only ratios of theta are identified, hence theta_0 = 1.

        Args:
          clicks: [n] 0 or 1, one for each item shown.
          ranks: [n] from 0, where it was shown.
          pairs: [n] what has one gamma, such as the number of the (query, item) pair.
          depth: K at most; deeper ranks share the last theta.

        Raises:
          PianoError: A rank is not linked to the others by clicks on pairs that were shown at both.
        """
        ranks = np.minimum(ranks, depth - 1)
        count = 1 + int(ranks.max(initial=0))
        if count == 1:
            return cls(np.ones(1))
        # One cell for each pair and rank at which it was shown.
        pair = np.unique(pairs, return_inverse=True)[1]
        cell, number = np.unique(pair * count + ranks, return_inverse=True)
        pair, rank = np.divmod(cell, count)
        shown, clicked = np.bincount(number), np.bincount(number, clicks)
        _require_linked(pair, rank, clicked > 0, count)

        of_pair, of_rank = np.bincount(pair, clicked), np.bincount(rank, clicked)
        theta, before = np.ones(count), np.zeros(count)
        for _ in range(_ITERATIONS):
            gamma = of_pair / np.bincount(pair, shown * theta[rank])
            theta, before = of_rank / np.bincount(rank, shown * gamma[pair]), theta
            theta /= theta[0]
            if np.abs(theta - before).max() < _TOLERANCE:
                break
        return cls(theta)

    @classmethod
    def of_randomised(
        cls, clicks: np.ndarray, ranks: np.ndarray, lengths: np.ndarray, *, depth: int = DEPTH
    ) -> ExaminationModel:
        """Estimates theta from lists that were shown in random order.

        There every rank has candidates of the same relevance, so that

            theta_r = clicks at r / clicks at 0, both in lists of more than r candidates.

        X. Wang et al., Learning to Rank with Selection Bias in Personal Search, SIGIR 2016.

        Args:
          clicks: [n] 0 or 1, one for each item shown.
          ranks: [n] from 0, where it was shown.
          lengths: [n] candidates of its list.
          depth: K at most; deeper ranks share the last theta. Ranks from the first one without a
            click on share the one before it.

        Raises:
          PianoError: There is no click at rank 0.
        """
        at_top = clicks[ranks == 0]
        if not at_top.any():
            raise PianoError(
                "the randomised lists have no click at rank 0, expected some; a longer log, or a "
                "larger randomised share, has more"
            )
        shown_below = np.bincount(lengths[ranks == 0], at_top)  # clicks at 0 by length of list
        here = np.bincount(ranks, clicks)[:depth]
        above = shown_below.sum() - np.cumsum(shown_below)[: len(here)]
        theta = np.divide(here, above, out=np.zeros(len(here)), where=above > 0)
        known = int(np.argmin(theta > 0)) if not theta.all() else len(theta)
        return cls(theta[:known])


def _require_linked(pair: np.ndarray, rank: np.ndarray, clicked: np.ndarray, count: int) -> None:
    """A maximum exists where clicks lead from every rank to every other.

    A step leads from a rank to a pair clicked there, and from it to any rank that it was shown at.
    As L. R. Ford, Solution of a Ranking Problem from Binary Comparisons, 1957, has it for matches.
    """
    at = count + pair  # nodes are the ranks, then the pairs
    start = np.concatenate([rank[clicked], at])
    end = np.concatenate([at[clicked], rank])
    size = count + int(pair.max(initial=-1)) + 1
    graph = sparse.coo_matrix((np.ones(len(start)), (start, end)), shape=(size, size))
    group = sparse.csgraph.connected_components(graph, connection="strong")[1][:count]
    apart = np.flatnonzero(group != group[0])
    if len(apart):
        raise PianoError(
            f"rank {apart[0]} (from 0): no clicks link it to rank 0 through (query, item) pairs "
            "shown at both, expected pairs that moved; a longer log or a smaller depth has more"
        )


def read_examination(
    log_dir: Path, *, depth: int = DEPTH, randomised: tuple[str, str] | None = None
) -> ExaminationModel:
    """Examination by rank, estimated on the train split of a log.

    Args:
      log_dir: A folder written by `piano logs`.
      depth: K at most.
      randomised: A column and its value in lists that were shown in random order: then as
        `ExaminationModel.of_randomised` says, from those lists; else as `ExaminationModel.fit`.

    Raises:
      LogError: A file is missing, is not Parquet or lacks a column.
      PianoError: The log cannot tell.
    """
    columns = ["query", "item_id", CLICK] + ([randomised[0]] if randomised else [])
    lists = pa.Table.from_batches(list(read_columns(log_dir, "train", columns)))
    if randomised is not None:
        lists = lists.filter(pc.equal(lists[randomised[0]], randomised[1]))
    length = pc.list_value_length(lists["item_id"]).to_numpy()
    clicks = pc.list_flatten(lists[CLICK]).to_numpy()
    ranks = np.arange(len(clicks)) - np.repeat(np.cumsum(length) - length, length)
    if randomised is not None:
        return ExaminationModel.of_randomised(clicks, ranks, np.repeat(length, length), depth=depth)
    query = np.repeat(_numbered(lists["query"]), length)
    item = _numbered(pc.list_flatten(lists["item_id"]))
    pairs = query * (1 + item.max(initial=0)) + item
    return ExaminationModel.fit(clicks, ranks, pairs, depth=depth)


def _numbered(values: pa.ChunkedArray) -> np.ndarray:
    """Equal strings as equal numbers from 0."""
    return pc.index_in(values, value_set=values.unique()).to_numpy().astype(np.int64)
