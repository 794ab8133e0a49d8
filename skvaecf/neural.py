"""Recommenders with a network: devices, epochs, early stopping, state."""

from __future__ import annotations

import os
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from tqdm.auto import tqdm

from ._callback_support import CallbackSupportMixin, with_callbacks
from ._checks import check_count, is_count
from ._devices import check_device, check_precision, device_or_cpu
from ._ranks import check_equal_on_ranks, copy_from_first_rank, n_ranks, of_first_rank
from ._version import __version__
from .base import (
    BaseRecommender,
    LatentFactorMixin,
    Scorer,
    SimilarItemsMixin,
    cosines,
)
from .checkpoint import Checkpoint, arrays, digest, digest_rows
from .interactions import InteractionBatch, binary_csr, check_rows
from .metrics import ndcg
from .model_selection import split_interactions
from .modules import TopItems, initialize, set_precision
from .ranking import rank
from .training import (
    Game,
    Order,
    Player,
    Progress,
    by_batch,
    move_average,
    shuffled_minibatches,
)

Pair = tuple[csr_array, csr_array]  # what is seen of users, and what must be found

MIN_INTERACTIONS = 5  # of a user held out for early stopping


class TorchRecommender(CallbackSupportMixin, SimilarItemsMixin, LatentFactorMixin, BaseRecommender):
    """Base of the recommenders that train a network.

    A subclass builds its network, names its players (see :mod:`skvaecf.training`), and says how
    the network represents rows. Parameters are those of its own constructor; the ones read
    here are documented in :class:`skvaecf.MultVAE`.
    """

    # Those of training: a fitted model keeps what else its network was built with.
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "ema_decay": [Interval(Real, 0, 1, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
    }

    # What a model of one's own has without naming it as a parameter.
    learning_rate: float = 1e-3
    batch_size: int | Literal["auto"] = "auto"
    max_epochs: int = 200
    ema_decay: float = 0.8
    early_stopping: bool = True
    validation_fraction: float = 0.1
    n_iter_no_change: int = 20
    device: str | torch.device = "auto"
    precision: str = "auto"
    random_state: Any = None
    verbose: int = 0
    warm_start: bool = False
    network_: Any

    # In which order the players move.
    _order: ClassVar[Order] = staticmethod(by_batch)

    @abstractmethod
    def _build(self, n_users: int, n_items: int) -> nn.Module:
        """Build the network; its parameters are drawn afterwards."""

    @abstractmethod
    def _players(self, network: Any) -> list[Player]:
        """Name the players of the training game."""

    @abstractmethod
    def _latent(self, network: Any, x: InteractionBatch) -> Tensor:
        """Represent rows, without randomness, shape (n_users, n_components)."""

    def _logits(self, network: Any, x: InteractionBatch) -> Tensor:
        """Score all items for rows, without randomness, shape (n_users, n_items)."""
        logits: Tensor = network.decoder(self._latent(network, x))
        return logits

    def _game_rows(self, X: csr_array) -> csr_array:
        """Give the rows that the game is played on: those of the users."""
        return X

    def _settle(self, network: Any, x: InteractionBatch) -> None:
        """After an epoch, set buffers that follow from the parameters and the game's rows."""

    @with_callbacks
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        X_val: Any = None,
        checkpoint_path: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
    ) -> Self:
        """Learn from an interaction matrix.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions. A stored positive value is an interaction, whatever its size.
        y : Ignored
            Present for scikit-learn's tools.
        X_val : {array-like, sparse matrix} of shape (n_val_users, n_items), pair of them, or \
None, default=None
            Interactions of other users, to choose the best epoch by when ``early_stopping``; a
            fifth of each row that has at least 5 is held out. A pair is what to start from and
            what is held out, row by row, and may be of the users in X. None sets a share
            ``validation_fraction`` of the users in X apart.
        checkpoint_path : str, path-like or None, default=None
            File that keeps the state of training while fit runs. If it is there already, because
            a fit was killed, fit goes on from it, and ends with the numbers of a fit that was not
            killed, to the bit. It is removed when fit is done. None keeps no file.
        checkpoint_every : int, default=1
            Epochs from one state in the file to the next.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If X or X_val hold NaN, infinity or negative values, are empty or corrupt, if no user of
            X_val has 5 interactions to validate by, if a parameter is invalid, or if the file is
            damaged or of a fit with other data or parameters.
        OSError
            If the file cannot be written when fit begins. Later on, a state that cannot be written
            is a warning, and the state before stays in the file.
        FloatingPointError
            If a loss becomes NaN or infinite. The best epoch before that is kept.

        Notes
        -----
        Interrupted from the keyboard, fit keeps the best epoch so far and warns. A file at
        ``checkpoint_path`` stays after that and after any error. It is about five times as large
        as the parameters, and as safe to read as that of :func:`skvaecf.load`. A ``random_state``
        that is a RandomState instance must be as it was when the fit began, and a parameter that is
        an object of another's making must show its values in its ``repr``.

        Where a process group of torch.distributed is initialised, every rank must call fit, with
        the same data and parameters, or it is a ValueError: the ranks share the rows of each
        mini-batch, and end with the same model.
        """
        self._validate_params()
        rows = check_rows(X)
        if isinstance(X_val, tuple):
            X_val = _check_pair(X_val, rows.shape[1])
        elif X_val is not None:
            X_val = _check_validation_rows(X_val, rows.shape[1])
            if self.early_stopping and np.diff(X_val.indptr).max(initial=0) < MIN_INTERACTIONS:
                raise ValueError(
                    f"X_val must hold a user with at least {MIN_INTERACTIONS} interactions."
                )
        if checkpoint_path is not None:
            checkpoint_path = Path(checkpoint_path)
        check_count("checkpoint_every", checkpoint_every)
        if self._warm_network() is not None:
            validate_data(self, X, skip_check_array=True, reset=False)
        previous = getattr(self, "history_", None)
        columns = BaseEstimator()
        validate_data(columns, X, skip_check_array=True)  # notes their names
        try:
            self._fit(
                binary_csr(rows),
                X_val,
                names=getattr(columns, "feature_names_in_", None),
                checkpoint_path=checkpoint_path,
                checkpoint_every=checkpoint_every,
            )
        finally:
            # After an error, too, if epochs were completed before it.
            if getattr(self, "history_", None) is not previous:
                validate_data(self, X, skip_check_array=True)
        return self

    def _validate_params(self) -> None:
        super()._validate_params()
        check_device(self.device)
        for name, sizes in self.get_params(deep=False).items():
            if name.endswith("layer_sizes") and not all(map(is_count, sizes)):
                raise ValueError(f"{name} must hold integers of at least 1, got {sizes!r}.")

    def _fit(
        self,
        X: csr_array,
        X_val: csr_array | Pair | None = None,
        *,
        names: np.ndarray | None = None,
        checkpoint_path: Path | None = None,
        checkpoint_every: int = 1,
    ) -> None:
        """Play epoch after epoch; keep the best one."""
        device = check_device(self.device)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        seed = of_first_rank(seed)
        identity = self._identity(X, X_val, seed) if checkpoint_path or n_ranks() > 1 else {}
        check_equal_on_ranks(identity)
        checkpoint = Checkpoint(checkpoint_path, checkpoint_every, identity, seed)
        generator = torch.Generator(device).manual_seed(checkpoint.seed)
        train, validation = self._hold_out(X, X_val, checkpoint.seed)
        x = InteractionBatch.from_csr(self._game_rows(train), device)
        shape = train.shape
        del train  # a copy of X
        if checkpoint.state is None:
            network = self._initial_network(x, shape, generator)
        else:
            network = self._empty_network(shape, device)
        copy_from_first_rank(network)  # what GPUs have pretrained may differ in the last bits
        set_precision(network, check_precision(self.precision, device))
        network.train()
        averaged = deepcopy(network).eval().requires_grad_(False)
        game = Game(self._players(network), type(self)._order)
        auto = min(max(100, x.n_users // 20), 500)
        batch_size = auto if isinstance(self.batch_size, str) else self.batch_size

        progress = Progress(network, averaged, game, generator)
        checkpoint.resume(progress.load_state_dict)
        history, best = progress.history, progress.best
        fitted_so_far = partial(self._fitted_so_far, shape, names, progress)
        epochs = range(len(history) + 1, self.max_epochs + 1)
        task = self._init_callback_context(max_subtasks=len(epochs))
        task.call_on_fit_task_begin(estimator=self, X=X)
        bar = tqdm(epochs, type(self).__name__, disable=not self.verbose)
        try:
            for epoch in bar:
                subtask = task.subcontext(task_name="epoch")
                subtask.call_on_fit_task_begin(estimator=self)
                started = time.perf_counter()
                minibatches = shuffled_minibatches(x.n_users, batch_size, epoch - 1, generator)
                record = game.play(x, minibatches, generator)
                move_average(averaged, network, self.ema_decay, epoch)
                self._settle(averaged, x)
                copy_from_first_rank(averaged)
                if validation is not None:
                    record["validation_ndcg"] = self._validate(averaged, *validation)
                record["seconds"] = time.perf_counter() - started
                record = of_first_rank(record)
                bar.set_postfix({key: f"{value:.4g}" for key, value in record.items()})
                history.append({"epoch": epoch, **record})
                # Without validation users the last epoch is the best.
                best.update(record.get("validation_ndcg", epoch), epoch, averaged)
                stop = subtask.call_on_fit_task_end(
                    estimator=self,
                    X=X,
                    reconstruction_attributes=fitted_so_far,
                )
                if of_first_rank(stop) or epoch - best.epoch >= self.n_iter_no_change:
                    break
                checkpoint.save(epoch, progress.state_dict)
        except KeyboardInterrupt:
            if not history:
                raise
            warnings.warn(
                f"fit was interrupted in epoch {len(history) + 1}; epoch {best.epoch} is kept.",
                stacklevel=2,
            )
        else:
            checkpoint.remove()
        finally:
            bar.close()
            # After an error, too: nothing that was learned is lost.
            if history:
                averaged.load_state_dict(best.parameters)
                self.__dict__.update(fitted_so_far())
        task.call_on_fit_task_end(estimator=self, X=X)

    def _identity(self, X: csr_array, X_val: csr_array | Pair | None, seed: int) -> dict[str, str]:
        """Tell what the numbers that are learned depend on."""
        device = check_device(self.device)
        identity = {name: repr(value) for name, value in self.get_params(deep=False).items()}
        identity.pop("verbose", None)
        if X_val is not None:
            identity["X_val"] = digest_rows(*(X_val if isinstance(X_val, tuple) else (X_val,)))
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
        """Make ``recommend`` a torch module, for ``torch.export`` and what is built upon it.

        Its ``forward(items, counts)`` takes two tensors of int64: the items of all users, user by
        user, none twice for the same, and how many each user has. It returns the best k of the
        other items and their scores, as ``recommend(X, k, return_scores=True)`` does, but equal
        scores in any order.

        Parameters
        ----------
        k : int, default=10
            Length of the lists.

        Returns
        -------
        module : torch.nn.Module
            It holds the network itself, on its device, not a copy.

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
        >>> module = MultDAE(n_components=8, max_epochs=5, random_state=0).fit(X).to_module(k=5)
        >>> items, scores = module(torch.tensor([3, 7, 1]), torch.tensor([2, 1]))  # {3, 7}, {1}
        >>> items.shape
        torch.Size([2, 5])
        """
        check_is_fitted(self)
        if not is_count(k) or k > self.n_features_in_:
            raise ValueError(f"k must be an integer in [1, {self.n_features_in_}], got {k!r}.")
        return TopItems(self.network_, self._logits, self.n_features_in_, k)

    def _fitted_so_far(
        self, shape: tuple[int, int], names: np.ndarray | None, progress: Progress
    ) -> dict[str, Any]:
        """Attributes that make a fitted recommender of the training so far."""
        of_training = TorchRecommender._parameter_constraints
        params = self.get_params(deep=False)
        return {
            "network_": progress.averaged,
            "history_": [*progress.history],
            "n_iter_": len(progress.history),
            "best_iter_": progress.best.epoch,
            "_shape": shape,
            # To build the network again, whatever becomes of the parameters until then.
            "_built_with": {n: value for n, value in params.items() if n not in of_training},
            "n_features_in_": shape[1],
            "feature_names_in_": names,
        }

    def _hold_out(
        self, X: csr_array, X_val: csr_array | Pair | None, seed: int
    ) -> tuple[csr_array, Pair | None]:
        """Set validation users apart; cut their rows in what is seen and what must be found."""
        if not self.early_stopping:
            return X, None
        if isinstance(X_val, tuple):
            return X, X_val
        if X_val is None:
            eligible = np.flatnonzero(np.diff(X.indptr) >= MIN_INTERACTIONS)
            n_val = max(1, round(self.validation_fraction * len(eligible)))
            n_val = min(n_val, len(eligible), X.shape[0] - 1)
            if n_val == 0:
                return X, None
            chosen = np.random.RandomState(seed).permutation(eligible)[:n_val]
            X_val, X = X[chosen], X[np.setdiff1d(np.arange(X.shape[0]), chosen)]
        fold_in, heldout = split_interactions(
            X_val, random_state=seed, min_interactions=MIN_INTERACTIONS
        )
        return X, ((fold_in, heldout) if heldout.nnz else None)

    def _validate(self, network: nn.Module, fold_in: csr_array, heldout: csr_array) -> float:
        """Mean NDCG@100 of the validation users."""
        ranked, _ = rank(lambda block: self._score(network, fold_in[block]), fold_in, 100)
        return float(np.nanmean(ndcg(ranked, heldout, 100)))

    def _scorer(self) -> Scorer:
        return partial(self._score, self.network_)

    def _score(self, network: nn.Module, X: csr_array) -> Tensor:
        with torch.no_grad():
            return self._logits(network, _batch(X, network))

    def _encoder(self) -> Callable[[csr_array], Tensor]:
        return lambda X: self._latent(self.network_, _batch(X, self.network_))

    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        return cosines(self.network_.decoder.logits.weight.detach().T)

    def _warm_network(self) -> nn.Module | None:
        """Return the network to go on from, if that is asked for and there is one."""
        return getattr(self, "network_", None) if self.warm_start else None

    def _initial_network(
        self, x: InteractionBatch, shape: tuple[int, int], generator: torch.Generator
    ) -> nn.Module:
        network = self._empty_network(shape, generator.device)
        warm = self._warm_network()
        if warm is None:
            initialize(network, generator, x)
            return network
        try:
            network.load_state_dict(warm.state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"warm_start needs a network of the same layer sizes as before: {error}"
            ) from error
        return network

    def _empty_network(self, shape: tuple[int, int], device: torch.device) -> nn.Module:
        # Built without storage, so that torch's own initialisation draws no global random number.
        with torch.device("meta"):
            network = self._build(*shape)
        return network.to(torch.float32).to_empty(device=device)

    def __getstate__(self) -> dict[str, Any]:
        """Keep arrays and plain values only: no class of torch is needed to read them."""
        state = super().__getstate__()
        if "network_" in state:
            network = state.pop("network_")
            state["_parameters"] = {n: p.cpu().numpy() for n, p in network.state_dict().items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        parameters = state.pop("_parameters", None)
        super().__setstate__(state)
        if parameters is not None:
            built_with = self.get_params(deep=False) | getattr(self, "_built_with", {})
            as_fitted = type(self)(**built_with)
            BaseEstimator._validate_params(as_fitted)
            network = as_fitted._empty_network(self._shape, device_or_cpu(self.device))
            network.load_state_dict({n: torch.tensor(a) for n, a in parameters.items()})
            self.network_ = network.eval()


def _check_validation_rows(X_val: Any, n_items: int) -> csr_array:
    rows = check_rows(X_val, "X_val")
    if rows.shape[1] != n_items:
        raise ValueError(f"X_val must have the {n_items} items of X, got {rows.shape[1]}.")
    return binary_csr(rows)


def _check_pair(X_val: tuple[Any, ...], n_items: int) -> Pair:
    if len(X_val) != 2:
        raise ValueError(f"X_val must be a matrix or a pair of them, got {len(X_val)} values.")
    fold_in, heldout = (_check_validation_rows(part, n_items) for part in X_val)
    if fold_in.shape != heldout.shape or not heldout.nnz:
        raise ValueError(
            f"The second matrix of X_val must hold interactions of the {fold_in.shape[0]} users of"
            f" the first, got shape {heldout.shape} with {heldout.nnz} interactions."
        )
    return fold_in, heldout


def _batch(X: csr_array, network: nn.Module) -> InteractionBatch:
    """Put rows on the device of a network."""
    return InteractionBatch.from_csr(X, next(network.parameters()).device)
