"""Figures of trainings and rankings, in scikit-learn's manner.

matplotlib is imported when something is drawn.
"""

from ._benchmark import BenchmarkDisplay
from ._ranking_curve import RankingCurveDisplay
from ._training_history import TrainingHistoryDisplay

__all__ = ["BenchmarkDisplay", "RankingCurveDisplay", "TrainingHistoryDisplay"]
