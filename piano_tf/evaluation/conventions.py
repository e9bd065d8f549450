"""How everything in a report was measured, in words."""

from __future__ import annotations

from piano_tf.evaluation.probability import BINS
from piano_tf.evaluation.results import Comparison

_UNITS = {"list": "lists", "user": "users, each with all their lists"}
_SIGNS = {"list": "list by list", "user": "user by user"}


def conventions(comparison: Comparison) -> list[str]:
    """Sentences for people; `piano_tf.evaluation` has the same for programmers."""
    resampling, seeds = comparison.resampling, comparison.seeds
    models = f"{len(seeds)} seeds ({', '.join(map(str, seeds))})" if len(seeds) > 1 else "One seed"
    found = [
        "Splits are cut by the timestamps of the log, whatever they mean in it: where a source has "
        "no time, its adapter says what stands for it. A model learns from train. When to stop, "
        "and the weights of its score, are chosen on validation. What is reported is "
        f"{comparison.split}.",
        "The curves that calibrate a model's outputs are fitted on validation, so that "
        "calibration on validation itself is in-sample. Pre-trained vectors are learnt from train, "
        "for each listener without the listeners of the same fold; for a list of train from "
        "others' later days too, for validation and test from earlier days alone.",
        "A click is what the log calls one. A conversion is a stronger act on a shown item (a full "
        "play, a favourite, a download, a purchase) and implies a click. P(conversion) is over "
        "everything shown, clicked or not.",
        "Ranking metrics are computed per list and averaged over the lists that have a positive of "
        "that label. Equal scores stand in the initial order.",
        "NDCG@k has gain 2^y - 1 and discount 1 / log2(1 + rank), with ranks from 1. AP@k, whose "
        "mean is MAP@k, is divided by the smaller of k and the positives of the list. MRR looks at "
        "all ranks.",
        "AUC is over all items shown. Group AUC is the mean of the AUCs of lists that have both "
        "classes, weighted by their items. Log loss is in nats.",
        f"ECE is over {BINS} bins of equal count: in bins of equal width nearly all cases are in "
        "the first, for events are rare. ECE by chance is what the same probabilities would show "
        "on so many cases if all of them were true. What a list's own probability is held against "
        "is whether at least one of its items was clicked, or converted.",
        "The initial order is the one logged. The random order is drawn anew for each seed. The "
        "ideal order has what was clicked, or converted, first.",
        f"{models} a model. The value of a list is its mean over seeds: lists are the sample, and "
        "seeds are not further lists. Intervals and p hold the trained models and the settings "
        "found for fixed; what follows ± is the standard deviation over seeds, that of another "
        "training.",
        f"Intervals are 95 % percentile bootstraps over {_UNITS[resampling.unit]}, of "
        f"{resampling.resamples:,} resamples. p is two-sided, from a randomisation test of as many "
        f"random signs of the differences, {_SIGNS[resampling.unit]}, and corrected after Holm "
        "within each metric: models and initial order are one family, ablations another.",
        "Quarters of lists are cut at the quartiles. Equal values stay together, so that there may "
        "be fewer. The popularity of a list is the mean of its clicked items'.",
    ]
    if comparison.searches:
        found.append(
            "Settings were searched for on validation, with the same space and the same budget for "
            "every model; an ablation has what was found for the reference."
        )
    if comparison.off_policy:
        found.append(f"There is no off-policy estimate: {comparison.off_policy}")
    return found
