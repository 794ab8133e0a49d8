"""Recommenders for implicit feedback that behave like any scikit-learn estimator."""

from ._version import __version__
from .callbacks import RankingMonitor
from .encoding import InteractionEncoder
from .inspection import Explanation, explain
from .model_selection import UserSplitter, split_interactions, strong_generalization_split
from .neighbors import NeighborIndex
from .neural._latent import InverseAutoregressiveFlow, VampPrior
from .persistence import load
from .plotting import BenchmarkDisplay, RankingCurveDisplay, TrainingHistoryDisplay
from .ranking import recommend
from .recommenders.awae import AWAE
from .recommenders.cdae import CDAE
from .recommenders.cfgan import CFGAN
from .recommenders.ease import EASE
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
from .scorers import (
    MultiRankingScorer,
    RankingScorer,
    coverage_at_k,
    hit_rate_at_k,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)

__all__ = [
    "AWAE",
    "CDAE",
    "CFGAN",
    "EASE",
    "IRGAN",
    "SLIM",
    "WMF",
    "BenchmarkDisplay",
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
    "TrainingHistoryDisplay",
    "UserSplitter",
    "VAEGANRecommender",
    "VampPrior",
    "__version__",
    "coverage_at_k",
    "explain",
    "hit_rate_at_k",
    "load",
    "map_at_k",
    "mrr_at_k",
    "ndcg_at_k",
    "precision_at_k",
    "recall_at_k",
    "recommend",
    "split_interactions",
    "strong_generalization_split",
]
