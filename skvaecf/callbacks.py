"""Callbacks for scikit-learn's callback interface (scikit-learn 1.9 or later)."""

from __future__ import annotations

from typing import Any

from .scorers import MultiRankingScorer, RankingScorer, ndcg_at_k


class RankingMonitor:
    """Score users of one's own after every epoch of a fit.

    scikit-learn's ``ScoringMonitor`` logs nothing where ``fit`` gets no ``y``, as here.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions of the users to score, who should not be training users.
    y : {array-like, sparse matrix} of shape (n_users, n_items) or None, default=None
        Their held-out interactions. None holds out a fifth of each row of X.
    scorer : RankingScorer or MultiRankingScorer, default=ndcg_at_k
        What to compute.

    Attributes
    ----------
    log_ : list of dict
        Per epoch of the latest fit: its number, counted from 1, and the scores by their names.

    Examples
    --------
    >>> from skvaecf import MultVAE, RankingMonitor, ndcg_at_k
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> monitor = RankingMonitor(X[200:], scorer=ndcg_at_k.at(5))
    >>> model = MultVAE(8, encoder_layer_sizes=(), max_epochs=2, random_state=0)
    >>> _ = model.set_callbacks(monitor).fit(X[:200])
    >>> [list(entry) for entry in monitor.log_]
    [['epoch', 'ndcg@5'], ['epoch', 'ndcg@5']]
    """

    def __init__(
        self,
        X: Any,
        y: Any = None,
        *,
        scorer: RankingScorer | MultiRankingScorer = ndcg_at_k,
    ) -> None:
        self.X = X
        self.y = y
        self.scorer = scorer

    def setup(self, estimator: Any, context: Any) -> None:
        """Begin a new log."""
        if not isinstance(self.scorer, RankingScorer | MultiRankingScorer):
            raise TypeError(f"scorer must be a RankingScorer or several, got {self.scorer!r}.")
        self.log_: list[dict[str, float]] = []

    def teardown(self, estimator: Any, context: Any) -> None:
        """Keep the log."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Wait for the end of the epoch."""

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, fitted_estimator: Any = None
    ) -> None:
        """Score the model as it is after an epoch."""
        if context.task_name == "epoch":
            scorer = self.scorer
            if isinstance(scorer, RankingScorer):
                scorer = MultiRankingScorer((scorer,))
            scores = scorer(fitted_estimator, self.X, self.y)
            self.log_.append({"epoch": len(self.log_) + 1, **scores})
