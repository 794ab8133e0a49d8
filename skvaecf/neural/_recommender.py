"""Base of the recommenders that train a network: epochs, early stopping, devices, state."""

from __future__ import annotations

import os
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import KW_ONLY, field
from functools import partial
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from .._batch import InteractionBatch
from .._checks import check_count, is_count
from .._devices import as_tensor, check_device, check_precision, default_modes, device_or_cpu
from .._parameters import (
    AtLeastTwo,
    Device,
    Fraction,
    Positive,
    PositiveInt,
    Precision,
    RandomState,
    Rate,
    Verbose,
)
from .._partial_fit import grown_columns, widened
from .._progress import ProgressBar
from .._top_k import as_index
from .._vectors import LatentFactorMixin, SimilarItemsMixin, cosines
from .._version import __version__
from ..base import BaseRecommender, Scorer
from ..inspection import Explainer, products_of_entries
from ..interactions import as_counts, binary_csr, check_rows, check_user_weights, count_users
from ..metrics import ndcg
from ..model_selection import split_interactions
from ..ranking import rank
from ._callback_support import CallbackSupportMixin, with_callbacks
from ._checkpoint import Checkpoint, arrays, digest, digest_rows
from ._growth import load_grown
from ._item_sampling import ItemSampling, Sampling, all_items, other_tensors_of_items
from ._layers import TopItems, initialize, set_precision
from ._likelihoods import LIKELIHOODS, likelihood_class
from ._process_group import broadcast_from_rank_0, check_equal_on_ranks, copy_from_rank_0, n_ranks
from ._svd_start import start_from_svd
from ._training import Game, Order, Player, Progress, by_batch, by_epoch, move_average

__all__ = ["TorchRecommender"]

Pair = tuple[csr_array, csr_array]  # fold-in and held-out interactions of the same users

# "auto" of n_sampled_items
MANY_ITEMS, SAMPLED_ITEMS = 15_000, 2_000


class TorchRecommender(CallbackSupportMixin, SimilarItemsMixin, LatentFactorMixin, BaseRecommender):
    """Base of the recommenders that train a network.

    A subclass declares its parameters as annotated class attributes, as in a dataclass, and defines
    up to four methods, its hooks:

    * ``_build(n_users, n_items)`` returns the network, an ``nn.Module``.
    * ``_players(network, x)`` returns a list of :class:`~skvaecf.neural.Player`: the losses and the
      parameters that lower them. ``x`` is an :class:`~skvaecf.neural.InteractionBatch` with the
      rows of all training users.
    * ``_latent(network, x)`` returns the latent vectors of the rows ``x``, a tensor of shape
      (n_users, n_components).
    * ``_logits(network, x)`` returns the ranking scores of all items for the rows ``x``, a float32
      tensor of shape (n_users, n_items). A subclass needs it only if the scores are not
      ``network.decoder(self._latent(network, x))``.

    ``_latent`` and ``_logits`` must not draw random numbers. The class attribute ``_order`` is the
    order in which the players make their updates: ``staticmethod(by_batch)`` by default, or
    ``staticmethod(by_epoch)``. For ``similar_items``, a network that is not an
    :class:`~skvaecf.neural.Autoencoder` needs a method ``item_vectors()``, which returns the
    vectors that score the items, a tensor of shape (n_items, n_components).

    This class has the parameters of training, which :class:`skvaecf.MultVAE` documents. A subclass
    may declare them again with other defaults. :doc:`/user_guide/extending` has a complete example.

    Attributes
    ----------
    network_ : nn.Module
        The trained network.
    history_ : list of dict
        Per epoch: its number, the mean loss of each player and the other values that it logged, the
        validation NDCG@100, seconds.
    n_iter_ : int
        Number of epochs that were run.
    best_iter_ : int
        Epoch whose parameters are kept, counted from 1.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.
    """

    _: KW_ONLY
    learning_rate: Positive = 1e-3
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    batch_size: PositiveInt | Literal["auto"] = "auto"
    max_epochs: PositiveInt = 200
    ema_decay: Rate = 0.8
    early_stopping: bool = True
    validation_fraction: Fraction = 0.1
    min_interactions: AtLeastTwo = 5
    n_iter_no_change: PositiveInt = 20
    device: Device = "auto"
    precision: Precision = "auto"
    random_state: RandomState = None
    verbose: Verbose = 0
    warm_start: bool = False

    network_: Any = field(init=False)
    _total_weight: float = field(init=False)
    _built_with: dict[str, Any] = field(init=False)
    _shape: tuple[int, int] = field(init=False)

    # The factor of N^(1/3) / S, for a model that allows l2="auto".
    _auto_l2: ClassVar[float] = 0.0
    # Whether ``partial_fit`` exists. A network with parameters of each user sets it to False.
    _takes_further_users: ClassVar[bool] = True
    # The number of epochs of each call of ``partial_fit`` after the first one.
    _further_epochs: ClassVar[int] = 3
    # The order in which the players make their updates.
    _order: ClassVar[Order] = staticmethod(by_batch)

    @abstractmethod
    def _build(self, n_users: int, n_items: int) -> nn.Module:
        """Return the network.

        It is called on the meta device of torch, where tensors have no values. The parameters are
        drawn afterwards: matrices from Glorot's uniform distribution, and vectors from a narrow
        truncated normal distribution. A module with other initial values, or with buffers, must be
        a :class:`~skvaecf.neural.SelfInitialized`.

        Parameters
        ----------
        n_users : int
            Number of training users.
        n_items : int
            Number of items.

        Returns
        -------
        network : nn.Module
        """

    @abstractmethod
    def _players(self, network: Any, x: InteractionBatch) -> list[Player]:
        """Return the players of the training game.

        Parameters
        ----------
        network : nn.Module
            The network that is trained.
        x : InteractionBatch
            Rows of all training users; ``x.n_users`` is their number.

        Returns
        -------
        players : list of Player
        """

    @abstractmethod
    def _latent(self, network: Any, x: InteractionBatch) -> Tensor:
        """Compute the latent vectors of rows, without randomness.

        Parameters
        ----------
        network : nn.Module
        x : InteractionBatch
            Rows of users, seen in ``fit`` or not.

        Returns
        -------
        z : Tensor of shape (n_users, n_components)
        """

    def _logits(self, network: Any, x: InteractionBatch) -> Tensor:
        """Compute the ranking scores of all items for rows, without randomness.

        Parameters
        ----------
        network : nn.Module
        x : InteractionBatch
            Rows of users, seen in ``fit`` or not.

        Returns
        -------
        scores : Tensor of shape (n_users, n_items), float32
            Higher is better.
        """
        logits: Tensor = network.decoder(self._latent(network, x))
        return logits

    @with_callbacks
    @default_modes()
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        checkpoint_path: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        checkpoint_seconds: float | None = 300.0,
    ) -> Self:
        """Learn from an interaction matrix.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions. A stored positive value is an interaction. Its size counts only for a
            recommender that has a parameter ``use_values`` and if this is True: otherwise, a rating
            of 1 star counts like one of 5. To keep those of 4 and more, pass ``X >= 4``.
        y : Ignored
            Present for scikit-learn's tools.
        sample_weight : array-like of shape (n_users,) or None, default=None
            Weights of the users, at least 0. The loss of a user is multiplied by the weight. A user
            with the weight 0 is left out. With None, all weights are 1. Validation users are not
            weighted.
        X_val : {array-like, sparse matrix} of shape (n_val_users, n_items), pair of them, or \
None, default=None
            Interactions of the validation users, by which the best epoch is chosen if
            ``early_stopping`` is True. A matrix holds the interactions of users who are not in X. A
            fifth of each row with ``min_interactions`` interactions is held out. A pair of matrices
            holds the fold-in and the held-out interactions of the same users, who may be users in
            X. With None, the share ``validation_fraction`` of the users in X is held out.
        checkpoint_path : str, path-like or None, default=None
            File in which the state of the training is stored while ``fit`` runs. If the file exists
            because a fit was killed, ``fit`` resumes from it. The result is equal to that of a fit
            that was not killed, to the last bit. The file is removed when ``fit`` is complete. With
            None, no file is written.
        checkpoint_every : int, default=1
            Number of epochs from one state in the file to the next.
        checkpoint_seconds : float or None, default=300.0
            Number of seconds after which the state is written within an epoch, too. With None, or
            in a process group, it is written at the end of epochs only.

        Returns
        -------
        self : object
            The fitted recommender.

        Raises
        ------
        ValueError
            If X or X_val holds NaN, infinity or negative values, or is empty or corrupt; if no user
            of X_val has ``min_interactions`` interactions; if sample_weight is not one finite
            number of at least 0 per user, or the model's loss has no terms of users to weigh; if a
            parameter is invalid; or if the file is damaged or belongs to a fit with other data or
            parameters.
        OSError
            If the file cannot be written when ``fit`` begins. Later, a state that cannot be written
            is a warning, and the file keeps the previous state.
        FloatingPointError
            If a loss becomes NaN or infinite. The best of the previous epochs is kept.

        Notes
        -----
        After an interrupt from the keyboard, ``fit`` keeps the best epoch so far and warns. In the
        first epoch it keeps the parameters after the updates so far; ``n_iter_`` is then 0. The
        file at ``checkpoint_path`` stays after an interrupt and after any error. It is about five
        times as large as the parameters. Like :func:`skvaecf.load`, ``fit`` runs no code of the
        file. To resume, a ``random_state`` that is a RandomState instance must have the same state
        as when the fit began. The ``repr`` of a parameter that is a custom object must show its
        values.

        If a process group of torch.distributed is initialised, every rank must call ``fit`` with
        the same data and parameters. If these differ, ``fit`` raises a ValueError. The ranks share
        the rows of each mini-batch and end with the same model.
        """
        self._validate_params()
        rows = check_rows(X, min_rows=1)
        weights = check_user_weights(sample_weight, rows)
        if X_val is not None:
            X_val = check_X_val(X_val, rows.shape[1], self._interactions)
            of_users = isinstance(X_val, csr_array) and self.early_stopping
            if of_users and np.diff(X_val.indptr).max(initial=0) < self.min_interactions:
                raise ValueError(
                    f"X_val must hold a user with at least {self.min_interactions} interactions."
                )
        check_count("checkpoint_every", checkpoint_every)
        if checkpoint_seconds is not None:
            check_scalar(checkpoint_seconds, "checkpoint_seconds", Real, min_val=0)
        if self._warm_network() is not None:
            validate_data(self, X, skip_check_array=True, reset=False)
        columns = BaseEstimator()
        validate_data(columns, X, skip_check_array=True)  # records their number and names
        interactions = self._interactions(rows)
        counts = count_users(interactions, weights)
        if weights is not None and not weights.all():
            interactions, weights = csr_array(interactions[weights > 0]), weights[weights > 0]
        self._fit(
            interactions,
            X_val,
            sample_weight=weights,
            columns={"feature_names_in_": None, "item_counts_": counts} | vars(columns),
            checkpoint_path=checkpoint_path,
            checkpoint_every=checkpoint_every,
            checkpoint_seconds=checkpoint_seconds,
        )
        return self

    @available_if(lambda self: self._takes_further_users)
    @default_modes()
    def partial_fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, X_before: Any = None
    ) -> Self:
        """Train for a few epochs on further users, starting from what was learned before.

        The first call is a ``fit``. The following ones make three passes over the rows of X (two in
        :class:`~skvaecf.ELSA`), with the learning rate ``learning_rate``, and no validation: the
        parameters after the last pass are kept.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions. X may have more columns than before: the last ones are new items. Their
            parameters start from those of the known items of their users.
        y : Ignored
            Present for scikit-learn's tools.
        sample_weight : array-like of shape (n_users,) or None, default=None
            Weights of the users of X, as in ``fit``.
        X_before : {array-like, sparse matrix} of shape (n_known_users, n_items) or None, \
default=None
            Rows of earlier calls, with the columns of X, that X replaces: those of users who return
            with their whole new rows, or who are repeated. They are subtracted from
            ``item_counts_``. What the network has learned from them stays.

        Returns
        -------
        self : object
            The fitted recommender.

        Raises
        ------
        ValueError
            If X or X_before holds NaN, infinity or negative values, is empty or corrupt, if it has
            fewer columns than before or columns of other names, if X_before has more interactions
            with an item than the earlier calls, if sample_weight is not one finite number of at
            least 0 per user, or if a parameter is invalid or would change the sizes of the layers.
        FloatingPointError
            If a loss becomes NaN or infinite. Nothing is changed then.

        Notes
        -----
        Passes over few users lower the quality of the lists of all other users. Passes over the
        rows of all users, or of the further users and a sample of the others, nearly keep the
        quality of a ``fit`` at the cost of these epochs or less (:ref:`fresh-data`).

        The mini-batches are larger than in ``fit``, because an update has few of them and nothing
        averages the noise of their gradients: if ``batch_size`` is "auto", they have three
        twentieths of the rows, but at least 150 and at most 500. Those of ELSA are as in ``fit``.

        ``l2_`` stays that of the first call if ``l2`` is "auto". Next to the loss of the n users of
        X it is multiplied by n / U, where U is the number of users in all calls, so that its weight
        for each user is that of a ``fit``. The weight that ``anneal_steps`` increases has its final
        value. The averages of Adam start anew. ``history_`` gets these epochs, too, and
        ``best_iter_`` is the last one.
        """
        if not hasattr(self, "network_"):
            if X_before is not None:
                raise ValueError("X_before must hold rows of earlier calls.")
            fitted: Self = self.fit(X, y, sample_weight)
            return fitted
        self._validate_params()
        rows = check_rows(X, min_rows=1)
        weights = check_user_weights(sample_weight, rows)
        columns, interactions = grown_columns(self, X), self._interactions(rows)
        n_items = interactions.shape[1]
        counts = count_users(interactions, weights) + widened(self.item_counts_, n_items)
        n_further = float(interactions.shape[0] if weights is None else weights.sum())
        n_users = self._total_weight + n_further
        if X_before is not None:
            before = check_rows(X_before, "X_before")
            if before.shape[1] != n_items:
                raise ValueError("X_before must have the columns of X.")
            counts, n_users = counts - count_users(binary_csr(before)), n_users - before.shape[0]
            if counts.min() < 0:
                raise ValueError("X_before must hold rows of earlier calls.")
        if weights is not None and not weights.all():
            interactions, weights = csr_array(interactions[weights > 0]), weights[weights > 0]
        x = InteractionBatch.from_csr(interactions, check_device(self.device), weights)
        learned = self._train_further(x, interactions, counts, n_further / max(n_users, n_further))
        self.__dict__.update(columns | learned)
        self._total_weight, self.item_counts_ = n_users, as_counts(counts)
        return self

    def _train_further(
        self, x: InteractionBatch, X: csr_array, counts: np.ndarray, share: float
    ) -> dict[str, Any]:
        """Train for a few epochs on these rows, the given share of all users."""
        device, params = x.values.device, self.get_params(deep=False)
        # Values of "auto" that were computed from the data of the first call.
        kept = {
            name: getattr(self, f"{name}_")
            for name, value in params.items()
            if isinstance(value, str) and value == "auto" and hasattr(self, f"{name}_")
        }
        params |= kept
        if self._auto_l2:
            params["l2"] *= share
        if "anneal_steps" in params:
            params["anneal_steps"] = 0
        trainer = type(self)(**params)
        seed = broadcast_from_rank_0(self._draw_seed())
        generator = torch.Generator(device).manual_seed(seed)
        network: Any = trainer._empty_network((x.n_users, x.n_items), device)
        load_grown(network, self.network_.state_dict(), self.n_features_in_, X, counts)
        if x.n_items > self.n_features_in_:
            trainer._start_new_items(network, self.n_features_in_, generator, x)
        set_precision(network, check_precision(self.precision, device))
        players = [p for p in trainer._players(network.train(), x) if not p.moves_first]
        auto = min(max(150, 3 * x.n_users // 20), 500)
        size = auto if isinstance(self.batch_size, str) else self.batch_size
        sampling, history = trainer._sampling(network, x), [*self.history_]
        game = Game(players, x, size, type(self)._order, sampling=sampling)

        def move_bar(n_before: int) -> None:
            bar.move_to(n_before + game.share_of_epoch())

        with ProgressBar(type(self).__name__, self._further_epochs, self.verbose) as bar:
            for n_before in range(self._further_epochs):
                started = time.perf_counter()
                figures = game.play(n_before, generator, partial(move_bar, n_before))
                figures["seconds"] = time.perf_counter() - started
                history.append({"epoch": self.n_iter_ + n_before + 1, **figures})
            bar.complete()
        for player in players:
            player.after_epoch(network)
        copy_from_rank_0(network)
        n_iter = self.n_iter_ + self._further_epochs
        return {
            "network_": network.eval().requires_grad_(False),
            "history_": history,
            "n_iter_": n_iter,
            "best_iter_": n_iter,
            "_shape": (self._shape[0], x.n_items),
            "_built_with": self._built_with | kept,
        }

    def _start_new_items(
        self, network: Any, n_known: int, generator: torch.Generator, x: InteractionBatch
    ) -> None:
        """Set the parameters of new items if the means over their neighbours are a bad start.

        Parameters
        ----------
        network : nn.Module
            The network with the new items, whose parameters are those means.
        n_known : int
            Number of items of the earlier calls. The new items are the last ones.
        generator : torch.Generator
        x : InteractionBatch
            Rows of the users of this call of ``partial_fit``.
        """

    def _draw_seed(self) -> int:
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def _validate_params(self) -> None:
        likelihood = getattr(self, "likelihood", "multinomial")
        if likelihood not in LIKELIHOODS and not isinstance(likelihood, type):
            raise InvalidParameterError(
                f"The 'likelihood' parameter of {type(self).__name__} must be one of"
                f" {sorted(LIKELIHOODS)} or a subclass of ItemLikelihood. Got {likelihood!r}"
                " instead."
            )
        super()._validate_params()
        if getattr(self, "use_values", False) and not likelihood_class(likelihood).takes_values:
            raise ValueError(
                f"use_values=True needs a likelihood of weighted interactions, such as"
                f" 'multinomial' or 'bernoulli'. Got likelihood={likelihood!r}, which is a"
                " distribution of sets."
            )
        for name, sizes in self.get_params(deep=False).items():
            if name.endswith("layer_sizes") and not all(map(is_count, sizes)):
                raise ValueError(f"{name} must hold integers of at least 1, got {sizes!r}.")

    def _fit(
        self,
        X: csr_array,
        X_val: csr_array | Pair | None = None,
        *,
        sample_weight: np.ndarray | None = None,
        columns: dict[str, Any] | None = None,
        checkpoint_path: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        checkpoint_seconds: float | None = None,
    ) -> None:
        """Train epoch by epoch and keep the best epoch."""
        checkpoint = self._open_checkpoint(
            X, X_val, sample_weight, checkpoint_path, checkpoint_every, checkpoint_seconds
        )
        x, validation = self._hold_out(X, X_val, sample_weight, checkpoint.seed)
        progress = self._begin(x, checkpoint)
        fitted_so_far = partial(self._fitted_so_far, x, columns or {}, progress)
        task = self._init_callback_context(max_subtasks=self.max_epochs - progress.n_epochs)
        task.call_on_fit_task_begin(estimator=self, X=X)
        n_before = progress.n_epochs
        bar = ProgressBar(type(self).__name__, self.max_epochs - n_before, self.verbose)

        def after_update() -> None:
            bar.move_to(progress.n_epochs + progress.game.share_of_epoch() - n_before)
            checkpoint.save_within_epoch(progress.state_dict)

        with bar, self._keeping_the_best(progress, fitted_so_far, checkpoint):
            for epoch in self._epochs(progress, task, bar, X=X, attributes=fitted_so_far):
                self._play_epoch(progress, x, validation, epoch, after_update)
                checkpoint.save_epoch(epoch, progress.state_dict)
            bar.complete()
        task.call_on_fit_task_end(estimator=self, X=X)

    def _open_checkpoint(
        self,
        X: csr_array,
        X_val: csr_array | Pair | None,
        sample_weight: np.ndarray | None,
        path: Any,
        every: int,
        seconds: float | None,
    ) -> Checkpoint:
        """Draw the seed and open the checkpoint."""
        seed = broadcast_from_rank_0(self._draw_seed())
        identity = {}
        if path is not None or n_ranks() > 1:
            identity = self._identity(X, X_val, sample_weight, seed)
        check_equal_on_ranks(identity)
        return Checkpoint(path, every, seconds, identity, seed)

    def _begin(self, x: InteractionBatch, checkpoint: Checkpoint) -> Progress:
        """Build the network and the game; initialise them or load the checkpoint."""
        device = x.values.device
        generator = torch.Generator(device).manual_seed(checkpoint.seed)
        resumed, warm = checkpoint.state is not None, self._warm_network()
        network: Any = self._empty_network((x.n_users, x.n_items), device)
        if warm is not None and not resumed:
            load_warm(network, warm)
        elif not resumed:
            initialize(network, generator, x)
            if getattr(self, "init", "random") == "svd":
                # MultVAE's encoder has further columns, for the log-variances.
                weights = network.encoder.item_weights[:, : network.decoder.n_components]
                latent = partial(self._latent, network)
                start_from_svd(weights, network.decoder, latent, generator, x)
        set_precision(network, check_precision(self.precision, device))
        network.train()
        players = self._players(network, x)
        first = [player for player in players if player.moves_first]
        if first and warm is None and not resumed:
            game = Game(first, x, self.batch_size, by_epoch)
            name = f"{type(self).__name__}, before the first epoch"
            with ProgressBar(name, 1, self.verbose) as bar, _nothing_to_keep():
                game.play(0, generator, lambda: bar.move_to(game.share_of_epoch()))
                bar.complete()
        copy_from_rank_0(network)  # results of GPUs may differ in the last bits
        players = [player for player in players if not player.moves_first]
        sampling = self._sampling(network, x)
        game = Game(players, x, self.batch_size, type(self)._order, self._schedule, sampling)
        averaged = deepcopy(network).eval().requires_grad_(False)
        progress = Progress(network, averaged, game, generator)
        checkpoint.resume(progress.load_state_dict)
        return progress

    def _sampling(self, network: nn.Module, x: InteractionBatch) -> Sampling:
        """Return the contexts of the updates: with all items, or with some of very many."""
        n_sampled_items = getattr(self, "n_sampled_items", None)
        auto = isinstance(n_sampled_items, str)
        if n_sampled_items is None or (auto and x.n_items <= MANY_ITEMS):
            return all_items
        larger = self._empty_network((x.n_users, x.n_items + 1), torch.device("meta"))
        others = other_tensors_of_items(network, larger, x.n_items)
        if auto:
            return all_items if others else ItemSampling(network, SAMPLED_ITEMS)
        if others:
            raise ValueError(
                f"n_sampled_items must be None: {others[0]} has a part for each item and belongs to"
                " no ItemEmbedding or ItemLogits."
            )
        return ItemSampling(network, n_sampled_items)

    def _schedule(self, epoch: float) -> float:
        """Return the factor of the learning rates after a number of epochs."""
        linear = self.learning_rate_schedule == "linear"
        return 1 - epoch / self.max_epochs if linear else 1.0

    @contextmanager
    def _keeping_the_best(
        self, progress: Progress, attributes: Callable[[], dict[str, Any]], checkpoint: Checkpoint
    ) -> Iterator[None]:
        """Set the fitted attributes to those of the best epoch, even after Ctrl-C or an error."""
        history, best = progress.history, progress.best
        try:
            yield
            checkpoint.remove()
        except KeyboardInterrupt:
            n_updates = len(progress.game.moves)
            if not history and not n_updates:
                with _nothing_to_keep():
                    raise
            if not history:
                progress.keep_unfinished_epoch()
            kept = f"epoch {best.epoch} is" if history else f"its first {n_updates} updates are"
            warnings.warn(
                f"fit was interrupted in epoch {len(history) + 1}; {kept} kept.", stacklevel=2
            )
        finally:
            if best.parameters:
                progress.averaged.load_state_dict(best.parameters)
                self.__dict__.update(attributes())
                if self.__dict__.get("feature_names_in_", "") is None:
                    del self.feature_names_in_

    def _epochs(
        self,
        progress: Progress,
        task: Any,
        bar: ProgressBar,
        *,
        X: csr_array,
        attributes: Callable[[], dict[str, Any]],
    ) -> Iterator[int]:
        """Yield the numbers of the epochs, until a callback or early stopping ends the training."""
        history, best = progress.history, progress.best
        for epoch in range(len(history) + 1, self.max_epochs + 1):
            if len(history) - best.epoch >= self.n_iter_no_change:
                return
            subtask = task.subcontext(task_name="epoch")
            subtask.call_on_fit_task_begin(estimator=self)
            yield epoch
            figures = history[-1].items()
            bar.set_postfix({key: f"{value:.4g}" for key, value in figures if key != "epoch"})
            stop = subtask.call_on_fit_task_end(
                estimator=self, X=X, reconstruction_attributes=attributes
            )
            if broadcast_from_rank_0(stop):
                return

    def _play_epoch(
        self,
        progress: Progress,
        x: InteractionBatch,
        validation: Pair | None,
        epoch: int,
        after_update: Callable[[], None],
    ) -> None:
        """Train for one epoch, average the parameters, validate, and record the values."""
        started = time.perf_counter()
        averaged, game = progress.averaged, progress.game
        figures = game.play(epoch - 1, progress.generator, after_update)
        move_average(averaged, progress.network, self.ema_decay, epoch)
        for player in game.players:
            player.after_epoch(averaged)
        copy_from_rank_0(averaged)
        if validation is not None:
            figures["validation_ndcg"] = self._validate(averaged, *validation)
        figures["seconds"] = time.perf_counter() - started
        progress.record(epoch, broadcast_from_rank_0(figures))

    def _l2_of(self, x: InteractionBatch) -> float:
        """Return the weight of the penalty next to the loss summed over the training users x."""
        l2: Any = self.l2
        if isinstance(l2, str):
            l2 = self._auto_l2 * x.n_interactions ** (1 / 3) / x.structure
        return float(l2)

    def _identity(
        self,
        X: csr_array,
        X_val: csr_array | Pair | None,
        sample_weight: np.ndarray | None,
        seed: int,
    ) -> dict[str, str]:
        """Return everything that the learned numbers depend on, by name."""
        device = check_device(self.device)
        params = self.get_params(deep=False).items()
        identity = {name: repr(value) for name, value in params if name != "verbose"}
        if X_val is not None:
            identity["X_val"] = digest_rows(*(X_val if isinstance(X_val, tuple) else (X_val,)))
        if sample_weight is not None:
            identity["sample_weight"] = digest(sample_weight)
        warm = self._warm_network()
        if warm is not None:
            identity["warm_start"] = digest(*arrays(list(warm.state_dict().values())))
        return identity | {
            "class": type(self).__name__,
            "device": device.type,
            "precision": str(check_precision(self.precision, device)),
            "random_state": "None" if self.random_state is None else f"seed {seed}",
            "ranks": str(n_ranks()),
            "version": __version__,
            "X": digest_rows(X),
        }

    def to_module(self, k: int = 10) -> nn.Module:
        """Return ``recommend`` as a torch module, for ``torch.export`` and tools that use it.

        The method ``forward(items, counts)`` of the module takes two int64 tensors: the item
        numbers of the seen items of all users, user by user, without duplicates within a user; and
        the number of seen items of each user. With ``use_values=True``, a third one takes the
        values of the interactions, float32. It returns the k best unseen items of each user and
        their scores, as ``recommend(X, k, return_scores=True)`` does. Unlike there, items with
        equal scores may have any order.

        Parameters
        ----------
        k : int, default=10
            Length of the lists.

        Returns
        -------
        module : torch.nn.Module
            It holds the network itself, not a copy, on the device of the network.

        Raises
        ------
        NotFittedError
            If the recommender is not fitted.
        ValueError
            If k is not between 1 and the number of items.

        Examples
        --------
        >>> import torch
        >>> from skvaecf import MultDAE
        >>> from skvaecf.datasets import make_interactions
        >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
        >>> module = MultDAE(8, max_epochs=5, random_state=0).fit(X).to_module(k=5)

        Lists for two users, of whom the first has the items 3 and 7, and the second the item 1:

        >>> items, scores = module(torch.tensor([3, 7, 1]), torch.tensor([2, 1]))
        >>> items.shape
        torch.Size([2, 5])
        """
        check_is_fitted(self)
        if not is_count(k) or k > self.n_features_in_:
            raise ValueError(f"k must be an integer in [1, {self.n_features_in_}], got {k!r}.")
        device = next(self.network_.parameters()).device
        counts = torch.tensor(self.item_counts_, dtype=torch.float32, device=device)
        return TopItems(self.network_, self._logits, counts, k)

    def _fitted_so_far(
        self, x: InteractionBatch, columns: dict[str, Any], progress: Progress
    ) -> dict[str, Any]:
        """Return the fitted attributes of the recommender after the epochs so far."""
        of_training = TorchRecommender._parameter_constraints
        params, shape = self.get_params(deep=False), (x.n_users, x.n_items)
        n_components = self._n_components_of(*shape)
        return {
            "network_": progress.averaged,
            "history_": [*progress.history],
            "n_iter_": len(progress.history),
            "best_iter_": progress.best.epoch,
            "_shape": shape,
            "_total_weight": float(x.total_weight),
            # To build the network again, even if the parameters have been changed since.
            "_built_with": {n: value for n, value in params.items() if n not in of_training},
            "n_features_in_": x.n_items,
            **({"l2_": self._l2_of(x)} if self._auto_l2 else {}),
            **({} if n_components is None else {"n_components_": n_components}),
            **columns,
        }

    def _n_components_of(self, n_users: int, n_items: int) -> int | None:
        """Return the number of components if ``n_components`` may be "auto", else None."""
        return None

    def _hold_out(
        self,
        X: csr_array,
        X_val: csr_array | Pair | None,
        sample_weight: np.ndarray | None,
        seed: int,
    ) -> tuple[InteractionBatch, Pair | None]:
        """Return the training rows, on the device, and the cut rows of the validation users."""
        validation = X_val if self.early_stopping else None
        if validation is None and self.early_stopping:
            eligible = np.flatnonzero(np.diff(X.indptr) >= self.min_interactions)
            n_val = max(1, round(self.validation_fraction * len(eligible)))
            chosen = np.random.RandomState(seed).permutation(eligible)
            chosen = chosen[: min(n_val, X.shape[0] - 1)]
            if len(chosen):
                others = np.setdiff1d(np.arange(X.shape[0]), chosen)
                validation, X = X[chosen], X[others]
                sample_weight = None if sample_weight is None else sample_weight[others]
            else:
                warnings.warn(
                    "early_stopping has no validation users, because no two users or more have"
                    f" min_interactions={self.min_interactions} interactions: all max_epochs="
                    f"{self.max_epochs} epochs are run, and the last one is kept.",
                    stacklevel=2,
                )
        if isinstance(validation, csr_array):
            fold_in, heldout = split_interactions(
                validation, random_state=seed, min_interactions=self.min_interactions
            )
            validation = (fold_in, heldout) if heldout.nnz else None
        return InteractionBatch.from_csr(X, check_device(self.device), sample_weight), validation

    def _validate(self, network: nn.Module, fold_in: csr_array, heldout: csr_array) -> float:
        """Compute the mean NDCG@100 of the validation users."""
        device = next(network.parameters()).device
        of_gpu = None if device.type == "cpu" else device  # the network may not allow threads
        ranked, _ = rank(
            lambda block: self._score(network, fold_in[block]), fold_in, 100, device=of_gpu
        )
        return float(np.nanmean(ndcg(ranked, heldout, 100)))

    def _scorer(self) -> Scorer:
        return partial(self._score, self.network_)

    def _score(self, network: nn.Module, X: csr_array) -> Tensor:
        with torch.no_grad():
            return self._logits(network, _batch(X, network))

    def _linear_encoder(self, network: Any) -> Tensor | None:
        """Return the weight W of an encoder without hidden layers, None for other encoders.

        With W, and without hidden layers in the decoder, ``explain`` divides the scores exactly.

        Parameters
        ----------
        network : nn.Module

        Returns
        -------
        W : Tensor of shape (n_items, n_out) or None
            The latent vectors are the first n_components columns of x W + b, for rows x of unit
            length.
        """
        return None

    def _explainer(self) -> Explainer:
        network = self.network_
        weight = self._linear_encoder(network)
        if weight is None or len(network.decoder.hidden):
            return super()._explainer()
        vectors = network.item_vectors()
        weight = weight.detach()[:, : vectors.shape[1]].contiguous()
        nothing = csr_array((1, self.n_features_in_), dtype=np.float32)
        base = self._score(network, nothing)[0]

        def contribute(X: csr_array, items: np.ndarray) -> tuple[Tensor, Tensor]:
            numbers = as_index(items, base)
            x = _batch(X, network).normalized()
            return products_of_entries(x, vectors[numbers], weight), base[numbers]

        return contribute

    def _encoder(self) -> Callable[[csr_array], Tensor]:
        return lambda X: self._latent(self.network_, _batch(X, self.network_))

    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        return cosines(self.network_.item_vectors())

    def _warm_network(self) -> nn.Module | None:
        """Return the network of the previous fit if ``warm_start`` is True and there is one."""
        return getattr(self, "network_", None) if self.warm_start else None

    def _empty_network(self, shape: tuple[int, int], device: torch.device) -> nn.Module:
        # It has no storage yet, so the constructors of torch draw no global random numbers.
        with torch.device("meta"):
            network = self._build(*shape)
        return network.to(torch.float32).to_empty(device=device)

    def __getstate__(self) -> dict[str, Any]:
        """Return arrays and plain values only, which can be read without the classes of torch."""
        state = super().__getstate__()
        if "network_" in state:
            network = state.pop("network_")
            state["_parameters"] = {n: p.cpu().numpy() for n, p in network.state_dict().items()}
        return state

    @default_modes()
    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        parameters = state.pop("_parameters", None)
        super().__setstate__(state)
        if parameters is not None:
            built_with = self.get_params(deep=False) | getattr(self, "_built_with", {})
            as_fitted = type(self)(**built_with)
            BaseEstimator._validate_params(as_fitted)
            network = as_fitted._empty_network(self._shape, device_or_cpu(self.device))
            device = next(network.parameters()).device
            # Memory maps are kept. Read-only arrays are copied: torch would write to them.
            arrays = {n: a if a.flags.writeable else a.copy() for n, a in parameters.items()}
            tensors = {name: as_tensor(array, device) for name, array in arrays.items()}
            network.load_state_dict(tensors, assign=True)
            self.network_ = network.eval()


@contextmanager
def _nothing_to_keep() -> Iterator[None]:
    """Let an interrupt from the keyboard say that it leaves no model."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "fit was interrupted before the first epoch began: there is nothing to keep"
        ) from None


def load_warm(network: nn.Module, warm: nn.Module) -> None:
    """Copy the parameters of another network with the same layer sizes."""
    try:
        network.load_state_dict(warm.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"warm_start needs a network of the same layer sizes as before: {error}"
        ) from error


def check_X_val(
    X_val: Any, n_items: int, interactions: Callable[[Any], csr_array] = binary_csr
) -> Any:
    """Validate a matrix, or a pair of fold-in and held-out matrix, of validation users."""
    if not isinstance(X_val, tuple):
        rows = check_rows(X_val, "X_val", min_rows=1)
        if rows.shape[1] != n_items:
            raise ValueError(f"X_val must have the {n_items} items of X, got {rows.shape[1]}.")
        return interactions(rows)
    if len(X_val) != 2:
        raise ValueError(f"X_val must be a matrix or a pair of them, got {len(X_val)} values.")
    fold_in, heldout = (check_X_val(part, n_items, interactions) for part in X_val)
    if fold_in.shape != heldout.shape or not heldout.nnz:
        raise ValueError(
            f"The second matrix of X_val must hold interactions of the {fold_in.shape[0]} users of"
            f" the first, got shape {heldout.shape} with {heldout.nnz} interactions."
        )
    return fold_in, heldout


def _batch(X: csr_array, network: nn.Module) -> InteractionBatch:
    """Copy rows to the device of a network."""
    return InteractionBatch.from_csr(X, next(network.parameters()).device)
