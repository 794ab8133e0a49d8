"""
Serve a model over HTTP
=======================

JSON in and out, forked processes, new models without downtime. ``versions.py`` writes the folder::

    pip install ".[web]"
    python examples/serving/web_service.py FOLDER --workers 2
    curl localhost:8000/recommend -d '{"items": [1, 260], "k": 3, "exclude": [318], "reasons": 2}'
    curl localhost:8000/recommend -d '{"user": 17, "candidates": [1, 2, 3]}'
    curl localhost:8000/similar -d '{"item": 1}'
    curl localhost:8000/health
    curl -X POST localhost:8000/reload  # or send SIGHUP to the process that was started

There are no passwords: let a proxy encrypt, limit the rate of requests and refuse ``/reload``.
"""

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import socket
import time
from reprlib import repr as short

import numpy as np
import uvicorn
from processes import run_forked, unblock_signals
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route
from versions import Version, current_name

MAX_BYTES, MAX_K, MAX_REASONS = 2**18, 1000, 10
MAX_EXPLAINED = 200  # items of a user; some models compute the scores once more for each of them


class Refused(HTTPException):
    """An error of the request: the status, the field of the JSON, and what is wrong with it."""

    def __init__(self, status, field, problem):
        super().__init__(status, problem)
        self.field = field


def respond(content, status=200, headers=None):
    body = json.dumps(content)  # ASCII: an id may hold characters that UTF-8 does not have
    return Response(body, status, headers, media_type="application/json")


def refuse(request, error):
    field = {"field": error.field} if getattr(error, "field", None) else {}
    return respond({"error": error.detail} | field, error.status_code, error.headers)


async def read_fields(request, *names):
    """Return the fields of the JSON object in the body. A field that is null is absent."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BYTES:
            raise Refused(413, "body", f"more than {MAX_BYTES} bytes")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "body", "not JSON") from None
    if not isinstance(fields, dict) or not fields.keys() <= set(names):
        raise Refused(
            400, "body", f"expected an object with fields of {names}, got {short(fields)}"
        )
    return {name: value for name, value in fields.items() if value is not None}


def check_ids(name, ids, known):
    """Return the ids if they are of the type of the known ones."""
    kind = type(known[:1].tolist()[0])
    if not isinstance(ids, list) or not all(type(one) is kind for one in ids):
        raise Refused(400, name, f"expected ids of type {kind.__name__}, got {short(ids)}")
    return ids


def count(fields, name, default, least, most):
    number = fields.get(name, default)
    if type(number) is not int or not least <= number <= most:
        raise Refused(400, name, f"expected an integer in [{least}, {most}], got {short(number)}")
    return number


async def recommend(request):
    names = "items", "user", "k", "exclude", "candidates", "reasons"
    fields, version = await read_fields(request, *names), request.app.state.version
    k, n_reasons = count(fields, "k", 10, 1, MAX_K), count(fields, "reasons", 0, 0, MAX_REASONS)
    numbers, unknown = {"items": []}, {}
    for name in ("items", "exclude", "candidates"):
        if name in fields:
            ids = check_ids(name, fields[name], version.encoder.item_ids_)
            found = version.encoder.item_numbers(ids)
            unknown |= {ids[place]: None for place in np.flatnonzero(found < 0)}
            numbers[name] = found[found >= 0].tolist()
    own = numbers.pop("items")
    if "user" in fields:
        items = version.items_of(*check_ids("user", [fields["user"]], version.encoder.user_ids_))
        if items is None:
            raise Refused(404, "user", f"{short(fields['user'])} is not stored")
        own += items.tolist()
    row = version.row(own)
    if n_reasons and row.nnz > MAX_EXPLAINED:
        raise Refused(400, "reasons", f"the user has {row.nnz} items, more than {MAX_EXPLAINED}")
    start = time.perf_counter()
    items, scores = version.model.recommend(row, k, **numbers, return_scores=True)
    timing = {"Server-Timing": f"model;dur={1e3 * (time.perf_counter() - start):.3f}"}
    entries = version.entries(items[0], scores[0])
    if n_reasons:  # in a thread, because it may take longer than other requests can wait
        why = await run_in_threadpool(version.model.explain, row, items, n_reasons)
        for entry, *reasons in zip(entries, why.reasons[0], why.contributions[0], strict=False):
            entry["reasons"] = version.entries(*reasons)
    content = {"version": version.name, "popular": not own, "unknown": list(unknown)}
    return respond(content | {"items": entries}, headers=timing)


async def similar(request):
    fields, version = await read_fields(request, "item", "k"), request.app.state.version
    k, item = count(fields, "k", 10, 1, MAX_K), fields.get("item")
    [number] = version.encoder.item_numbers(check_ids("item", [item], version.encoder.item_ids_))
    if number < 0 or not hasattr(version.model, "similar_items"):
        raise Refused(404, "item", f"the model knows no items similar to {short(item)}")
    items, scores = version.model.similar_items([number], k, return_scores=True)
    return respond({"version": version.name, "items": version.entries(items[0], scores[0])})


async def health(request):
    version = request.app.state.version
    about = {"model": type(version.model).__name__, "n_items": len(version.encoder.item_ids_)}
    return respond({"version": version.name, "process": os.getpid()} | about)


async def reload(request):
    if problem := await update(request.app.state):
        raise Refused(409, None, problem)
    request.app.state.tell_others()
    return await health(request)


async def update(state):
    """Load and check the current version in a thread. If that fails, keep the old one."""
    async with state.lock:
        try:
            if current_name(state.folder) != state.version.name:
                state.version = await run_in_threadpool(Version, state.folder)
        except Exception as error:
            logging.getLogger("uvicorn.error").exception("no new version")
            return f"{state.version.name} is still served: {error}"


def make_app(folder, tell_others=lambda: None):
    """Return the application. ``tell_others`` makes the other processes reload."""
    posts = {"/recommend": recommend, "/similar": similar, "/reload": reload}
    routes = [Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()]
    handlers = {HTTPException: refuse, ClientDisconnect: lambda *_: Response(status_code=400)}
    app = Starlette(routes=[*routes, Route("/health", health)], exception_handlers=handlers)
    app.router.redirect_slashes = False  # other paths are errors
    app.state.folder, app.state.version = folder, Version(folder)
    app.state.lock, app.state.tell_others = asyncio.Lock(), tell_others
    return app


async def serve(folder, listener, tell_others):
    """Serve in this process until SIGTERM. Requests that have begun are answered."""
    app, loop = make_app(folder, tell_others), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(update(app.state)))
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning"))
    unblock_signals()
    await server.serve(sockets=[listener])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("folder", help="folder that publish has written")
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    options = parser.parse_args()
    if options.workers < 1:
        parser.error(f"--workers must be at least 1, got {options.workers}")
    Version(options.folder)  # loads further libraries, whose memory the processes share
    gc.freeze()  # for the same reason: collections of garbage write to the objects they visit
    with socket.create_server((options.host, options.port), backlog=1024) as listener:
        # Without this, the second packet of a response waits 40 ms for the client.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        print("listening at {}:{}".format(*listener.getsockname()), flush=True)
        return run_forked(options.workers, lambda tell: serve(options.folder, listener, tell))


if __name__ == "__main__":
    raise SystemExit(main())
