"""What listeners do with a list in whatever order, and what is to be expected of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from piano_tf.simulation.catalogue import Catalogue
from piano_tf.simulation.config import BehaviourConfig
from piano_tf.simulation.draws import Bools, Floats, Ints, logistic
from piano_tf.simulation.listeners import Listeners
from piano_tf.simulation.queries import Queries


class Appeal(NamedTuple):
    """What candidates are to a listener each on its own, before there is a list.

    Attributes:
      track: [B, N] candidates.
      mask: [B, N] True = real.
      relevance: [B, N] to what is meant, 0 to 1.
      click: [B, N] log-odds to click, examined.
      conversion: [B, N] log-odds to convert, clicked.
    """

    track: Ints
    mask: Bools
    relevance: Floats
    click: Floats
    conversion: Floats

    def ordered(self, order: Ints) -> Appeal:
        """The candidates in another order: [B, N] places from the best, padding last."""
        return Appeal(*(np.take_along_axis(values, order, axis=1) for values in self))


class Expected(NamedTuple):
    """What is to be expected of lists in an order: exact probabilities.

    Attributes:
      examination: [B, N] of being looked at.
      attraction: [B, N] of a click, given that.
      conviction: [B, N] of a conversion, given a click.
      click, conversion: [B, N] of either.
      list_click, list_conversion: [B] of at least one.
    """

    examination: Floats
    attraction: Floats
    conviction: Floats
    click: Floats
    conversion: Floats
    list_click: Floats
    list_conversion: Floats


class Outcome(NamedTuple):
    """What happened: [B, N] each, conversions among clicks among what was examined."""

    examined: Bools
    click: Bools
    conversion: Bools


class Behaviour:
    """Clicks and conversions. docs/world.md has the equations.

    Args:
      config: Weights.
      catalogue, listeners, queries: The world.
    """

    def __init__(
        self,
        config: BehaviourConfig,
        catalogue: Catalogue,
        listeners: Listeners,
        queries: Queries,
    ) -> None:
        self.config = config
        self._catalogue, self._listeners, self._queries = catalogue, listeners, queries

    def appeal(self, day: int, listener: Ints, query: Ints, track: Ints, mask: Bools) -> Appeal:
        """What candidates are on their own.

        Args:
          day: On which.
          listener, query: [B].
          track: [B, N] candidates.
          mask: [B, N] True = real.
        """
        c = self.config
        who, asked = listener[:, np.newaxis], query[:, np.newaxis]
        relevance = self._queries.relevance(day, who, asked, track) * mask
        affinity = self._listeners.affinity(day, who, track)
        favourite = self._listeners.is_favourite(day, who, track)
        own_language = self._catalogue.language[track] == self._listeners.language[who]
        standing = self._catalogue.standing(day)[track]
        click = (
            c.click_bias
            + c.click_intent * relevance
            + c.click_taste * affinity
            + c.click_favourite * favourite
            + c.click_language * own_language
            + c.click_popularity * standing
            + self._catalogue.appeal[track]
        )
        conversion = (
            c.conversion_bias
            + c.conversion_intent * relevance
            + c.conversion_taste * affinity
            + c.conversion_favourite * favourite
        )
        return Appeal(track, mask, relevance, np.where(mask, click, 0.0), conversion)

    def expected(self, appeal: Appeal) -> Expected:
        """Exact probabilities of lists in the order in which `appeal` has them."""
        attraction, conviction = self._in_company(appeal)
        unmoved, clicked, converted = self._goes_on(appeal)
        both = attraction * conviction
        lists, ranks = appeal.mask.shape
        examination = np.empty((lists, ranks))
        # Of all listeners, of those without a click so far, and of those without a conversion.
        here, no_click, no_conversion = np.ones((3, lists))
        list_click, list_conversion = np.zeros((2, lists))
        for rank in range(ranks):
            at = np.s_[:, rank]
            examination[at] = here
            list_click += no_click * attraction[at]
            list_conversion += no_conversion * both[at]
            passed = (1 - attraction[at]) * unmoved[at]
            stayed = passed + (attraction[at] - both[at]) * clicked[at]
            here = here * (stayed + both[at] * converted[at])
            no_click = no_click * passed
            no_conversion = no_conversion * stayed
        return Expected(
            examination * appeal.mask,
            attraction,
            conviction,
            examination * attraction,
            examination * both,
            list_click,
            list_conversion,
        )

    def act(self, chance: Floats, appeal: Appeal) -> Outcome:
        """What listeners do with lists in the order in which `appeal` has them.

        Args:
          chance: [B, N, 3] uniform draws from [0, 1) that decide, rank by rank, on a click, on a
            conversion and on going on.
          appeal: The lists.
        """
        attraction, conviction = self._in_company(appeal)
        unmoved, clicked, converted = self._goes_on(appeal)
        attracted = chance[..., 0] < attraction
        convinced = attracted & (chance[..., 1] < conviction)
        stays = np.select([convinced, attracted], [converted, clicked], unmoved)
        goes_on = chance[..., 2] < stays
        before = np.concatenate([np.ones_like(goes_on[:, :1]), goes_on[:, :-1]], axis=1)
        examined = np.logical_and.accumulate(before, axis=1) & appeal.mask
        return Outcome(examined, examined & attracted, examined & convinced)

    def _in_company(self, appeal: Appeal) -> tuple[Floats, Floats]:
        """[B, N] probabilities of a click, examined, and of a conversion, clicked; 0 at padding."""
        c, mask = self.config, appeal.mask
        tired = self._tired(appeal)
        click = appeal.click - c.click_tiring * tired + c.contrast * _contrast(appeal.click, mask)
        conversion = appeal.conversion - c.conversion_tiring * tired
        return logistic(click) * mask, logistic(conversion) * mask

    def _tired(self, appeal: Appeal) -> Floats:
        """[B, N] sum over candidates further up of their likeness, the less the further up."""
        ranks = appeal.track.shape[1]
        further = np.subtract.outer(np.arange(ranks), np.arange(ranks))
        weight = np.where(
            further > 0, self.config.forgetting ** (np.maximum(further, 1) - 1.0), 0.0
        )
        track = appeal.track
        alike = self._catalogue.likeness(track[:, :, np.newaxis], track[:, np.newaxis])
        return np.einsum("bij,ij->bi", alike, weight) * appeal.mask

    def _goes_on(self, appeal: Appeal) -> tuple[Floats, Floats, Floats]:
        """[B, N] probabilities to look at the next one without a click, after one, after both."""
        c, rank = self.config, 1.0 + np.arange(appeal.track.shape[1])
        decay = (rank / (rank + 1)) ** c.examination_decay
        unmoved = decay * (1 - c.abandonment * (1 - appeal.relevance))
        clicked, converted = (
            np.broadcast_to(decay * (1 - stop), unmoved.shape)
            for stop in (c.stop_after_click, c.stop_after_conversion)
        )
        return unmoved, clicked, converted


def _contrast(log_odds: Floats, mask: Bools) -> Floats:
    """[B, N] how much a candidate stands out from the mean of its neighbours, from -1 to 1."""
    around = np.zeros_like(log_odds)
    count = np.zeros_like(log_odds)
    for here, beside in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :-1], np.s_[:, 1:])):
        around[here] += log_odds[beside] * mask[beside]
        count[here] += mask[beside]
    mean = around / np.maximum(count, 1)
    return np.where(count > 0, np.tanh((log_odds - mean) / 2), 0.0) * mask
