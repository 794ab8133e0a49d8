"""Callbacks for scikit-learn's callback interface (scikit-learn 1.9 or later)."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

from .scorers import MultiRankingScorer, RankingScorer, ndcg_at_k


@dataclass(eq=False, repr=False)
class RankingMonitor:
    """Compute ranking scores of chosen users after every epoch of a fit.

    scikit-learn's ``ScoringMonitor`` logs nothing if ``fit`` is called without ``y``, which is the
    usual call of a recommender.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions of the users to score. These users should not be training users.
    y : {array-like, sparse matrix} of shape (n_users, n_items) or None, default=None
        Held-out interactions of these users. With None, the scorer holds out part of each row of X:
        its ``test_size``, by default a fifth.
    scorer : RankingScorer or MultiRankingScorer, default=ndcg_at_k
        Scorer to call after every epoch.

    Attributes
    ----------
    log_ : list of dict
        For each epoch of the last fit, a dict of the number of the epoch, counted from 1, and of
        the scores by name.

    See Also
    --------
    TrainingHistoryDisplay : Plots the values that a model records itself.
    RankingScorer : Scores a fitted model once.

    Examples
    --------
    >>> from skvaecf import MultVAE, RankingMonitor, ndcg_at_k
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> monitor = RankingMonitor(X[200:], scorer=ndcg_at_k.at(5))
    >>> model = MultVAE(8, max_epochs=2, random_state=0)
    >>> _ = model.set_callbacks(monitor).fit(X[:200])
    >>> [list(entry) for entry in monitor.log_]
    [['epoch', 'ndcg@5'], ['epoch', 'ndcg@5']]
    """

    X: Any
    y: Any = None
    _: KW_ONLY
    scorer: RankingScorer | MultiRankingScorer = ndcg_at_k

    def setup(self, estimator: Any, context: Any) -> None:
        """Start a new log."""
        if not isinstance(self.scorer, RankingScorer | MultiRankingScorer):
            raise TypeError(
                f"scorer must be a RankingScorer or a MultiRankingScorer, got {self.scorer!r}."
            )
        self.log_: list[dict[str, float]] = []

    def teardown(self, estimator: Any, context: Any) -> None:
        """Do nothing: the log is kept after the fit."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing: the model is scored at the end of an epoch."""

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, fitted_estimator: Any = None
    ) -> None:
        """Score the model at the end of an epoch and add the scores to the log."""
        if context.task_name == "epoch":
            scorer = self.scorer
            if isinstance(scorer, RankingScorer):
                scorer = MultiRankingScorer((scorer,))
            scores = scorer(fitted_estimator, self.X, self.y)
            self.log_.append({"epoch": len(self.log_) + 1, **scores})
