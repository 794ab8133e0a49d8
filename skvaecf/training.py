"""The only training loop: players take turns, each lowers its own loss.

A plain model has one player. Adversaries are further players: the gradient of a player's loss is
taken with respect to its own parameters only, so that no update leaks into another's.

In a torch.distributed group, every rank plays the same game with its share of each mini-batch's
rows and noise of its own; gradients and figures are summed over the ranks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._ranks import own_generator, own_rows, sum_over_ranks
from .interactions import InteractionBatch


def _unheard(name: str, value: Tensor) -> None:
    pass


class Batch(NamedTuple):
    """What a loss may depend on."""

    users: Tensor  # (n_users,) row numbers in the training matrix
    x: InteractionBatch  # their rows
    step: int  # updates that this player has made in this fit
    epoch: float  # passes over the users made in this fit, in fractions
    generator: torch.Generator  # every random number comes from here
    log: Callable[[str, Tensor], None] = _unheard  # takes further figures for ``history_``


@dataclass(frozen=True)
class Player:
    """Who moves, and what it lowers."""

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Batch], Tensor]  # mean over the users of the batch
    learning_rate: float
    n_moves: int = 1
    # Called before every epoch. What the losses keep must follow from the network here: a fit that
    # is resumed from a checkpoint has nothing else.
    start_epoch: Callable[[], None] | None = None


Minibatches = Callable[[], Iterable[tuple[float, Tensor]]]
Order = Callable[[Sequence[Player], Minibatches], Iterator[tuple[Player, float, Tensor]]]


def by_batch(
    players: Sequence[Player], minibatches: Minibatches
) -> Iterator[tuple[Player, float, Tensor]]:
    """On every mini-batch, each player in turn makes its moves."""
    for epoch, users in minibatches():
        for player in players:
            for _ in range(player.n_moves):
                yield player, epoch, users


def by_epoch(
    players: Sequence[Player], minibatches: Minibatches
) -> Iterator[tuple[Player, float, Tensor]]:
    """Each player in turn goes ``n_moves`` times through all users."""
    for player in players:
        for _ in range(player.n_moves):
            for epoch, users in minibatches():
                yield player, epoch, users


class Game:
    """Players with their optimizers and the numbers of updates they have made."""

    def __init__(self, players: Sequence[Player], order: Order = by_batch) -> None:
        self.players = players
        self.order = order
        self.steps: dict[str, int] = defaultdict(int)
        self.optimizers = {p.name: _adam(p) for p in players}
        if len(self.optimizers) < len(players):
            raise ValueError(
                f"players must differ in their names, got {[p.name for p in players]}."
            )

    def play(
        self, x: InteractionBatch, minibatches: Minibatches, generator: torch.Generator
    ) -> dict[str, float]:
        """Let the players make their moves for one epoch.

        Parameters
        ----------
        x : InteractionBatch
            All training rows.
        minibatches : callable
            Gives a fresh pass over the users: pairs of the epochs done so far, in fractions, and
            row numbers.
        generator : torch.Generator
            On the device of ``x``.

        Returns
        -------
        figures : dict of str to float
            Mean loss of each player over its moves, as "<player>_loss", and the means of what
            else it logged, as "<player>_<name>".

        Raises
        ------
        FloatingPointError
            If a loss was NaN or infinite: it names the player whose loss was so first.
        """
        # Kept on the device: reading the value at every step would make it wait.
        figures: dict[str, list[Tensor]] = defaultdict(list)
        losses: list[tuple[Player, Tensor]] = []
        for player in self.players:
            if player.start_epoch is not None:
                player.start_epoch()
        noise = own_generator(generator)
        epoch = 0.0
        for player, epoch, users in self.order(self.players, minibatches):
            own, weight = own_rows(users)

            def log(
                name: str, value: Tensor, player: str = player.name, weight: float = weight
            ) -> None:
                figures[f"{player}_{name}"].append(weight * value.detach())

            step = self.steps[player.name]
            loss = player.loss(Batch(own, x.rows(own), step, epoch, noise, log))
            for parameter, gradient in zip(
                player.parameters,
                torch.autograd.grad(weight * loss, player.parameters),
                strict=True,
            ):
                parameter.grad = sum_over_ranks(gradient)
            del gradient  # of the last parameter: it would be held through the next step
            self.optimizers[player.name].step()
            self.optimizers[player.name].zero_grad(set_to_none=True)
            self.steps[player.name] += 1
            log("loss", loss)
            losses.append((player, figures[f"{player.name}_loss"][-1]))
        for (player, _), value in zip(losses, _read([loss for _, loss in losses]), strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"The loss of the {player.name} became {value} in epoch {int(epoch) + 1}. A"
                    f" learning_rate below {player.learning_rate} may help."
                )
        return {name: math.fsum(_read(values)) / len(values) for name, values in figures.items()}

    def state_dict(self) -> dict[str, Any]:
        """Give what the players have gathered: per player, its updates and Adam's averages."""
        return {
            name: {"steps": self.steps[name], "adam": [*optimizer.state_dict()["state"].values()]}
            for name, optimizer in self.optimizers.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the place of the game that gave this state.

        Raises
        ------
        ValueError
            If the state does not fit the players.
        """
        for player in self.players:
            averages = state[player.name]["adam"]
            for parameter, average in zip(player.parameters, averages, strict=bool(averages)):
                shapes = {name: tensor.shape for name, tensor in average.items()}
                if shapes != _adams_shapes(parameter):  # compiled code trusts them
                    raise ValueError(f"Adam's averages for the {player.name} are of other shapes")
            optimizer = self.optimizers[player.name]
            whole = optimizer.state_dict() | {"state": dict(enumerate(averages))}
            optimizer.load_state_dict(whole)
            self.steps[player.name] = state[player.name]["steps"]


def _read(values: Sequence[Tensor]) -> list[float]:
    """Copy scalars from the device, all at once, summed over the ranks."""
    read: list[float] = sum_over_ranks(torch.stack([v.float() for v in values])).tolist()
    return read


def _adam(player: Player) -> torch.optim.Adam:
    # The fused update makes one pass over the parameters; it exists for these devices.
    fused = player.parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.Adam(player.parameters, lr=player.learning_rate, fused=fused)


def _adams_shapes(parameter: Tensor) -> dict[str, torch.Size]:
    """Shapes of what Adam keeps for a parameter."""
    return {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}


def shuffled_minibatches(
    n_users: int, batch_size: int, epoch: int, generator: torch.Generator
) -> Minibatches:
    """Cut the users into mini-batches, in a new random order at every pass."""

    def minibatches() -> Iterator[tuple[float, Tensor]]:
        order = torch.randperm(n_users, generator=generator, device=generator.device)
        for start in range(0, n_users, batch_size):
            yield epoch + start / n_users, order[start : start + batch_size]

    return minibatches


@torch.no_grad()
def move_average(averaged: nn.Module, network: nn.Module, decay: float, epoch: int) -> None:
    """Move the running average of the parameters towards the network's, after an epoch.

    average <- d average + (1 - d) parameters, with d = min(decay, (1 + epoch) / (10 + epoch)), so
    that the average does not lag behind the fast first epochs. Without decay it is the network.
    Buffers are copied.
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
        """Copy the parameters of an epoch, if its score is higher than all before."""
        if score > self.score:
            self.score, self.epoch = score, epoch
            if not self.parameters:
                self.parameters = {n: p.clone() for n, p in network.state_dict().items()}
            for name, parameter in network.state_dict().items():
                self.parameters[name].copy_(parameter)


@dataclass
class Progress:
    """All that changes from epoch to epoch."""

    network: nn.Module
    averaged: nn.Module
    game: Game
    generator: torch.Generator
    history: list[dict[str, float]] = field(default_factory=list)
    best: BestEpoch = field(default_factory=BestEpoch)

    def state_dict(self) -> dict[str, Any]:
        """Give it as tensors, numbers and names."""
        return {
            "network": dict(self.network.state_dict()),
            "averaged": dict(self.averaged.state_dict()),
            "game": self.game.state_dict(),
            "generator": self.generator.get_state(),
            "history": self.history,
            "best": vars(self.best),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the place of the training that gave this state."""
        best = state["best"]
        self.averaged.load_state_dict(best["parameters"])
        self.best.update(best["score"], best["epoch"], self.averaged)
        self.averaged.load_state_dict(state["averaged"])
        self.network.load_state_dict(state["network"])
        self.game.load_state_dict(state["game"])
        self.generator.set_state(state["generator"])
        self.history += state["history"]
