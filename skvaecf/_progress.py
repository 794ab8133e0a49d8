"""The progress bar of iterative fits."""

from __future__ import annotations

from tqdm.auto import tqdm


class ProgressBar(tqdm):
    """A bar that moves within an epoch, with the time left if all epochs are run.

    Parameters
    ----------
    name : str
        What is done.
    n_epochs : int
        Maximum number of epochs.
    verbose : int
        With 0 nothing is shown.
    unit : str, default="epochs"
        What is counted.
    """

    def __init__(self, name: str, n_epochs: int, verbose: int, unit: str = "epochs") -> None:
        counts = "{n:.5g}/{total:.5g} " + unit
        shown = "{l_bar}{bar}| " + counts + " [{elapsed}<{remaining}{postfix}]"
        super().__init__(
            desc=name, total=n_epochs, disable=not verbose, bar_format=shown, miniters=0
        )

    def move_to(self, n: float) -> None:
        """Show that n epochs are complete."""
        self.update(n - self.n)

    def complete(self) -> None:
        """Show a full bar: training that ended before the maximum is complete, too."""
        self.total = self.n
        self.refresh()
