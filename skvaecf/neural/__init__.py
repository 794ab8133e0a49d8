"""All parts of a custom recommender, in one package.

A recommender with a custom network is a subclass of :class:`TorchRecommender`. It has up to four
hooks. They build the network, list the players of the training game with their losses, compute the
latent vectors of rows, and compute the ranking scores of the items. The last hook is needed only
if these scores are not the output of the network's decoder. :doc:`/user_guide/extending` has
examples.
"""

from .._batch import InteractionBatch
from ..base import BaseRecommender
from . import _distributions, _latent, _layers, _likelihoods, _objectives, _training
from ._distributions import *
from ._latent import *
from ._layers import *
from ._likelihoods import *
from ._objectives import *
from ._recommender import TorchRecommender
from ._training import *

__all__ = ["BaseRecommender", "InteractionBatch", "TorchRecommender"]
__all__ += _distributions.__all__
__all__ += _latent.__all__
__all__ += _layers.__all__
__all__ += _likelihoods.__all__
__all__ += _objectives.__all__
__all__ += _training.__all__
