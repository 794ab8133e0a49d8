"""The web service of the examples: known answers, new versions, hostile requests, processes.

``python tests/test_web_service.py --requests 10000`` sends more hostile requests than the tests do,
to a service in a process of its own.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx2")
if not hasattr(os, "fork"):
    pytest.skip("the service forks its processes", allow_module_level=True)

from starlette.testclient import TestClient

from skvaecf import EASE, InteractionEncoder, MultVAE, Popularity

SERVING = Path(__file__).parents[1] / "examples/serving"
sys.path.insert(0, str(SERVING))
import versions  # noqa: E402
import web_service  # noqa: E402

# Two groups of things that are used together; "bolt" has one user fewer than "nut".
USERS = {
    "al": ["cup", "tea"],
    "bo": ["cup", "tea"],
    "cy": ["cup", "milk", "tea"],
    "di": ["bolt", "nut"],
    "ed": ["nut"],
}
LOG = {
    "user": [user for user, items in USERS.items() for _ in items],
    "item": [item for items in USERS.values() for item in items],
}
ITEMS = ["bolt", "cup", "milk", "nut", "tea"]
TITLES = [item.upper() for item in ITEMS]


def publish(folder, name="first", model=None, log=LOG, titles=TITLES):
    encoder = InteractionEncoder()
    X = encoder.fit_transform(log)
    versions.publish(folder, name, (model or EASE(l2=1.0)).fit(X), encoder, X, titles)


@contextmanager
def client_of(folder):
    # A bug is the exception itself, not an answer of status 500.
    with TestClient(web_service.make_app(folder)) as client:
        yield client


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    publish(folder)
    with client_of(folder) as client:
        yield client


def post(client, path, **fields):
    response = client.post(path, content=json.dumps(fields))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def ids(answer):
    return [entry["item"] for entry in answer["items"]]


# --- known answers


def test_the_best_items_of_a_basket(client):
    answer = post(client, "/recommend", items=["tea"], k=2)
    # cup was used by all users of tea, milk by one of three.
    assert ids(answer) == ["cup", "milk"]
    assert [entry["title"] for entry in answer["items"]] == ["CUP", "MILK"]
    model = EASE(l2=1.0).fit(InteractionEncoder().fit_transform(LOG))
    scores = model.item_similarity_[4, [1, 2]]  # of tea for cup and milk
    assert [entry["score"] for entry in answer["items"]] == pytest.approx(scores.tolist())
    assert (answer["version"], answer["popular"], answer["unknown"]) == ("first", False, [])


def test_the_time_of_the_model_is_a_header(client):
    response = client.post("/recommend", content=b"{}")
    name, milliseconds = response.headers["server-timing"].split(";dur=")
    assert name == "model"
    assert 0 < float(milliseconds) < 60_000


def test_defaults(client):
    # All five items, from the most popular one; of equal counts the lower number comes first.
    assert ids(post(client, "/recommend")) == ["cup", "tea", "nut", "bolt", "milk"]


@pytest.mark.parametrize("fields", [{}, {"items": []}, {"items": None}, {"items": ["saw"]}])
def test_a_basket_without_known_items_gets_the_popular_ones(client, fields):
    answer = post(client, "/recommend", k=3, **fields)
    assert [(entry["item"], entry["score"]) for entry in answer["items"]] == [
        ("cup", 3.0),
        ("tea", 3.0),
        ("nut", 2.0),
    ]
    assert answer["popular"] is True
    assert answer["unknown"] == (fields.get("items") or [])


def test_filters(client):
    assert ids(post(client, "/recommend", items=["tea"], exclude=["cup"], k=1)) == ["milk"]
    assert ids(post(client, "/recommend", items=["nut"], candidates=["milk", "bolt"])) == [
        "bolt",
        "milk",
    ]
    both = post(client, "/recommend", items=["nut"], candidates=["milk", "bolt"], exclude=["bolt"])
    assert ids(both) == ["milk"]
    assert ids(post(client, "/recommend", items=["nut"], candidates=[])) == []
    assert ids(post(client, "/recommend", items=["nut"], candidates=["nut"])) == []


def test_unknown_items_are_ignored_and_reported_once(client):
    answer = post(
        client,
        "/recommend",
        items=["saw", "tea", "saw", "\ud800"],  # half of a pair, which UTF-8 does not have
        exclude=["axe", "saw"],
        candidates=["cup", "", "tea"],
    )
    assert ids(answer) == ["cup"]
    assert sorted(answer["unknown"]) == ["", "axe", "saw", "\ud800"]


def test_a_stored_user(client):
    assert ids(post(client, "/recommend", user="ed", k=1)) == ["bolt"]
    # New items are added to the stored ones.
    of_both = post(client, "/recommend", user="ed", items=["cup", "milk"], k=2)
    assert (
        of_both["items"] == post(client, "/recommend", items=["nut", "cup", "milk"], k=2)["items"]
    )
    seen = {user: set(items) for user, items in USERS.items()}
    for user, items in seen.items():
        assert set(ids(post(client, "/recommend", user=user))) == set(ITEMS) - items


def test_reasons(client):
    answer = post(client, "/recommend", items=["tea", "milk", "nut"], k=1, reasons=10)
    [cup] = answer["items"]
    reasons = {reason["item"]: reason["score"] for reason in cup["reasons"]}
    assert set(reasons) == {"tea", "milk", "nut"}
    assert max(reasons, key=reasons.get) == "tea"
    assert cup["reasons"][0] == {"item": "tea", "title": "TEA", "score": reasons["tea"]}
    assert sum(reasons.values()) == pytest.approx(cup["score"], abs=1e-6)
    assert "reasons" not in post(client, "/recommend", items=["tea"])["items"][0]
    # The list is shorter than k, and a popular item has no reasons.
    assert ids(post(client, "/recommend", items=ITEMS, reasons=1)) == []
    assert post(client, "/recommend", k=1, reasons=1)["items"][0]["reasons"] == []


def test_similar_items(client):
    answer = post(client, "/similar", item="tea", k=1)
    assert ids(answer) == ["cup"]
    assert answer["items"][0]["title"] == "CUP"
    assert len(ids(post(client, "/similar", item="tea"))) == 4


def test_health(client):
    answer = client.get("/health").json()
    expected = {"version": "first", "process": os.getpid(), "model": "EASE", "n_items": 5}
    assert answer == expected


def test_ids_that_are_integers_and_no_titles(tmp_path):
    number = {item: 10 * place for place, item in enumerate(ITEMS)}
    log = {"user": [len(u) + ord(u[0]) for u in LOG["user"]], "item": map(number.get, LOG["item"])}
    publish(tmp_path, log=log | {"item": list(log["item"])}, titles=None)
    with client_of(tmp_path) as client:
        unknown = [10**30, -(10**30), 2**63, 2**64 - 1, -7]
        answer = post(client, "/recommend", items=[40, *unknown], exclude=unknown, k=1)
        assert answer["items"][0] == {"item": 10, "score": answer["items"][0]["score"]}
        assert answer["unknown"] == unknown
        assert ids(post(client, "/recommend", user=2 + ord("e"), k=1)) == [0]
        assert ids(post(client, "/similar", item=40, k=1)) == [10]
        for user in (10**30, -(10**30), 0):
            assert client.post("/recommend", content=f'{{"user": {user}}}').status_code == 404
        assert client.post("/recommend", content=b'{"items": ["40"]}').status_code == 400


def test_a_network_and_a_model_without_similarities(tmp_path):
    publish(tmp_path, "network", MultVAE(4, max_epochs=2, early_stopping=False, random_state=0))
    with client_of(tmp_path) as client:
        encoder = InteractionEncoder()
        X = encoder.fit_transform(LOG)
        model = MultVAE(4, max_epochs=2, early_stopping=False, random_state=0).fit(X)
        expected = encoder.item_ids_[model.recommend(X[[3]], k=3)[0]].tolist()
        assert ids(post(client, "/recommend", user="di", k=3)) == expected
        publish(tmp_path, "counts", Popularity())
        assert post(client, "/reload")["version"] == "counts"
        response = client.post("/similar", content=b'{"item": "tea"}')
        assert response.status_code == 404


# --- errors


@pytest.mark.parametrize(
    ("path", "body", "status", "field", "part"),
    [
        ("recommend", '{"k": 0}', 400, "k", "an integer in [1, 1000], got 0"),
        ("recommend", '{"k": 1000000000}', 400, "k", "got 1000000000"),
        ("recommend", '{"k": true}', 400, "k", "got True"),
        ("recommend", '{"k": "5"}', 400, "k", "got '5'"),
        ("recommend", '{"k": 1e400}', 400, "k", "got inf"),
        ("similar", '{"item": "tea", "k": 1.0}', 400, "k", "got 1.0"),
        ("recommend", '{"items": "tea"}', 400, "items", "ids of type str, got 'tea'"),
        ("recommend", '{"items": ["tea", 1]}', 400, "items", "got ['tea', 1]"),
        ("recommend", '{"items": [["tea"]]}', 400, "items", "ids of type str"),
        ("recommend", '{"exclude": {"tea": 1}}', 400, "exclude", "ids of type str"),
        ("recommend", '{"candidates": [null]}', 400, "candidates", "got [None]"),
        ("recommend", '{"user": 3}', 400, "user", "ids of type str"),
        ("recommend", '{"user": "zoe"}', 404, "user", "'zoe' is not stored"),
        ("recommend", '{"reasons": 11}', 400, "reasons", "an integer in [0, 10]"),
        ("recommend", '{"item": "tea"}', 400, "body", "fields of ('items', 'user'"),
        ("recommend", '["tea"]', 400, "body", "expected an object"),
        ("recommend", "", 400, "body", "not JSON"),
        ("recommend", b"\xff{}", 400, "body", "not JSON"),
        ("recommend", "[" * 100_000, 400, "body", "not JSON"),
        ("recommend", '{"k": ' + "1" * 5000 + "}", 400, "body", "not JSON"),
        ("recommend", '{"items": ["' + "a" * 2**20 + '"]}', 413, "body", "more than 262144 bytes"),
        ("similar", "{}", 400, "item", "ids of type str, got [None]"),
        ("similar", '{"item": "saw"}', 404, "item", "'saw'"),
        ("similar", " " * 2**20, 413, "body", "more than"),
    ],
)
def test_an_error_names_the_field_and_what_is_expected(client, path, body, status, field, part):
    response = client.post(f"/{path}", content=body)
    assert response.status_code == status
    answer = response.json()
    assert answer["field"] == field
    assert part in answer["error"]
    assert len(response.content) < 500  # a long value is shortened


def test_other_paths_and_methods(client):
    assert client.get("/nothing").status_code == 404
    assert client.get("/recommend").status_code == 405
    assert client.post("/health").json() == {"error": "Method Not Allowed"}


def test_a_long_row_is_not_explained(client, monkeypatch):
    monkeypatch.setattr(web_service, "MAX_EXPLAINED", 2)
    assert ids(post(client, "/recommend", items=["tea", "cup"], reasons=1, k=1)) == ["milk"]
    response = client.post("/recommend", content=b'{"user": "cy", "reasons": 1}')
    assert response.status_code == 400
    assert response.json()["field"] == "reasons"


# --- versions


def test_a_new_version_is_served_after_a_reload(tmp_path):
    publish(tmp_path)
    with client_of(tmp_path) as client:
        publish(tmp_path, "second", Popularity())
        assert post(client, "/recommend")["version"] == "first"
        assert post(client, "/reload")["version"] == "second"
        answer = post(client, "/recommend", items=["nut"], k=1)
        assert (answer["version"], ids(answer)) == ("second", ["cup"])
        assert post(client, "/reload")["version"] == "second"


def damage_the_model(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def shorten_the_titles(folder):
    (folder / "titles.json").write_text('["one"]')


def take_another_encoder(folder):
    InteractionEncoder().fit({"user": [1], "item": [2]}).save(folder / "encoder.safetensors")


@pytest.mark.parametrize("damage", [damage_the_model, shorten_the_titles, take_another_encoder])
def test_the_old_version_stays_if_the_new_one_is_damaged(tmp_path, damage):
    publish(tmp_path)
    with client_of(tmp_path) as client:
        publish(tmp_path, "second")
        damage(tmp_path / "second")
        response = client.post("/reload")
        assert response.status_code == 409
        assert "first is still served: " in response.json()["error"]
        assert ids(post(client, "/recommend", items=["tea"], k=1)) == ["cup"]
        (tmp_path / "current").unlink()
        assert client.post("/reload").status_code == 409
        publish(tmp_path, "third")
        assert post(client, "/reload")["version"] == "third"
    publish(tmp_path, "fourth")
    damage(tmp_path / "fourth")
    with pytest.raises(ValueError, match=r"cannot be loaded|do not belong together"):
        web_service.make_app(tmp_path)


def test_a_version_is_not_overwritten(tmp_path):
    publish(tmp_path)
    with pytest.raises(FileExistsError):
        publish(tmp_path, "first", Popularity())
    with client_of(tmp_path) as client:
        assert client.get("/health").json()["model"] == "EASE"


def test_requests_are_answered_while_a_version_is_loaded(tmp_path, monkeypatch):
    publish(tmp_path)
    begun, go_on = threading.Event(), threading.Event()

    def load_slowly(folder):
        begun.set()
        assert go_on.wait(60)
        return versions.Version(folder)

    with client_of(tmp_path) as client:
        publish(tmp_path, "second", Popularity())
        monkeypatch.setattr(web_service, "Version", load_slowly)
        answers = []
        reload = threading.Thread(target=lambda: answers.append(post(client, "/reload")))
        reload.start()
        assert begun.wait(60)
        for _ in range(20):
            answer = post(client, "/recommend", items=["nut"], k=1)
            assert (answer["version"], ids(answer)) == ("first", ["bolt"])
        go_on.set()
        reload.join()
        assert answers[0]["version"] == "second"
        answer = post(client, "/recommend", items=["nut"], k=1)
        assert (answer["version"], ids(answer)) == ("second", ["cup"])


def test_each_answer_is_of_one_version(tmp_path):
    publish(tmp_path)
    counts, stop = Counter(), threading.Event()

    def request(client):
        while not stop.is_set():
            answer = post(client, "/recommend", items=["nut"], k=1)
            counts[answer["version"]] += 1
            assert ids(answer) == (["bolt"] if answer["version"] < "v2" else ["cup"]), answer

    with client_of(tmp_path) as client:
        failures = []

        def watched():
            try:
                request(client)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=watched) for _ in range(2)]
        for thread in threads:
            thread.start()
        for name, model in (("v1", EASE(l2=1.0)), ("v2", Popularity()), ("v3", Popularity())):
            publish(tmp_path, name, model)
            assert post(client, "/reload")["version"] == name
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert sum(counts.values()) > 0


# --- hostile requests


def hostile_requests(n, seed=0):
    """Yield n requests that must be refused: method, path, body, and the status."""
    random = np.random.RandomState(seed)

    def pick(*choices):
        return choices[random.randint(len(choices))]

    def text():
        size = random.randint(1, 30)
        return "".join(chr(code) for code in random.randint(0, 0x110000, size))  # with surrogates

    def fields(path):
        # Fields that are in order, so that only the hostile one is refused.
        valid = {"item": "tea"} if path == "/similar" else {"items": [pick(*ITEMS)]}
        return valid | pick({}, {"k": int(random.randint(1, 1001))})

    def wrong_count():
        number = int(random.randint(-(2**31), 2**31))
        return pick(
            0, -1, 10**9, 10**30, 1001, -number**2, 1.5, 1e300, float("nan"), float("inf"),
            "10", "", text(), True, False, [], [1], {}, {"k": 1}, number + 0.5,
        )  # fmt: skip

    def wrong_id():
        return pick(0, 7, 10**30, -1.5, float("nan"), True, [], ["tea"], {}, {"tea": "cup"})

    def wrong_ids():
        lists = ["tea", wrong_id()], [None], [[]], [wrong_id() for _ in range(5)]
        return pick("tea", text(), 0, 1.5, True, {}, {"0": "tea"}, *lists)

    def refused_field():
        path = pick("/recommend", "/similar")
        if path == "/similar":
            field, value, status = pick(
                ("k", wrong_count(), 400),
                ("item", wrong_id(), 400),
                ("item", None, 400),
                ("item", "?" + text(), 404),
                (f"k{text()}", 1, 400),
                ("items", ["tea"], 400),
            )
        else:
            ids = pick("items", "exclude", "candidates")
            field, value, status = pick(
                ("k", wrong_count(), 400),
                (ids, wrong_ids(), 400),
                ("reasons", pick(wrong_count(), 11), 400),
                ("user", wrong_id(), 400),
                ("user", "?" + text(), 404),
                (f"k{text()}", 1, 400),
            )
            if field == "reasons" and value == 0 and value is not False:
                value = -1
        return "POST", path, json.dumps(fields(path) | {field: value}).encode(), status

    def not_json():
        valid = json.dumps(fields("/recommend")).encode()
        noise = random.bytes(1 + random.randint(99))
        body = pick(
            b"", b"{", b"'", b"k=1&items=tea", valid[:-1], valid + b"}", b"\xff\xfe" + valid,
            b"[" * 100_000, b'{"a":' * 20_000, b'{"k": ' + b"9" * 5000 + b"}", noise, b"\0" * 1000,
            b"[]", b"7", b"null", b'"tea"', b"NaN", valid.replace(b'"', b"'"),
        )  # fmt: skip
        return "POST", pick("/recommend", "/similar"), body, 400

    def large():
        size = 2**20 + random.randint(2**10)
        body = pick(
            b" " * size, b'{"items": ["' + b"a" * size + b'"]}', random.bytes(size),
            b'{"items": [' + b'"tea",' * (size // 6) + b'"tea"]}', b"[" * size,
        )  # fmt: skip
        return "POST", pick("/recommend", "/similar"), body, 413

    def wrong_place():
        method, path, status = pick(
            ("GET", "/recommend", 405), ("PUT", "/recommend", 405), ("DELETE", "/similar", 405),
            ("POST", "/health", 405), ("GET", "/reload", 405), ("GET", "/", 404),
            ("POST", "/recommend/" + "a" * random.randint(5000), 404), ("GET", "/../../x", 404),
            ("GET", "/%00%ff", 404), ("POST", "/recommend%2F", 404),
        )  # fmt: skip
        return method, path, b"{}", status

    kinds = [refused_field] * 14 + [not_json] * 4 + [large, wrong_place]
    for _ in range(n):
        yield kinds[random.randint(len(kinds))]()


def check_hostile_requests(send, n, seed=0):
    """Return the number of answers of each status; all must be the expected ones."""
    counts = Counter()
    for method, path, body, status in hostile_requests(n, seed):
        answered = send(method, path, body)
        assert answered == status, (method, path, body[:500], answered, status)
        counts[answered] += 1
    return counts


def sender_to(client):
    return lambda method, path, body: client.request(method, path, content=body).status_code


def test_hostile_requests_are_refused(client):
    counts = check_hostile_requests(sender_to(client), 500)
    assert set(counts) == {400, 404, 405, 413}
    assert ids(post(client, "/recommend", items=["tea"], k=1)) == ["cup"]


# --- processes

# A server that writes what it does, without any library.
SERVER = """
import asyncio, os, signal, sys
from processes import run_forked, unblock_signals

async def serve(hang_up):
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    say = lambda text: os.write(1, f"{text} {os.getpid()}\\n".encode())
    loop.add_signal_handler(signal.SIGHUP, say, "reload")
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGUSR1, hang_up)
    loop.add_signal_handler(signal.SIGUSR2, sys.exit, 7)
    unblock_signals()
    say("begin")
    await ended.wait()
    say("end")
    os.kill(os.getpid(), signal.SIGKILL)

sys.exit(run_forked(2, serve))
"""


@contextmanager
def running(*command, **options):
    """Start a process whose output is read; kill it if it hangs."""
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, **options
    )
    timer = threading.Timer(300, process.kill)
    timer.start()
    try:
        yield process
    finally:
        timer.cancel()
        process.terminate()
        process.communicate()


def lines(process, n):
    """Return pairs of a word and the id of a process, sorted."""
    pairs = [process.stdout.readline().split() for _ in range(n)]
    return sorted((word, int(number)) for word, number in pairs)


def test_processes_are_told_to_reload_replaced_and_ended():
    with running("-c", SERVER, cwd=SERVING) as supervisor:
        (_, one), (_, two) = lines(supervisor, 2)
        reloaded = sorted([("reload", one), ("reload", two)])
        supervisor.send_signal(signal.SIGHUP)
        assert lines(supervisor, 2) == reloaded
        os.kill(one, signal.SIGUSR1)
        assert lines(supervisor, 2) == reloaded
        os.kill(one, signal.SIGKILL)
        [(word, three)] = lines(supervisor, 1)
        assert word == "begin"
        assert three not in (one, two)
        supervisor.terminate()
        assert lines(supervisor, 2) == sorted([("end", two), ("end", three)])
        assert supervisor.wait() == 0


def test_all_processes_end_if_one_fails():
    with running("-c", SERVER, cwd=SERVING, stderr=subprocess.DEVNULL) as supervisor:
        (_, one), (_, two) = lines(supervisor, 2)
        os.kill(one, signal.SIGUSR2)
        assert lines(supervisor, 1) == [("end", two)]
        assert supervisor.wait() == 7


def test_two_processes_serve_and_reload(tmp_path):
    publish(tmp_path)
    script = str(SERVING / "web_service.py")
    environment = os.environ | {"PYTHONPATH": str(SERVING.parents[1])}
    with running(script, str(tmp_path), "--workers=2", "--port=0", env=environment) as service:
        address = service.stdout.readline().split()[-1]

        def ask(path, body=None):
            # A new connection, which either process may accept.
            with closing(http.client.HTTPConnection(address)) as connection:
                connection.request("POST" if body else "GET", path, body)
                return json.load(connection.getresponse())

        assert ids(ask("/recommend", b'{"items": ["tea"], "k": 1}')) == ["cup"]
        publish(tmp_path, "second", Popularity())
        assert ask("/reload", b"{}")["version"] == "second"
        served = {}
        while len(served) < 2 or set(served.values()) != {"second"}:
            answer = ask("/health")
            served[answer["process"]] = answer["version"]
            time.sleep(0.01)
        service.terminate()
        assert service.wait() == 0


def sender_over_http(address):
    def send(method, path, body):
        # A new connection, because the service may close one before it has read a large body.
        with closing(http.client.HTTPConnection(address)) as connection:
            connection.request(method, path, body)
            return connection.getresponse().status

    return send


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    environment = os.environ | {"PYTHONPATH": str(SERVING.parents[1])}
    with tempfile.TemporaryDirectory() as folder:
        publish(folder)
        command = [str(SERVING / "web_service.py"), folder, "--port=0"]
        with running(*command, env=environment) as service:
            address = service.stdout.readline().split()[-1]
            started = time.monotonic()
            send = sender_over_http(address)
            counts = check_hostile_requests(send, options.requests, options.seed)
            seconds = time.monotonic() - started
            assert send("GET", "/health", b"") == 200
    print(f"{dict(sorted(counts.items()))}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
