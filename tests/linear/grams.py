"""The three kinds of X'X, each from the rows of X."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from skvaecf.linear import DenseGram, SparseGram, StoredGram
from skvaecf.linear._item_item import dense_gram


def dense(X, device):
    return DenseGram(dense_gram(X, device, padding=1))


def stored(X, device):
    products = csr_array(X.T @ X, dtype=np.float32)
    products.resize(X.shape[1] + 1, X.shape[1] + 1)
    return StoredGram(products, device)


KINDS = [dense, SparseGram, stored]
