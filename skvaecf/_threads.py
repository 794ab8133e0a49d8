"""Blocks of work that are divided among threads.

If torch divides one operation on a block among threads, they wait for one another at its end, and a
thread that another process delays holds up all of them. So each thread runs all operations on its
own blocks, and the threads wait for one another only after the last block.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from queue import Empty, SimpleQueue
from typing import TypeVar

import torch

# Numbers of scores up to which one thread ranks them, or computes an update of a network.
FEW_TO_RANK = 2**17
FEW_TO_LEARN = 2**20

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Argument], Result], arguments: Iterable[Argument], device: torch.device
) -> list[Result]:
    """Call a function for each argument, on a CPU in as many threads as torch would use.

    A thread takes the next argument when it has finished its last one. Inside the function torch
    uses one thread, so results do not depend on the number of threads. ``no_grad``,
    ``inference_mode`` and ``autocast`` are as in the calling thread.

    Parameters
    ----------
    function : callable
        It is called by several threads at the same time.
    arguments : iterable
    device : torch.device
        Device of the computations. If it is not the CPU, no other threads are used.

    Returns
    -------
    results : list
        In the order of the arguments.

    Raises
    ------
    Exception
        The exception of a call, after the calls that run at the same time have ended. The remaining
        calls are not made.
    """
    arguments = list(arguments)
    n_threads = torch.get_num_threads() if device.type == "cpu" else 1
    if min(n_threads, len(arguments)) < 2:
        return [function(argument) for argument in arguments]
    modes = _current_modes()
    left: SimpleQueue[tuple[int, Argument]] = SimpleQueue()
    ended: SimpleQueue[None] = SimpleQueue()
    results: dict[int, Result] = {}
    errors: list[BaseException] = []
    for numbered in enumerate(arguments):
        left.put(numbered)

    def work() -> None:
        try:
            with modes():
                while not errors:
                    i, argument = left.get_nowait()
                    results[i] = function(argument)
        except Empty:
            pass
        except BaseException as error:
            errors.append(error)
        ended.put(None)

    tasks = _start_threads(n_threads, os.getpid())
    for _ in range(n_threads):
        tasks.put(work)
    try:
        for _ in range(n_threads):
            ended.get()
    except BaseException as error:  # KeyboardInterrupt: the threads take no more arguments
        errors.append(error)
    if errors:
        raise errors[0]
    return [results[i] for i in range(len(arguments))]


def threads_for(n_scores: int, few: int) -> AbstractContextManager[None]:
    """Return a context in which torch uses one thread if there are at most ``few`` scores."""
    return one_thread() if n_scores <= few else nullcontext()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread in the context, for work on few numbers.

    Where other programs run, threads wait for one another longer than one takes for the work.
    """
    n_threads = torch.get_num_threads()
    if n_threads == 1:  # a worker of ``in_threads`` must not set the number for later threads
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@cache
def _start_threads(n_threads: int, pid: int) -> SimpleQueue[Callable[[], None]]:
    """Start threads that run the functions in a queue, and return the queue.

    A forked process has none of the threads of its parent. It has another ``pid``, so it starts its
    own. The threads of a ThreadPoolExecutor would end before a thread of the user that still fits a
    model while the main thread has ended.
    """
    tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
    started = threading.Barrier(n_threads + 1)

    def run() -> None:
        torch.get_num_threads()  # the first call in a thread sets the number of the process
        torch.set_num_threads(1)
        started.wait()
        while True:
            tasks.get()()  # in no variable, which would keep the tensors of the function

    for _ in range(n_threads):
        threading.Thread(target=run, daemon=True, name="skvaecf").start()
    started.wait()
    # The limit belongs to the thread that sets it. But threads that torch sees later start with the
    # last one.
    torch.set_num_threads(n_threads)
    return tasks


def _current_modes() -> Callable[[], AbstractContextManager[None]]:
    """Return a function whose context has the modes of torch of this thread, in any thread."""
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    autocast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    @contextmanager
    def modes() -> Iterator[None]:
        with (
            torch.inference_mode(inference),
            torch.set_grad_enabled(grad),
            torch.autocast("cpu", dtype, enabled=autocast),
        ):
            yield

    return modes
