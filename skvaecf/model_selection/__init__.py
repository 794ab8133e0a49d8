"""Hold out users or interactions, at random or in time."""

from ._split import UserSplitter, split_interactions, strong_generalization_split
from ._stack import stack_splits
from ._time import last_interactions_split, rolling_time_splits, time_split

__all__ = [
    "UserSplitter",
    "last_interactions_split",
    "rolling_time_splits",
    "split_interactions",
    "stack_splits",
    "strong_generalization_split",
    "time_split",
]
