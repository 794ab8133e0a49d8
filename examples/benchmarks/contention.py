"""Measure how much other work slows a fit down.

``python examples/benchmarks/contention.py`` fits ``MultVAE`` alone, beside a process that computes
in an endless loop, and beside a second fit of the same kind. It prints the median seconds of an
epoch: 8 updates of 500 users and 20,108 items. It does this twice: with threads that sleep while
they wait, as ``import skvaecf`` sets them, and with the default of libgomp, whose threads use their
cores for 300,000 steps before they sleep. It takes four minutes on two cores, which should have no
other work.
"""

import argparse
import os
import subprocess
import sys

import numpy as np
from machine import print_machine
from scipy.sparse import csr_array

from skvaecf import MultVAE


def fit(likelihood):
    """Fit a model and print the median seconds of an epoch, without the first one."""
    random = np.random.RandomState(0)
    popularity = np.arange(1, 20_109) ** -0.8
    users = np.repeat(np.arange(4000), 75)
    items = random.choice(len(popularity), len(users), p=popularity / popularity.sum())
    X = csr_array((np.ones(len(users)), (users, items)), shape=(4000, len(popularity)))
    model = MultVAE(
        likelihood=likelihood,
        init="random",
        n_sampled_items=None,
        early_stopping=False,
        max_epochs=8,
        batch_size=500,
        random_state=0,
    )
    print(np.median([epoch["seconds"] for epoch in model.fit(X).history_[1:]]))


def start(likelihood, policy):
    """Start a fit in a process of its own."""
    command = [sys.executable, __file__, "--fit", likelihood]
    return subprocess.Popen(command, env=os.environ | policy, stdout=subprocess.PIPE, text=True)


def seconds(process):
    """Return the seconds that a process has printed."""
    return float(process.communicate()[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--likelihood", default="n-choose-k")
    parser.add_argument("--fit", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit:
        fit(arguments.fit)
        return
    print_machine()
    for policy in ({}, {"GOMP_SPINCOUNT": "300000"}):
        alone = seconds(start(arguments.likelihood, policy))
        loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            beside_loop = seconds(start(arguments.likelihood, policy))
        finally:
            loop.kill()
        both = [start(arguments.likelihood, policy) for _ in range(2)]
        beside_fit = np.mean([seconds(process) for process in both])
        print(
            f"{policy or 'default of skvaecf'}: alone {alone:.2f} s, beside a loop"
            f" {beside_loop / alone:.2f} x, beside a second fit {beside_fit / alone:.2f} x",
            flush=True,
        )


if __name__ == "__main__":
    main()
