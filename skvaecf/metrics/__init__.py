r"""Metrics of ranked lists: functions that return one value per user, or one for the catalogue.

The first argument is always the lists. It is followed by what they are compared with and by k, the
number of places to consider. In the formulas for one user, :math:`L` is the set of the items in
the first k places and :math:`i_r` the item in place :math:`r`; :math:`h_r` is 1 if this item is
held out (a hit) and 0 otherwise, and :math:`n` is the number of held-out items. Metrics that count
hits are NaN for a user without held-out items, and the other metrics for a user without
recommendations. The means of :class:`~skvaecf.RankingScorer` and :func:`~skvaecf.compare` exclude
such users. Metrics of the catalogue, such as coverage, are one number for the lists of all users.
:doc:`/beyond_accuracy` compares the metrics.
"""

from ._accuracy import (
    auc,
    average_precision,
    hit_rate,
    mrr,
    ndcg,
    precision,
    r_precision,
    recall,
)
from ._catalogue import coverage, entropy, gini
from ._lists import PerUser as PerUser
from ._popularity import (
    item_popularity,
    mean_popularity,
    novelty,
    popularity_lift,
    tail_recall,
    unbiased_recall,
)
from ._variety import intra_list_diversity, miscalibration, serendipity

__all__ = [
    "auc",
    "average_precision",
    "coverage",
    "entropy",
    "gini",
    "hit_rate",
    "intra_list_diversity",
    "item_popularity",
    "mean_popularity",
    "miscalibration",
    "mrr",
    "ndcg",
    "novelty",
    "popularity_lift",
    "precision",
    "r_precision",
    "recall",
    "serendipity",
    "tail_recall",
    "unbiased_recall",
]
