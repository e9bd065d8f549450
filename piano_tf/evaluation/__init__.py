"""How good a re-ranker is, and how sure one may be of it: metrics over lists, tests, comparisons.

What happened in a split is a `Lists`, what a model said of it a `Predictions`; L lists of at most
N candidates, padded at the end, masks True = real. Every metric takes the two and knows no model.

Conventions, here once for all modules:

- Splits are cut in time; what is chosen is chosen on validation; the test split is read once.
- Calibrating curves are fitted on validation, whose own calibration figures are in-sample.
- Pre-trained vectors are learnt from train without the listeners of the fold they are used for.
- A rank counts from 0. Equal scores stand in first-stage order.
- NDCG has gain 2^y - 1 and discount 1 / log2(2 + rank). MAP@k is divided by min(k, positives).
- NDCG, MAP and MRR are nan for a list without a positive: such lists are left out, their share
  is reported.
- Group AUC is the mean over lists that have both classes, weighted by their shown items.
- Calibration error is over 10 bins of equal count.
- A list's own click or conversion means: at least one of its items'.
- A conversion is over the entire space: of everything shown, clicked or not.
"""
