"""
Latency, throughput and memory of the web service
=================================================

The script starts ``examples/serving/web_service.py`` for some models and asks for ten items for
random baskets of twenty. It prints, in milliseconds,

* ``model``: the median time of ``recommend`` in the service,
* ``median`` and ``99 %``: quantiles of the time of a request, seen by a client on the same machine,
* ``beyond``: the 99 % quantile of the time of a request beyond that of its own ``recommend``,

for one connection and for several, which always have a request under way, and the requests per
second. Each number is the median of several runs. Then a new version is loaded while requests are
answered. The last lines are the memory of services with several processes, in MB: the proportional
set size, which counts a page that n processes share as an n-th for each of them::

    pip install ".[web]"
    OMP_NUM_THREADS=1 python examples/benchmarks/web_service.py

The matrix of EASE is filled with random numbers, because a fit would take long. The other models
are fitted for one epoch: their arrays have the usual sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from skvaecf import EASE, WMF, InteractionEncoder, MultVAE

SERVING = Path(__file__).parents[1] / "serving"
sys.path.insert(0, str(SERVING))
from versions import publish

N_USERS, N_OWN, K = 1000, 20, 10


def ease(X):
    n_items, model = X.shape[1], EASE().fit(X[:, :2])
    needed = 4e-9 * n_items**2
    if needed > 10:
        raise MemoryError(f"its matrix has {needed:.0f} GB")
    model.item_similarity_ = np.empty((n_items, n_items), np.float32)
    np.random.default_rng(0).random(out=model.item_similarity_, dtype=np.float32)
    model.item_counts_, model.n_features_in_ = np.full(n_items, 3), n_items
    return model


MODELS = {
    "EASE": ease,
    "WMF": lambda X: WMF(128, max_epochs=1, random_state=0).fit(X),
    "MultVAE": lambda X: MultVAE(
        init="random", max_epochs=1, early_stopping=False, random_state=0
    ).fit(X),
}


def write_version(folder, name, n_items):
    """Publish a model of random interactions, three per item."""
    names = np.array([f"item-{i}" for i in range(n_items)])
    users = np.random.default_rng(0).integers(N_USERS, size=3 * n_items)
    encoder = InteractionEncoder()
    X = encoder.fit_transform({"user": users, "item": np.tile(names, 3)})
    publish(folder, "first", MODELS[name](X), encoder, X, titles=names.tolist())


@contextmanager
def service(folder, n_workers=1):
    """Start the service, wait until it answers, and return its process and its address."""
    command = [sys.executable, str(SERVING / "web_service.py"), folder, "--port=0"]
    with subprocess.Popen(
        [*command, f"--workers={n_workers}"], stdout=subprocess.PIPE, text=True
    ) as process:
        host, port = process.stdout.readline().split()[-1].split(":")
        try:
            yield process, (host, int(port))
        finally:
            process.terminate()


def baskets(n_items, n=500):
    """Return the bytes of requests."""
    random, requests = np.random.default_rng(1), []
    for _ in range(n):
        items = [f"item-{i}" for i in random.choice(n_items, N_OWN, replace=False)]
        requests.append(to_bytes("/recommend", {"items": items, "k": K}))
    return requests


def to_bytes(path, fields):
    body = json.dumps(fields)
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def read_answer(connection, received):
    """Read a part of an answer; return the head if the answer is complete, else None."""
    received += connection.recv(2**16)
    head, found, body = received.partition(b"\r\n\r\n")
    if not found or len(body) < int(re.search(rb"content-length: (\d+)", head)[1]):
        return None
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(received.decode())
    received.clear()
    return bytes(head)


def load(address, requests, n_connections, n_answers):
    """Keep the connections busy; return times and times of the model in ms, and seconds."""
    times, of_model, sent = [], [], 0
    with selectors.DefaultSelector() as selector:
        connections = [socket.create_connection(address) for _ in range(n_connections)]
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ, [bytearray(), 0.0])
        started = time.perf_counter()
        for key in list(selector.get_map().values()):
            key.data[1] = time.perf_counter()
            key.fileobj.sendall(requests[sent % len(requests)])
            sent += 1
        while len(times) < n_answers:
            for key, _ in selector.select():
                head = read_answer(key.fileobj, key.data[0])
                if head is None:
                    continue
                now = time.perf_counter()
                times.append(1e3 * (now - key.data[1]))
                of_model.append(float(re.search(rb"dur=([\d.]+)", head)[1]))
                if sent < n_answers:
                    key.data[1] = time.perf_counter()
                    key.fileobj.sendall(requests[sent % len(requests)])
                    sent += 1
        seconds = time.perf_counter() - started
        for connection in connections:
            connection.close()
    return np.array(times), np.array(of_model), seconds


def figures(address, requests, n_connections, n_answers, n_runs):
    """Return the medians over the runs of the columns of the table."""
    rows = []
    for _ in range(n_runs):
        times, of_model, seconds = load(address, requests, n_connections, n_answers)
        quantiles = [np.quantile(times, 0.5), np.quantile(times, 0.99)]
        beyond = np.quantile(times - of_model, 0.99)
        rows.append([np.median(of_model), *quantiles, beyond, len(times) / seconds])
    return np.median(rows, axis=0)


def longest_during_reload(folder, address, requests):
    """Return the seconds of a reload and the longest time of a request during it, in ms."""
    shutil.copytree(Path(folder, "first"), Path(folder, "second"), copy_function=os.link)
    Path(folder, "new").symlink_to("second")
    Path(folder, "new").replace(Path(folder, "current"))
    ended = []

    def reload():
        started = time.perf_counter()
        with socket.create_connection(address) as connection:
            connection.sendall(to_bytes("/reload", {}))
            while read_answer(connection, received) is None:
                pass
        ended.append(time.perf_counter() - started)

    received, times = bytearray(), []
    thread = threading.Thread(target=reload)
    thread.start()
    while not ended:
        times.extend(load(address, requests, 1, 20)[0])
    thread.join()
    return ended[0], max(times)


def memory(process):
    """Return the proportional set sizes of the processes of a service, in MB."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    sizes = []
    for number in [str(process.pid), *children]:
        text = Path(f"/proc/{number}/smaps_rollup").read_text()
        sizes.append(int(re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)[1]) / 1e3)
    return sum(sizes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--connections", type=int, default=8, help="under load")
    parser.add_argument("--requests", type=int, default=2000, help="per run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="for the memory")
    options = parser.parse_args()
    processor = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    print(f"{os.cpu_count()} cores, bfloat16: {'avx512_bf16' in processor}")
    columns = ["connections", "model", "median", "99 %", "beyond", "requests/s"]
    print(f"{'model':8}{'items':>9}" + "".join(f"{column:>12}" for column in columns))
    for name in options.models:
        for n_items in options.items:
            label, requests = f"{name:8}{n_items:>9,}", baskets(n_items)
            with tempfile.TemporaryDirectory() as folder:
                try:
                    write_version(folder, name, n_items)
                except MemoryError as error:
                    print(f"{label}  is left out: {error}", flush=True)
                    continue
                with service(folder) as (_, address):
                    load(address, requests, 1, 200)
                    for n in (1, options.connections):
                        row = figures(address, requests, n, options.requests, options.runs)
                        cells = "".join(f"{cell:>12.2f}" for cell in row[:-1])
                        print(f"{label}{n:>12}{cells}{row[-1]:>12.0f}", flush=True)
                    seconds, longest = longest_during_reload(folder, address, requests)
                print(f"{label}  reload: {seconds:.2f} s, longest request {longest:.1f} ms")
                sizes = []
                for n_workers in options.workers:
                    with service(folder, n_workers) as (process, address):
                        load(address, requests, 8 * n_workers, 500 * n_workers)
                        sizes.append(f"{n_workers}: {memory(process):,.0f}")
                size = Path(folder, "first/model.safetensors").stat().st_size / 1e6
                print(f"{label}  MB by processes: {', '.join(sizes)}; file {size:,.0f}", flush=True)


if __name__ == "__main__":
    main()
