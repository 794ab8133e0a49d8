"""Training as a game: players take turns, and each player lowers its own loss.

Most models have one player. A discriminator is a further player. The gradient of a player's loss
is computed with respect to the parameters of this player only, so its updates do not change the
parameters of other players.

In a process group of torch.distributed, every rank plays the same game. It uses a share of the
rows of each mini-batch, and its own noise. Gradients and logged values are summed over the ranks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count, islice
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from .._batch import InteractionBatch, replace_entries
from .._threads import FEW_TO_LEARN, threads_for
from ._item_sampling import Sampling, all_items
from ._process_group import own_generator, own_rows, sum_over_ranks

__all__ = ["Batch", "Order", "Player", "by_batch", "by_epoch"]


def _do_nothing(*arguments: Any) -> None:
    pass


class Batch(NamedTuple):
    """A mini-batch: the argument of a loss.

    Attributes
    ----------
    users : Tensor of shape (n_rows,), int64
        Numbers of the rows in the mini-batch, counted among the rows that the player learns from.
    x : InteractionBatch
        These rows.
    step : int
        Number of updates that this player has made in this fit.
    epoch : float
        Number of epochs of this fit that are complete, plus the fraction of the current pass over
        the rows that is complete.
    generator : torch.Generator
        Source of all random numbers. A loss must not use any other source.
    weights : Tensor of shape (n_rows,), float32
        Weights of the rows: the argument ``sample_weight`` of ``fit``, or ones. A loss multiplies
        the terms of each row by the weight before it takes the mean.
    log : callable
        ``log(name, value)`` adds a value to ``history_``. The value is a tensor of shape (), such
        as a mean over the rows of the mini-batch. ``history_`` holds its mean over the updates of
        each epoch, as "<player>_<name>".
    """

    users: Tensor
    x: InteractionBatch
    step: int
    epoch: float
    generator: torch.Generator
    log: Callable[[str, Tensor], None] = _do_nothing

    @property
    def weights(self) -> Tensor:
        """Weights of the rows."""
        return self.x.row_weights


@dataclass(frozen=True)
class Player:
    """A loss, and the parameters that are updated to lower it.

    Parameters
    ----------
    name : str
        Name of the player. Its values in ``history_`` have the prefix "<name>_". No other player of
        the game may have the same name.
    parameters : sequence of nn.Parameter
        Parameters that the player updates. It does not change any others.
    loss : callable
        Maps a :class:`~skvaecf.neural.Batch` to the loss, a tensor of shape (): the mean over the
        rows of the mini-batch, with any penalties added. The terms of each row are multiplied by
        ``Batch.weights``. Otherwise, ``fit`` with ``sample_weight`` raises a ValueError.
    learning_rate : float
        Step size of Adam.
    n_passes : int, default=1
        With the order ``by_batch``, number of updates on each mini-batch. With ``by_epoch``, number
        of passes over the rows in each epoch.
    rows : InteractionBatch or None, default=None
        Rows that the player learns from. None uses the rows of the training users. With the order
        ``by_batch``, all players must learn from the same rows.
    batch_size : int or None, default=None
        Number of rows per mini-batch. None uses the parameter ``batch_size`` of the recommender.
        With the order ``by_batch``, the value of the first player counts.
    moves_first : bool, default=False
        Whether the player makes its passes once, before the first epoch, and no others. It makes
        none if ``fit`` continues by ``warm_start`` or from a checkpoint.
    before_epoch : callable, optional
        Function without arguments that is called before every epoch.
    memory : nn.Module or None, default=None
        Tensors that the loss or ``before_epoch`` keeps between updates. They are not part of the
        model, but of a checkpoint. A loss must not keep tensors anywhere else.
    after_epoch : callable, optional
        Function that is called after every epoch, before the validation. Its argument is the
        averaged network. It sets the buffers that depend on the parameters and the rows. The
        function of a player with ``moves_first`` is not called.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Batch], Tensor]
    learning_rate: float
    n_passes: int = 1
    rows: InteractionBatch | None = None
    batch_size: int | None = None
    moves_first: bool = False
    before_epoch: Callable[[], None] = _do_nothing
    memory: nn.Module | None = None
    after_epoch: Callable[[Any], None] = _do_nothing


# Maps a player to the mini-batches of one pass over its rows: the number of epochs so far, with the
# fraction of this pass, and the numbers of the rows.
Pass = Callable[[Player], Iterator[tuple[float, Tensor]]]
# Yields the updates of an epoch: the player, the number of epochs so far, the numbers of the rows.
Order = Callable[[Sequence[Player], Pass], Iterator[tuple[Player, float, Tensor]]]


def by_batch(players: Sequence[Player], make_pass: Pass) -> Iterator[tuple[Player, float, Tensor]]:
    """Yield the updates of an epoch: on each mini-batch, the players make their updates in turn.

    The mini-batches are those of the first player.

    Parameters
    ----------
    players : sequence of Player
    make_pass : callable
        Maps a player to an iterator over the mini-batches of one pass over its rows. The iterator
        yields pairs of ``epoch`` and ``users``, see below.

    Yields
    ------
    player : Player
        The player that makes the update.
    epoch : float
        Number of epochs so far, plus the fraction of the current pass.
    users : Tensor of shape (n_rows,), int64
        Numbers of the rows in the mini-batch, on the CPU.
    """
    for epoch, users in make_pass(players[0]):
        for player in players:
            for _ in range(player.n_passes):
                yield player, epoch, users


def by_epoch(players: Sequence[Player], make_pass: Pass) -> Iterator[tuple[Player, float, Tensor]]:
    """Yield the updates of an epoch: each player in turn makes its ``n_passes`` over its rows.

    Parameters
    ----------
    players : sequence of Player
    make_pass : callable
        Maps a player to an iterator over the mini-batches of one pass over its rows. The iterator
        yields pairs of ``epoch`` and ``users``, see below.

    Yields
    ------
    player : Player
        The player that makes the update.
    epoch : float
        Number of epochs so far, plus the fraction of the current pass.
    users : Tensor of shape (n_rows,), int64
        Numbers of the rows in the mini-batch, on the CPU.
    """
    for player in players:
        for _ in range(player.n_passes):
            for epoch, users in make_pass(player):
                yield player, epoch, users


class Game:
    """The players, their optimizers, and the updates that they have made.

    Parameters
    ----------
    players : sequence of Player
    x : InteractionBatch
        Rows of the training users.
    batch_size : int or "auto"
        Number of rows per mini-batch. "auto" is a twentieth of a player's rows, but at least 50
        and at most 500.
    order : callable, default=by_batch
        Order in which the players make their updates.
    schedule : callable, optional
        Maps the number of epochs so far to the factor of all learning rates. Without it they are
        constant.
    sampling : callable, default=all_items
        Returns a context for each update, in which the network may have fewer items.

    Raises
    ------
    ValueError
        If two players have the same name.
    """

    def __init__(
        self,
        players: Sequence[Player],
        x: InteractionBatch,
        batch_size: int | str = "auto",
        order: Order = by_batch,
        schedule: Callable[[float], float] = lambda epoch: 1.0,
        sampling: Sampling = all_items,
    ) -> None:
        self.players = players
        self.x = x
        self.batch_size = batch_size
        self.order = order
        self.schedule = schedule
        self.sampling = sampling
        self.steps: dict[str, int] = defaultdict(int)
        # Losses are divided by the mean weight, so that their scale does not matter to Adam.
        self.mean_weight = 1.0 if x.weights is None else x.total_weight / x.n_users
        self._begin_epoch()
        self.optimizers = {p.name: _adam(p) for p in players}
        if len(self.optimizers) < len(players):
            raise ValueError(
                f"players must differ in their names, got {[p.name for p in players]}."
            )

    def _begin_epoch(self) -> None:
        self.moves: list[str] = []  # names of the players of the updates in this epoch
        self.row_orders: list[Tensor] = []  # of the passes of this epoch so far
        # The values stay on the device: reading one at every step would make the device wait.
        self.figures: dict[str, list[Tensor]] = defaultdict(list)

    def play(
        self,
        epoch: int,
        generator: torch.Generator,
        after_update: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Run all updates of one epoch, or those that are left after ``load_state_dict``.

        Parameters
        ----------
        epoch : int
            Number of epochs so far.
        generator : torch.Generator
            On the device of the rows.
        after_update : callable, optional
            Function without arguments that is called after every update.

        Returns
        -------
        figures : dict of str to float
            Mean loss of each player over its updates, as "<player>_loss", and the means of the
            other values that it logged, as "<player>_<name>".

        Raises
        ------
        FloatingPointError
            If a loss or a parameter was NaN or infinite. The message names the first such player.
        """
        if not self.moves:
            for player in self.players:
                player.before_epoch()
        noise = own_generator(generator)
        make_pass = partial(self._pass, epoch, generator, count())
        updates = self.order(self.players, make_pass)
        for player, progress, users in islice(updates, len(self.moves), None):
            with threads_for(len(users) * self._rows(player).n_items, FEW_TO_LEARN):
                self.update(player, progress, users, noise)
                after_update()
        figures = self._read_figures(epoch)
        self._begin_epoch()
        return figures

    def update(
        self, player: Player, progress: float, users: Tensor, generator: torch.Generator
    ) -> None:
        """Update the parameters of a player once.

        On a GPU, nothing here waits for its results: the program queues the work of one update
        after the other.

        Parameters
        ----------
        player : Player
        progress : float
            Number of epochs so far, plus the fraction of the current pass.
        users : Tensor of shape (n_rows,), int64
            Numbers of the rows in the mini-batch, on the CPU.
        generator : torch.Generator
        """
        rows, step = self._rows(player), self.steps[player.name]
        own, weight = own_rows(users)
        x = rows.rows(own)
        if self.x.weights is not None and x.weights is not None:
            x = replace_entries(x, weights=x.weights.requires_grad_())
        own = own.to(x.offsets.device, non_blocking=True)

        def log(name: str, value: Tensor) -> None:
            self.figures[f"{player.name}_{name}"].append(weight * value.detach())

        with self.sampling(rows, users, step, self.optimizers[player.name]) as restrict:
            batch = Batch(own, restrict(x), step, progress, generator, log)
            log("loss", self._update(player, batch, weight))
        self.steps[player.name] += 1
        self.moves.append(player.name)

    def _update(self, player: Player, batch: Batch, weight: float) -> Tensor:
        """Update the parameters of a player; return the loss. The weight is this rank's share."""
        loss = player.loss(batch)
        if self.x.weights is not None:
            check_depends_on_weights(player, loss, batch.x.weights)
            loss = loss / self.mean_weight
        weights = torch.full_like(loss, weight)
        for parameter, gradient in zip(
            player.parameters,
            torch.autograd.grad(loss, player.parameters, weights),
            strict=True,
        ):
            # The fused Adam reads both in the order of the memory.
            if gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = sum_over_ranks(gradient)
        del gradient  # else the last one would stay in memory during the next step
        optimizer = self.optimizers[player.name]
        for group in optimizer.param_groups:
            group["lr"] = player.learning_rate * self.schedule(batch.epoch)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    def _read_figures(self, epoch: int) -> dict[str, float]:
        """Return the means of the logged values, if all losses and parameters are finite."""
        figures = {name: _read(values) for name, values in self.figures.items()}
        losses = {
            player.name: iter(figures.get(f"{player.name}_loss", ())) for player in self.players
        }
        for name, value in ((name, next(losses[name])) for name in self.moves):
            if not math.isfinite(value):
                self._raise_diverged(name, f"The loss of the {name} became {value}", epoch)
        # The last update may have made the parameters infinite after a finite loss.
        for player in self.players:
            if not _largest(player.parameters).isfinite():
                name = player.name
                self._raise_diverged(name, f"Parameters of the {name} became infinite", epoch)
        return {name: math.fsum(values) / len(values) for name, values in figures.items()}

    def _raise_diverged(self, name: str, what: str, epoch: int) -> NoReturn:
        rate = next(player.learning_rate for player in self.players if player.name == name)
        raise FloatingPointError(
            f"{what} in epoch {epoch + 1}. A learning_rate below {rate} may help."
        )

    def share_of_epoch(self) -> float:
        """Return the share of the updates of an epoch that are made."""
        return len(self.moves) / self._updates_per_epoch

    @cached_property
    def _updates_per_epoch(self) -> int:
        no_rows = torch.empty(0, dtype=torch.int64)

        def empty_pass(player: Player) -> Iterator[tuple[float, Tensor]]:
            return ((0.0, no_rows) for _ in self._starts(player))

        return sum(1 for _ in self.order(self.players, empty_pass))

    def _rows(self, player: Player) -> InteractionBatch:
        return self.x if player.rows is None else player.rows

    def _starts(self, player: Player) -> range:
        """Return the number of the first row of each mini-batch in a pass over a player's rows."""
        n_rows = self._rows(player).n_users
        auto = min(max(50, n_rows // 20), 500)
        size = player.batch_size or (auto if isinstance(self.batch_size, str) else self.batch_size)
        return range(0, n_rows, size)

    def _pass(
        self, epoch: int, generator: torch.Generator, numbers: Iterator[int], player: Player
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield the mini-batches of one pass over a player's rows, in a new random order."""
        starts, number = self._starts(player), next(numbers)
        if number == len(self.row_orders):  # else the pass was begun before the state was loaded
            order = torch.randperm(starts.stop, generator=generator, device=generator.device)
            # Copied to the CPU once, so that each mini-batch finds its rows without a GPU's help.
            self.row_orders.append(order.cpu())
        order = self.row_orders[number]
        for start in starts:
            yield epoch + start / starts.stop, order[start : start + starts.step]
        self.row_orders[number] = order[:0]  # a pass that is complete needs no memory

    def state_dict(self) -> dict[str, Any]:
        """Return the state between two updates: everything that changes, but the network."""
        players = {
            player.name: {
                "steps": self.steps[player.name],
                "adam": [*self.optimizers[player.name].state_dict()["state"].values()],
                "memory": {} if player.memory is None else dict(player.memory.state_dict()),
            }
            for player in self.players
        }
        epoch = {"moves": self.moves, "row_orders": self.row_orders}
        return {"players": players, "epoch": epoch | {"figures": dict(self.figures)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of another game.

        Raises
        ------
        ValueError
            If the shapes in the state are not those of the players' parameters.
        """
        for player in self.players:
            of_player = state["players"][player.name]
            averages = of_player["adam"]
            for parameter, average in zip(player.parameters, averages, strict=bool(averages)):
                shapes = {name: tensor.shape for name, tensor in average.items()}
                if shapes != _adams_shapes(parameter):  # compiled code does not check them
                    raise ValueError(f"Adam's averages for the {player.name} have wrong shapes")
            optimizer = self.optimizers[player.name]
            optimizer.load_state_dict(optimizer.state_dict() | {"state": dict(enumerate(averages))})
            self.steps[player.name] = of_player["steps"]
            if player.memory is not None:
                player.memory.load_state_dict(of_player["memory"])
        epoch = state["epoch"]
        self.moves, self.row_orders = epoch["moves"], epoch["row_orders"]
        device = self.x.values.device
        for name, values in epoch["figures"].items():
            self.figures[name] = [value.to(device) for value in values]


def check_depends_on_weights(player: Player, loss: Tensor, weights: Tensor | None) -> None:
    """Raise a ValueError if a loss ignores the weights of the rows."""
    if weights is not None and loss.requires_grad:
        [gradient] = torch.autograd.grad(loss, [weights], retain_graph=True, allow_unused=True)
        if gradient is not None:
            return
    raise ValueError(
        f"sample_weight must be None: the loss of the {player.name} does not depend on the weights"
        " of the users."
    )


def _largest(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the largest absolute value of all parameters, NaN if there is one; copy none."""
    of_each = [torch.linalg.vector_norm(p.detach(), torch.inf) for p in parameters]
    largest: Tensor = torch.linalg.vector_norm(torch.stack(of_each), torch.inf)
    return largest


def _read(values: Sequence[Tensor]) -> list[float]:
    """Sum scalars over the ranks and copy them from the device, all at once."""
    read: list[float] = sum_over_ranks(torch.stack([v.float() for v in values])).tolist()
    return read


def _adam(player: Player) -> torch.optim.Adam:
    # The fused update makes one pass over the parameters. It exists only for these devices.
    fused = player.parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.Adam(player.parameters, lr=player.learning_rate, fused=fused)


def _adams_shapes(parameter: Tensor) -> dict[str, torch.Size]:
    """Return the shapes of the tensors that Adam keeps for a parameter."""
    return {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}


@torch.no_grad()
def move_average(averaged: nn.Module, network: nn.Module, decay: float, epoch: int) -> None:
    """Update the moving average of the parameters after an epoch.

    The update is average <- d average + (1 - d) parameters, where d = min(decay, (1 + epoch) /
    (10 + epoch)). A smaller d in the first epochs is needed because the parameters change fast
    then. With a decay of 0 the average equals the parameters. Buffers are copied.

    Parameters
    ----------
    averaged : nn.Module
        Network that holds the average. It is changed in place.
    network : nn.Module
        Network that is trained.
    decay : float
    epoch : int
        Number of the epoch, counted from 1.
    """
    weight = 1 - min(decay, (1 + epoch) / (10 + epoch))
    for average, parameter in zip(averaged.parameters(), network.parameters(), strict=True):
        average.lerp_(parameter, weight)
    for copy, buffer in zip(averaged.buffers(), network.buffers(), strict=True):
        copy.copy_(buffer)


class BestEpoch:
    """The parameters of the epoch with the highest score."""

    def __init__(self) -> None:
        self.score = -math.inf
        self.epoch = 0
        self.parameters: dict[str, Tensor] = {}

    def update(self, score: float, epoch: int, network: nn.Module) -> None:
        """Copy the parameters of an epoch if its score is higher than all previous scores."""
        if score > self.score:
            self.score, self.epoch = score, epoch
            if not self.parameters:
                self.parameters = {n: p.clone() for n, p in network.state_dict().items()}
            for name, parameter in network.state_dict().items():
                self.parameters[name].copy_(parameter)


@dataclass
class Progress:
    """Everything that changes from epoch to epoch."""

    network: nn.Module
    averaged: nn.Module
    game: Game
    generator: torch.Generator
    history: list[dict[str, float]] = field(default_factory=list)
    best: BestEpoch = field(default_factory=BestEpoch)

    @property
    def n_epochs(self) -> int:
        """Number of epochs that are complete."""
        return len(self.history)

    def keep_unfinished_epoch(self) -> None:
        """Keep the parameters after the updates so far, if no epoch is complete."""
        move_average(self.averaged, self.network, 0.0, 0)
        for player in self.game.players:
            player.after_epoch(self.averaged)
        self.best.update(0.0, 0, self.averaged)

    def record(self, epoch: int, figures: dict[str, float]) -> None:
        """Add the values of an epoch to the history; keep its parameters if it is the best."""
        self.history.append({"epoch": epoch, **figures})
        # Without validation users the last epoch is the best.
        self.best.update(figures.get("validation_ndcg", epoch), epoch, self.averaged)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as dicts and lists of tensors, numbers and strings."""
        return {
            "network": dict(self.network.state_dict()),
            "averaged": dict(self.averaged.state_dict()),
            "game": self.game.state_dict(),
            "generator": self.generator.get_state(),
            "history": self.history,
            "best": vars(self.best),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of an unfinished fit."""
        best = state["best"]
        if best["parameters"]:  # else the first epoch is not complete
            self.averaged.load_state_dict(best["parameters"])
            self.best.update(best["score"], best["epoch"], self.averaged)
        self.averaged.load_state_dict(state["averaged"])
        self.network.load_state_dict(state["network"])
        self.game.load_state_dict(state["game"])
        self.generator.set_state(state["generator"])
        self.history += state["history"]
