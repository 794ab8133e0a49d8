"""Displays of training histories and rankings, as in scikit-learn.

matplotlib is imported only when a display is drawn.
"""

from ._benchmark import BenchmarkDisplay
from ._ranking_curve import RankingCurveDisplay
from ._training_history import TrainingHistoryDisplay

__all__ = ["BenchmarkDisplay", "RankingCurveDisplay", "TrainingHistoryDisplay"]
