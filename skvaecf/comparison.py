"""Compare many models on the same users: means, standard errors, paired tests."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Annotated, Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing
from sklearn.utils._param_validation import Interval
from tqdm.auto import tqdm

from ._comparison_files import ComparisonFiles, Record
from ._paired_tests import PairedTest, best_first, mean_and_error, paired_rows
from ._parameters import Fraction, Verbose, validated
from ._progress import ProgressBar
from .interactions import check_rows, stored_interactions
from .metrics import PerUser
from .model_selection import UserSplitter
from .scorers import MultiRankingScorer, RankingScorer, ndcg_at_k

Seeds = Annotated[
    int | Sequence[int] | None, Interval(Integral, 0, 2**32 - 1, closed="both"), "array-like", None
]
CUT = " (cut)"  # follows the name of a model that is not finished


@dataclass(eq=False, repr=False)
class Comparison:
    """Result of :func:`~skvaecf.compare`: a table, and the values per user behind it.

    ``print(comparison)`` prints the models, best first. ``dataclasses.replace(comparison,
    reference="EASE")`` returns the comparison with another reference, test or alpha. Nothing is
    fitted again.

    Attributes
    ----------
    table : dict of str to ndarray
        One row per metric and model, the best model of each metric first.
        ``pandas.DataFrame(comparison.table)`` and ``polars.DataFrame(comparison.table)`` return it
        as a frame. The columns are:

        metric, model : str
            Name of the metric, and of the model.
        mean, standard_error : float
            Mean over the users of the values of the metric itself, also if lower is better, and its
            standard error, which is the standard deviation of the values divided by the square
            root of their number.
        reference : str
            The model with which this row is compared.
        difference, difference_standard_error : float
            Mean over the users of the value minus the value of the reference, and its standard
            error. If lower is better, a positive difference means that the model is worse.
        p_value, p_value_holm : float
            p-value of the paired test, without and with Holm's correction.
        distinguishable : bool
            Whether ``p_value_holm`` is at most ``alpha``.
        n_users : int
            Number of users with a value; 0 for metrics of the catalogue.
        seed_std : float
            Standard deviation over the seeds of the mean over the users; NaN for one seed.
        fit_seconds, recommend_seconds : float
            Seconds of a fit; seconds of recommending to its test users and of computing the
            metrics. With several splits or seeds, their mean.
        best_iter : float
            The epoch that a neural model kept (``best_iter_``), NaN for other models. With several
            splits or seeds, the mean.
        finished : bool
            False if the run was interrupted before all fits of the model were complete.
        params : str
            The model with its parameters.

        The p-values of the reference itself are NaN. Metrics of the catalogue, such as coverage,
        are one number for all users. They have no standard errors and no p-values: these are NaN,
        and no model is distinguishable.
    per_user : dict of str to dict of str to ndarray of shape (n_users,)
        Values by model and metric, the best model of the first metric first. They belong to the
        rows of ``X_test`` or, with ``cv``, of X. NaN for users without a value, who were not tested
        or for whom the metric is undefined, as NDCG is without held-out interactions. Metrics of
        the catalogue have shape ().
    fits : dict of str to dict
        The last columns of the table by model, from ``seed_std`` on. ``seed_std`` is a dict by
        metric.
    missing : tuple of str
        Names of the models without any value, because the run was interrupted.
    lower_is_better : collection of str
        Names of the metrics of which lower values are better.
    finished : bool
        Whether all fits of all models are complete.
    reference, test, alpha
        See :func:`compare`. The reference is None if it was not fitted because the run was
        interrupted.

    See Also
    --------
    compare : Fits and scores the models.
    BenchmarkDisplay : Plots a comparison.
    """

    per_user: dict[str, dict[str, PerUser]]
    fits: dict[str, dict[str, Any]]
    missing: tuple[str, ...] = ()
    lower_is_better: Collection[str] = ()
    reference: str | None = None
    test: str | Callable[..., Any] = "ttest_rel"
    alpha: float = 0.05

    def __post_init__(self) -> None:
        first = self._metrics[0]
        order = best_first(self._values(first), first not in self.lower_is_better)
        self.per_user = {model: self.per_user[model] for model in order}

    @property
    def finished(self) -> bool:
        """Whether all fits of all models are complete."""
        return not self.missing and all(fit["finished"] for fit in self.fits.values())

    @cached_property
    def table(self) -> dict[str, NDArray[Any]]:
        """One row per metric and model."""
        rows = [row for metric in self._metrics for row in self._rows(metric)]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    @property
    def _metrics(self) -> list[str]:
        return list(next(iter(self.per_user.values())))

    def _values(self, metric: str) -> dict[str, PerUser]:
        return {model: values[metric] for model, values in self.per_user.items()}

    def _rows(self, metric: str) -> Iterator[dict[str, Any]]:
        for row in paired_rows(
            self._values(metric),
            self.reference,
            self.test,
            self.alpha,
            greater_is_better=metric not in self.lower_is_better,
        ):
            fit = self.fits[row["model"]]
            yield {"metric": metric, **row, **fit, "seed_std": fit["seed_std"][metric]}

    def __repr__(self) -> str:
        """Return the models, best first, with all metrics; the first one with standard errors."""
        first = self._metrics[0]
        width = _name_width(self.fits)
        lines = [_header(self._metrics, width)]
        for row in self._rows(first):
            model = row["model"]
            mark = " " if row["distinguishable"] else "="
            lines.append(_line(model, self.per_user[model], self.fits[model], width, mark))
        lines += [
            "±: standard error of the mean over the test users.",
            f"=: not distinguishable from {row['reference']} in {first},",
            f"   because p with Holm's correction is above {self.alpha:g}.",
        ]
        if self.lower_is_better:
            lines.append(f"Lower is better: {', '.join(self.lower_is_better)}.")
        if not self.finished:
            lines.append(f"{self._progress} (cut): not finished.")
        return "\n".join(lines)

    @property
    def _progress(self) -> str:
        n_finished = sum(fit["finished"] for fit in self.fits.values())
        n_models = len(self.fits) + len(self.missing)
        return f"The run was interrupted: {n_finished} of {n_models} models are finished."


@validated
def compare(
    models: Any,
    X: Any,
    *,
    X_test: Any = None,
    X_val: Any = None,
    cv: Any = None,
    scoring: Any = ndcg_at_k,
    reference: str | None = None,
    test: PairedTest = "ttest_rel",
    alpha: Fraction = 0.05,
    random_state: Seeds = None,
    path: Any = None,
    verbose: Verbose = 0,
) -> Comparison:
    r"""Fit and score many models on the same users, and test which differences are real.

    Each user is one observation. The values of two models for the same user are paired, so that
    differences between users do not hide a difference between models.

    Parameters
    ----------
    models : dict of str to estimator, or list of (str, estimator)
        Models by name. Clones of them are fitted, so they are not changed. They need ``fit`` and
        ``predict``, so they may be pipelines and searches.
    X : {array-like, sparse matrix} of shape (n_users, n_items) or Bunch
        Interactions of the training users or, with ``cv``, of all users. The Bunch of
        :func:`strong_generalization_split` holds X, ``X_test`` and ``X_val``.
    X_test : matrix of shape (n_test_users, n_items), pair of matrices or None, default=None
        Interactions of the test users. The scorers hold out part of each row. A pair is the fold-in
        part, which is the input of the models, and the held-out part of the same users. For weak
        generalization and for splits by time, this is ``(X, heldout)``. With None, ``cv`` splits X.
    X_val : matrix of shape (n_val_users, n_items), pair of matrices or None, default=None
        Validation users for models whose ``fit`` has this argument, see :class:`MultVAE`. With
        None, these models hold out part of the training users.
    cv : int, cross-validation splitter, iterable or None, default=None
        How to split the users of X into training and test users if ``X_test`` is not given. An int
        is the number of splits of a :class:`UserSplitter` with ``random_state=0``; None stands for
        5. No user may be a training user and a test user of one split. A user in several test sets
        has the mean of the values.
    scoring : RankingScorer, MultiRankingScorer or sequence of RankingScorer, default=ndcg_at_k
        The metrics. The first one determines the order of the models. The attribute
        ``greater_is_better`` of a scorer says whether the best model has the highest or the lowest
        mean.
    reference : str or None, default=None
        Name of the model with which the others are compared. With None, it is the best model of
        each metric.
    test : {"ttest_rel", "wilcoxon"} or callable, default="ttest_rel"
        Paired test: a function of ``scipy.stats``, or a function ``test(a, b)`` of the values of
        two models for the same users whose result has the attribute ``pvalue``. The t-test is for
        means; Wilcoxon's signed-rank test is for the ranks of the differences.
    alpha : float, default=0.05
        Level at which a difference counts as distinguishable.
    random_state : int, sequence of int or None, default=None
        Seed that replaces every parameter ``random_state`` of the models, also within a pipeline.
        With a sequence, each model that has this parameter is fitted once per seed, and a user's
        value is the mean over the seeds. With None, the models keep their own.
    path : str, path-like or None, default=None
        CSV file, which is replaced. The table is written to it after each model. The values per
        user are written to a file of the same name that ends in ".safetensors". Another call with
        the same path reads from there the models that are finished. A model counts as finished only
        if its name, its parameters, the data, the splits, the metrics and the version of skvaecf
        are the same. The definition of a custom class or function is not compared. Only one call at
        a time may write to a path.
    verbose : int, default=0
        With 1, show a progress bar, and print the result of each model when it is finished.

    Returns
    -------
    comparison : Comparison
        The table, and the values per user. Ctrl-C ends the run with a warning: the comparison then
        holds the models so far, and ``comparison.finished`` is False.

    Raises
    ------
    ValueError
        If there are no models or two of one name, if the scorers or the data are invalid or do not
        fit together, if no test user has held-out interactions, if a file is damaged, or if a
        parameter is invalid.
    OSError
        If the files cannot be read or written.
    KeyboardInterrupt
        If Ctrl-C ends the run before there is any value.

    See Also
    --------
    Comparison : The result: a table, and the values per user.
    BenchmarkDisplay : Plots the result.
    RankingScorer : The scorers that it accepts.

    Notes
    -----
    With the difference :math:`d_u` of two models for user u, and n users,

    .. math::

        \bar d = \frac1n \sum_u d_u, \qquad
        \mathrm{SE} = \sqrt{\frac{\sum_u (d_u - \bar d)^2}{n (n - 1)}}, \qquad
        t = \bar d / \mathrm{SE}.

    Holm's correction multiplies the r-th smallest of the m p-values of a metric by m - r + 1. If
    the reference has a name, m is the number of the other models. The best model is chosen by the
    same users, which makes differences look larger than they are. So without a name, m is the
    number of all pairs of models. The probability that any model is called distinguishable although
    it is equal to the reference is then at most alpha. Metrics are corrected separately.

    The tests assume that users are independent. They account for the choice of the test users, but
    not for the seeds or the choice of the training users. ``seed_std`` shows the effect of the
    seeds. With ``cv``, the users of one test set also share a fitted model, which the tests ignore.

    Models are fitted one after the other, so that their seconds can be compared.

    References
    ----------
    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 1979.

    Examples
    --------
    >>> from skvaecf import EASE, Popularity, compare, strong_generalization_split
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=600, n_items=60, random_state=0)
    >>> models = {"popular": Popularity(), "l2=10": EASE(l2=10), "l2=9": EASE(l2=9)}
    >>> table = compare(models, strong_generalization_split(X, 200)).table
    >>> table["model"].tolist(), table["distinguishable"].tolist()
    (['l2=9', 'l2=10', 'popular'], [False, False, True])
    >>> table["mean"].round(3), table["p_value"].round(3)
    (array([0.5  , 0.499, 0.269]), array([  nan, 0.479, 0.   ]))
    """
    named = _check_models(models)
    scorer = _check_scoring(scoring)
    if isinstance(X, Mapping):
        X, X_test, X_val = _parts_of(X, X_test, X_val)
    splits = _Splits(X, X_test, X_val, cv)
    if reference is not None and reference not in named:
        raise ValueError(f"reference must be a name in {list(named)}, got {reference!r}.")
    seeds = [random_state] if random_state is None else np.atleast_1d(random_state).tolist()
    if not seeds:
        raise ValueError("random_state must hold one seed or more, got none.")

    store = ComparisonFiles(path)
    data = splits.fingerprint() if path is not None else ""
    runs = {}
    for name, model in named.items():
        model = _with_parameter(model, "random_state", random_state)
        runs[name] = model, store.key(name, _with_parameter(model, "verbose", 0), data, scorer)
    records: dict[str, Record] = {}
    lower = tuple(each.name for each in scorer.scorers if not each.greater_is_better)

    def comparison() -> Comparison:
        missing = tuple(name for name in named if name not in records)
        per_user = {name: record["values"] for name, record in records.items()}
        fits = {name: record["fit"] for name, record in records.items()}
        # Until the reference is fitted, the other models are compared with the best of them.
        known = reference if reference in records else None
        return Comparison(per_user, fits, missing, lower, known, test, alpha)

    width = _name_width(named)
    if verbose:
        done = [name for name, (_, key) in runs.items() if key in store.records]
        tqdm.write(f"Read from {store.values}: {', '.join(done)}\n" if done else "", end="")
        tqdm.write(_header([each.name for each in scorer.scorers], width))
    try:
        with ProgressBar("compare", len(named), verbose, unit="models") as bar:
            for name, (model, key) in runs.items():
                record = store.records.get(key) or _run(model, splits, scorer, seeds)
                records[name] = record
                if verbose:
                    tqdm.write(_line(name, record["values"], record["fit"], width))
                if not record["fit"]["finished"]:
                    break
                if key not in store.records:
                    store.records[key] = record
                    store.write(comparison())
                bar.update()
    except KeyboardInterrupt:
        if not records:
            raise KeyboardInterrupt(
                "compare was interrupted before the first model had a value: there is no result"
            ) from None
    result = comparison()
    store.write(result)
    if not result.finished:
        warnings.warn(result._progress, stacklevel=3)  # of the caller: compare is wrapped
    return result


class _Splits:
    """The splits of the users: one that the caller made, or those of a splitter.

    Iteration yields, for each split, the training rows, the test rows, the held-out interactions of
    the test users (None if the scorers hold them out), and the numbers of the test users.
    """

    def __init__(self, X: Any, X_test: Any, X_val: Any, cv: Any) -> None:
        self.n_users, n_items = check_rows(X, min_rows=1).shape
        self.X, self.X_val = X, X_val
        self.fold_in, self.heldout, self.folds = None, None, []
        if X_test is None:
            if cv is None or isinstance(cv, Integral):
                cv = UserSplitter(5 if cv is None else cv, random_state=0)
            self.folds = list(check_cv(cv).split(X))
            if any(np.isin(test, train).any() for train, test in self.folds):
                raise ValueError(
                    "cv must not yield the same users for training and test. For splits of the"
                    " interactions of the same users, pass X and X_test=(X, heldout)."
                )
            return
        if cv is not None:
            raise ValueError(f"cv must be None if X_test is given, got {cv!r}.")
        pair = X_test if isinstance(X_test, tuple) else (X_test, None)
        if len(pair) != 2:
            raise ValueError(f"X_test must be a matrix or a pair of them, got {len(pair)} values.")
        self.fold_in, self.heldout = pair
        self.n_users = check_rows(self.fold_in, "X_test").shape[0]
        shapes = [np.shape(part) for part in pair if part is not None]
        if set(shapes) != {(self.n_users, n_items)}:
            raise ValueError(
                f"X_test must have the {n_items} items of X, and a pair the same users in both"
                f" matrices, got the shapes {shapes}."
            )

    def __iter__(self) -> Iterator[tuple[Any, Any, Any, NDArray[np.int64]]]:
        if self.fold_in is not None:
            yield self.X, self.fold_in, self.heldout, np.arange(self.n_users)
        for train, test in self.folds:
            yield _safe_indexing(self.X, train), _safe_indexing(self.X, test), None, test

    def fingerprint(self) -> str:
        """Return a hash of all matrices and of the rows of all splits."""
        X_val = self.X_val if isinstance(self.X_val, tuple) else (self.X_val,)
        parts: list[Any] = [(np.int64(train), np.int64(test)) for train, test in self.folds]
        for matrix in (self.X, self.fold_in, self.heldout, *X_val):
            if matrix is None:
                parts.append(None)
                continue
            rows = stored_interactions(matrix)
            rows.sum_duplicates()
            numbers = np.float64(rows.data), np.int64(rows.indices), np.int64(rows.indptr)
            parts.append((rows.shape, *numbers))
        return str(joblib.hash(parts))


def _run(model: Any, splits: _Splits, scorer: MultiRankingScorer, seeds: list[Any]) -> Record:
    """Fit and score a model in each split with each seed.

    Ctrl-C ends this; if there is a value by then, what is known so far is returned.
    """
    seeds = seeds if _names_of(model, "random_state") else seeds[:1]
    values, fits = [], []
    finished = False
    try:
        for number, seed in enumerate(seeds):
            for X, X_test, heldout, users in splits:
                fitted = _with_parameter(model, "random_state", seed)
                fit_seconds, interrupted = _fit(fitted, X, splits.X_val)
                start = time.perf_counter()
                values.append((number, users, scorer.per_user(fitted, X_test, heldout)))
                recommend_seconds = time.perf_counter() - start
                fits.append((fit_seconds, recommend_seconds, getattr(fitted, "best_iter_", np.nan)))
                if interrupted:
                    raise KeyboardInterrupt
        finished = True
    except KeyboardInterrupt:
        if not fits:
            raise
    values = values[: len(fits)]  # Ctrl-C may come between the two
    per_user, seed_std = {}, {}
    for metric in values[0][2]:
        parts = [(number, users, of_split[metric]) for number, users, of_split in values]
        per_user[metric], seed_std[metric] = _mean_of(parts, len(seeds), splits.n_users)
    if all(np.isnan(of_metric).all() for of_metric in per_user.values()):
        raise ValueError("No test user has held-out interactions.")
    fit_seconds, recommend_seconds, best_iter = np.mean(fits, axis=0).tolist()
    fit = {
        "seed_std": seed_std,
        "fit_seconds": fit_seconds,
        "recommend_seconds": recommend_seconds,
        "best_iter": best_iter,
        "finished": finished,
        "params": " ".join(str(model).split()),
    }
    return {"values": per_user, "fit": fit}


def _fit(model: Any, X: Any, X_val: Any) -> tuple[float, bool]:
    """Fit a model; return the seconds, and whether Ctrl-C ended the fit.

    After Ctrl-C, a model that is trained in epochs keeps those so far and warns.
    """
    takes_X_val = X_val is not None and "X_val" in inspect.signature(model.fit).parameters
    message = "fit was interrupted"
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message)
        start = time.perf_counter()
        model.fit(X, **({"X_val": X_val} if takes_X_val else {}))
        seconds = time.perf_counter() - start
    others = [warning for warning in caught if not str(warning.message).startswith(message)]
    for other in others:
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return seconds, len(others) < len(caught)


def _mean_of(
    parts: list[tuple[int, NDArray[np.int64], PerUser]], n_seeds: int, n_users: int
) -> tuple[PerUser, float]:
    """Return the mean value of each user, and the standard deviation of the means of the seeds.

    A part holds the number of the seed, the numbers of the users, and their values: an array of
    shape (n_users_of_part,), or of shape () if one number holds for all users.
    """
    shape = (n_seeds, n_users)[: 1 + parts[0][2].ndim]
    total, count = np.zeros(shape), np.zeros(shape)
    for number, users, values in parts:
        place = (number, users)[: 1 + values.ndim]
        total[place] += values
        count[place] += 1
    with np.errstate(invalid="ignore"):  # users who were not tested have 0 / 0
        means = [mean_and_error(of_seed)[0] for of_seed in total / count]
        return np.asarray(total.sum(axis=0) / count.sum(axis=0)), _std(np.array(means))


def _std(values: PerUser) -> float:
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if len(known) > 1 else np.nan


def _check_models(models: Any) -> dict[str, Any]:
    """Return the models by name; raise a ValueError if they are not models with distinct names."""
    pairs = list(models.items() if isinstance(models, Mapping) else models)
    if not pairs or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError(
            "models must be a dict of estimators by name, or a list of (name, estimator), with at"
            f" least one, got {models!r}."
        )
    names = [name for name, _ in pairs]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"models must have different names, which are strings, got {names}.")
    for name, model in pairs:
        if isinstance(model, type) or not (hasattr(model, "fit") and hasattr(model, "predict")):
            raise ValueError(
                f"models must be estimators with fit and predict, got {model!r} as {name!r}."
            )
    return dict(pairs)


def _check_scoring(scoring: Any) -> MultiRankingScorer:
    if isinstance(scoring, MultiRankingScorer):
        return scoring
    try:
        scorers = (scoring,) if isinstance(scoring, RankingScorer) else tuple(scoring)
        return MultiRankingScorer(scorers)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "scoring must be a RankingScorer, a MultiRankingScorer or a sequence of RankingScorer,"
            f" got {scoring!r}: {error}"
        ) from error


def _parts_of(data: Mapping[str, Any], X_test: Any, X_val: Any) -> tuple[Any, Any, Any]:
    """Return X, ``X_test`` and ``X_val`` of a Bunch; those that are given take precedence."""
    test, validation = (
        [f"{users}_{part}" for part in ("fold_in", "heldout")] for users in ("test", "validation")
    )
    needed = ["train", *validation, *test]
    if not set(needed) <= set(data):
        raise ValueError(f"X must be a matrix or a Bunch with {needed}, got one with {[*data]}.")
    if X_test is None:
        X_test = tuple(data[name] for name in test)
    if X_val is None:
        X_val = tuple(data[name] for name in validation)
    return data["train"], X_test, X_val


def _names_of(model: Any, parameter: str) -> list[str]:
    """Return the names of this parameter in a model and in the estimators within it."""
    return [name for name in model.get_params() if name.split("__")[-1] == parameter]


def _with_parameter(model: Any, parameter: str, value: Any) -> Any:
    """Return a clone that has this value of the parameter, unless the value is None."""
    model = clone(model)
    names = [] if value is None else _names_of(model, parameter)
    return model.set_params(**dict.fromkeys(names, value))


def _name_width(names: Iterable[str]) -> int:
    return max(map(len, names)) + len(CUT)


def _header(metrics: list[str], width: int) -> str:
    first, *others = metrics
    cells = "".join(f"{metric:>{max(10, len(metric) + 1)}}" for metric in others)
    return f"{'':{width}}{first:>9}{'':9}{cells}{'fit, s':>8}"


def _line(
    name: str, values: dict[str, PerUser], fit: dict[str, Any], width: int, mark: str = ""
) -> str:
    """Return a line of the printed table: the first metric, its standard error, the others."""
    first, *others = values
    mean, error = mean_and_error(values[first])
    cells = "".join(
        f"{mean_and_error(values[metric])[0]:>{max(10, len(metric) + 1)}.4f}" for metric in others
    )
    name = name if fit["finished"] else name + CUT
    return f"{name:{width}}{mean:>9.4f} ±{error:.4f}{mark:2}{cells}{fit['fit_seconds']:>8.1f}"
