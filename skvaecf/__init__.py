"""Recommenders for implicit feedback that behave like any scikit-learn estimator."""

import os

# Threads of OpenMP sleep while they wait. If they used their cores, a fit beside another program
# would take up to five times as long. The OpenMP library reads the variable when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from ._version import __version__
from .blend import Blend
from .callbacks import RankingMonitor
from .comparison import Comparison, compare
from .encoding import InteractionEncoder
from .inspection import Explanation, explain
from .model_selection import (
    UserSplitter,
    last_interactions_split,
    rolling_time_splits,
    split_interactions,
    stack_splits,
    strong_generalization_split,
    time_split,
)
from .neighbors import NeighborIndex
from .neural._latent import InverseAutoregressiveFlow, VampPrior
from .persistence import load
from .plotting import BenchmarkDisplay, RankingCurveDisplay, TrainingHistoryDisplay
from .ranking import recommend
from .recommenders.awae import AWAE
from .recommenders.cdae import CDAE
from .recommenders.cfgan import CFGAN
from .recommenders.ease import EASE
from .recommenders.elsa import ELSA
from .recommenders.hvamp_vae import HVampVAE
from .recommenders.irgan import IRGAN
from .recommenders.item_knn import ItemKNN
from .recommenders.mult_dae import MultDAE
from .recommenders.mult_vae import MultVAE
from .recommenders.popularity import Popularity
from .recommenders.recvae import RecVAE
from .recommenders.sivae import SIVAERecommender
from .recommenders.slim import SLIM
from .recommenders.vaegan import VAEGANRecommender
from .recommenders.wmf import WMF
from .reranking import limit_groups, maximal_marginal_relevance
from .scorers import (
    MultiRankingScorer,
    RankingScorer,
    auc_at_k,
    coverage_at_k,
    entropy_at_k,
    hit_rate_at_k,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    neg_gini_at_k,
    neg_mean_popularity_at_k,
    neg_popularity_lift_at_k,
    novelty_at_k,
    precision_at_k,
    r_precision_at_k,
    recall_at_k,
    tail_recall_at_k,
    unbiased_recall_at_k,
)
from .weighting import CountSaturation, TimeDecay

__all__ = [
    "AWAE",
    "CDAE",
    "CFGAN",
    "EASE",
    "ELSA",
    "IRGAN",
    "SLIM",
    "WMF",
    "BenchmarkDisplay",
    "Blend",
    "Comparison",
    "CountSaturation",
    "Explanation",
    "HVampVAE",
    "InteractionEncoder",
    "InverseAutoregressiveFlow",
    "ItemKNN",
    "MultDAE",
    "MultVAE",
    "MultiRankingScorer",
    "NeighborIndex",
    "Popularity",
    "RankingCurveDisplay",
    "RankingMonitor",
    "RankingScorer",
    "RecVAE",
    "SIVAERecommender",
    "TimeDecay",
    "TrainingHistoryDisplay",
    "UserSplitter",
    "VAEGANRecommender",
    "VampPrior",
    "__version__",
    "auc_at_k",
    "compare",
    "coverage_at_k",
    "entropy_at_k",
    "explain",
    "hit_rate_at_k",
    "last_interactions_split",
    "limit_groups",
    "load",
    "map_at_k",
    "maximal_marginal_relevance",
    "mrr_at_k",
    "ndcg_at_k",
    "neg_gini_at_k",
    "neg_mean_popularity_at_k",
    "neg_popularity_lift_at_k",
    "novelty_at_k",
    "precision_at_k",
    "r_precision_at_k",
    "recall_at_k",
    "recommend",
    "rolling_time_splits",
    "split_interactions",
    "stack_splits",
    "strong_generalization_split",
    "tail_recall_at_k",
    "time_split",
    "unbiased_recall_at_k",
]
