"""Fetchers, with small archives in the original formats that a local server offers."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import stat
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skvaecf.datasets import (
    _logs,
    _movielens,
    _msd,
    _netflix,
    fetch_movielens,
    fetch_msd,
    fetch_netflix,
)
from skvaecf.datasets._archives import Source, cache_folder
from skvaecf.datasets._logs import filter_interactions

pytest.importorskip("pooch")

# For each source, the dictionary that holds it, which may be that of a module, and its key.
PLACES = {version: (_movielens.SOURCES, version) for version in _movielens.SOURCES} | {
    "netflix": (vars(_netflix), "ORIGINAL"),
    "netflix-kaggle": (vars(_netflix), "KAGGLE"),
    "msd": (vars(_msd), "SOURCE"),
}


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        self.server.n_requests += 1


@pytest.fixture
def server(tmp_path):
    """Serve the folder tmp_path/remote; the fixture's value has `folder`, `url`, `n_requests`."""
    folder = tmp_path / "remote"
    folder.mkdir()
    handler = functools.partial(_QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        httpd.n_requests = 0
        httpd.folder = folder
        httpd.url = f"http://127.0.0.1:{httpd.server_port}/"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


@pytest.fixture
def closed_url():
    """Return the address of a local port on which no server listens."""
    with http.server.HTTPServer(("127.0.0.1", 0), _QuietHandler) as httpd:
        port = httpd.server_port
    return f"http://127.0.0.1:{port}/"


@pytest.fixture
def data_home(tmp_path):
    return tmp_path / "cache"


def use_source(monkeypatch, name, base_urls, content, n_interactions, *, checksum=True):
    """Point a source at `base_urls`, with the MD5 checksum of `content`."""
    place, key = PLACES[name]
    filename = place[key].filename
    source = Source(
        filename,
        tuple(url + filename for url in base_urls),
        f"md5:{hashlib.md5(content).hexdigest()}" if checksum else None,
        n_interactions,
    )
    monkeypatch.setitem(place, key, source)
    return source


def zip_of(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(files, mode):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


# User 10 comes before user 9. The items of user 9 are not ascending: 30, 5, 20.
RATINGS = [(10, 5, 4), (9, 30, 5), (10, 20, 3), (9, 5, 1), (9, 20, 4)]
LATIN = "Misérables, Les (1995)"

MOVIELENS = {
    "100k": {
        "ml-100k/u.data": "".join(f"{u}\t{i}\t{r}\t881250949\n" for u, i, r in RATINGS),
        "ml-100k/u.item": (
            f"5|{LATIN}|01-Jan-1995||http://x.org/?a|0|1\n20|Heat (1995)|01-Jan-1995|||0|0\n"
            "30|Big, The|01-Jan-1995|||0|0\n40|Not rated|01-Jan-1995|||0|0\n"
        ).encode("latin-1"),
    },
    "1m": {
        "ml-1m/ratings.dat": "".join(f"{u}::{i}::{r}::978300760\n" for u, i, r in RATINGS),
        "ml-1m/movies.dat": (
            f"5::{LATIN}::Drama|War\n20::Heat (1995)::Action\n"
            "30::Big, The::Comedy\n40::Not rated::Drama\n"
        ).encode("latin-1"),
    },
    "10m": {
        "ml-10M100K/ratings.dat": "".join(f"{u}::{i}::{r}::838985046\n" for u, i, r in RATINGS),
        "ml-10M100K/movies.dat": (
            f"5::{LATIN}::Drama|War\n20::Heat (1995)::Action\n"
            "30::Big, The::Comedy\n40::Not rated::Drama\n"
        ).encode(),
    },
    "20m": {
        "ml-20m/ratings.csv": "userId,movieId,rating,timestamp\n"
        + "".join(f"{u},{i},{r}.0,1112486027\n" for u, i, r in RATINGS),
        "ml-20m/movies.csv": (
            f'movieId,title,genres\r\n5,"{LATIN}",Drama|War\r\n20,Heat (1995),Action\r\n'
            '30,"Big, The",Comedy\r\n40,Not rated,Drama\r\n'
        ).encode(),
    },
}


@pytest.mark.parametrize("version", ["100k", "1m", "10m", "20m"])
@pytest.mark.parametrize("block_bytes", [1, 1 << 23])
def test_movielens_formats(version, block_bytes, server, data_home, monkeypatch):
    content = zip_of(MOVIELENS[version])
    source = use_source(monkeypatch, version, [server.url], content, len(RATINGS))
    (server.folder / source.filename).write_bytes(content)
    monkeypatch.setattr(_logs, "BLOCK_BYTES", block_bytes)
    movielens = fetch_movielens(
        version, data_home=data_home, min_rating=None, min_user_interactions=0
    )
    assert_array_equal(movielens.data.toarray(), [[1, 4, 5], [4, 3, 0]])
    assert movielens.data.dtype == np.float32
    assert movielens.data.indices.dtype == np.int32
    # Entries are in file order within each row.
    assert movielens.data.indices.tolist() == [2, 0, 1, 0, 1]
    assert movielens.data.data.tolist() == [5, 1, 4, 4, 3]
    assert movielens.user_ids.tolist() == [9, 10]
    assert movielens.item_ids.tolist() == [5, 20, 30]
    assert movielens.item_names.tolist() == [LATIN, "Heat (1995)", "Big, The"]
    assert movielens.DESCR.startswith(f"MovieLens {version}")
    assert (data_home / source.filename).read_bytes() == content


def test_movielens_default_filters(data_home, monkeypatch):
    # Movie 7 is only rated 3.5 stars; user 2 has four ratings of 4 stars or more.
    rows = [(1, item, 4.0) for item in range(1, 7)] + [(1, 7, 3.5)]
    rows += [(2, item, 5.0) for item in range(1, 5)] + [(2, 7, 3.5)]
    lines = "".join(f"{u},{i},{r},1\n" for u, i, r in rows)
    content = zip_of(
        {
            "ml-20m/ratings.csv": "userId,movieId,rating,timestamp\n" + lines,
            "ml-20m/movies.csv": "movieId,title,genres\n",
        }
    )
    source = use_source(monkeypatch, "20m", [], content, len(rows))
    data_home.mkdir()
    (data_home / source.filename).write_bytes(content)
    movielens = fetch_movielens(data_home=data_home)
    assert movielens.user_ids.tolist() == [1]
    assert movielens.item_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert_array_equal(movielens.data.toarray(), np.full((1, 6), 4.0))
    assert movielens.item_names.tolist() == [""] * 6
    same = fetch_movielens(data_home=data_home, min_rating=4)
    assert_array_equal(same.data.toarray(), movielens.data.toarray())
    everything = fetch_movielens(data_home=data_home, min_rating=None)
    assert everything.data.shape == (2, 7)
    rare = fetch_movielens(data_home=data_home, min_rating=None, min_item_users=2)
    assert rare.data.shape == (2, 5)


def test_other_movielens_keep_every_rating_by_default(data_home, monkeypatch):
    data_home.mkdir()
    for version in ("100k", "1m", "10m"):
        content = zip_of(MOVIELENS[version])
        source = use_source(monkeypatch, version, [], content, len(RATINGS))
        (data_home / source.filename).write_bytes(content)
        assert fetch_movielens(version, data_home=data_home).data.nnz == len(RATINGS)


def test_cached_file_needs_no_server(server, closed_url, data_home, monkeypatch):
    content = zip_of(MOVIELENS["1m"])
    source = use_source(monkeypatch, "1m", [server.url], content, len(RATINGS))
    (server.folder / source.filename).write_bytes(content)
    monkeypatch.setenv("SKVAECF_DATA", str(data_home))
    first = fetch_movielens("1m")
    assert server.n_requests == 1
    use_source(monkeypatch, "1m", [closed_url], content, len(RATINGS))
    second = fetch_movielens("1m")
    assert server.n_requests == 1
    assert_array_equal(first.data.toarray(), second.data.toarray())
    assert [path.name for path in data_home.iterdir()] == ["ml-1m.zip"]


def test_second_address_serves_when_the_first_fails(server, closed_url, data_home, monkeypatch):
    content = zip_of(MOVIELENS["1m"])
    source = use_source(monkeypatch, "1m", [closed_url, server.url], content, len(RATINGS))
    (server.folder / source.filename).write_bytes(content)
    assert fetch_movielens("1m", data_home=data_home, n_retries=0).data.nnz == len(RATINGS)


def test_a_failed_request_is_tried_again(server, data_home, monkeypatch):
    content = zip_of(MOVIELENS["1m"])
    source = use_source(monkeypatch, "1m", [server.url], content, len(RATINGS))
    sleeps = []

    def publish(seconds):
        sleeps.append(seconds)
        (server.folder / source.filename).write_bytes(content)

    monkeypatch.setattr("time.sleep", publish)
    assert fetch_movielens("1m", data_home=data_home, n_retries=1).data.nnz == len(RATINGS)
    assert len(sleeps) == 1
    assert server.n_requests >= 2


def test_offline_error_says_what_to_do(closed_url, data_home, monkeypatch):
    source = use_source(monkeypatch, "20m", [closed_url, closed_url + "mirror/"], b"x", 1)
    with pytest.raises(OSError, match="could not be downloaded") as caught:
        fetch_movielens("20m", data_home=data_home, n_retries=0)
    message = str(caught.value)
    for url in source.urls:
        assert url in message
    assert str(data_home / "ml-20m.zip") in message
    assert source.known_hash in message


def test_download_if_missing_false(server, data_home, monkeypatch):
    use_source(monkeypatch, "20m", [server.url], b"x", 1)
    with pytest.raises(OSError, match="download_if_missing=False"):
        fetch_movielens("20m", data_home=data_home, download_if_missing=False)
    assert server.n_requests == 0


def test_wrong_checksum_of_a_download(server, data_home, monkeypatch):
    source = use_source(monkeypatch, "1m", [server.url], b"expected", 1)
    (server.folder / source.filename).write_bytes(b"something else")
    with pytest.raises(OSError, match=source.known_hash) as caught:
        fetch_movielens("1m", data_home=data_home, n_retries=0)
    assert hashlib.md5(b"something else").hexdigest() in str(caught.value)
    assert not (data_home / source.filename).exists()


def test_wrong_checksum_in_the_cache_leaves_the_file(server, data_home, monkeypatch):
    source = use_source(monkeypatch, "1m", [server.url], b"expected", 1)
    data_home.mkdir()
    (data_home / source.filename).write_bytes(b"something else")
    with pytest.raises(ValueError, match="another checksum than expected") as caught:
        fetch_movielens("1m", data_home=data_home)
    assert str(data_home / source.filename) in str(caught.value)
    assert (data_home / source.filename).read_bytes() == b"something else"
    assert server.n_requests == 0


# Files of two movies, in the order 2, 1. The result has the order 1, 2.
NETFLIX_MOVIES = {
    2: "2:\n9,5,2005-09-06\n10,3,2005-05-13\n",
    1: "1:\n10,4,2005-10-19\n9,2,2005-12-26\n8,1,2004-01-01\n",
}
NETFLIX_TITLES = (
    '1,2003,Dinosaur Planet\n2,NULL,8½, The Men, Women & "Clooney\'s" Brother\n'
).encode("latin-1")
SECOND_TITLE = '8½, The Men, Women & "Clooney\'s" Brother'


def netflix_original():
    training = {
        f"training_set/mv_{movie:07d}.txt": lines.encode()
        for movie, lines in NETFLIX_MOVIES.items()
    }
    return tar_of(
        {
            "download/training_set.tar": tar_of(training, "w"),
            "download/qualifying.txt": b"1:\n1046323,2005-12-19\n",
            "download/movie_titles.txt": NETFLIX_TITLES,
        },
        "w:gz",
    )


def netflix_kaggle():
    return zip_of(
        {
            "combined_data_2.txt": "3:\n10,5,2005-01-01\n",
            "combined_data_1.txt": NETFLIX_MOVIES[1] + NETFLIX_MOVIES[2],
            "movie_titles.csv": NETFLIX_TITLES + b"3,1997,Character\n",
            "qualifying.txt": "1:\n1046323,2005-12-19\n",
        }
    )


@pytest.mark.parametrize("block_bytes", [1, 1 << 23])
def test_netflix_original(block_bytes, server, data_home, monkeypatch):
    content = netflix_original()
    source = use_source(monkeypatch, "netflix", [server.url], content, 5)
    (server.folder / source.filename).write_bytes(content)
    monkeypatch.setattr(_logs, "BLOCK_BYTES", block_bytes)
    netflix = fetch_netflix(data_home=data_home, min_rating=None, min_user_interactions=0)
    assert_array_equal(netflix.data.toarray(), [[1, 0], [2, 5], [4, 3]])
    assert netflix.data.indices.tolist() == [0, 0, 1, 0, 1]
    assert netflix.user_ids.tolist() == [8, 9, 10]
    assert netflix.item_ids.tolist() == [1, 2]
    assert netflix.item_names.tolist() == ["Dinosaur Planet", SECOND_TITLE]


@pytest.mark.parametrize("block_bytes", [1, 20, 1 << 23])
def test_netflix_kaggle_by_hand(block_bytes, data_home, monkeypatch):
    content = netflix_kaggle()
    source = use_source(monkeypatch, "netflix-kaggle", [], content, 6, checksum=False)
    data_home.mkdir()
    (data_home / source.filename).write_bytes(content)
    monkeypatch.setattr(_logs, "BLOCK_BYTES", block_bytes)
    netflix = fetch_netflix(data_home=data_home, min_rating=None, min_user_interactions=0)
    assert_array_equal(netflix.data.toarray(), [[1, 0, 0], [2, 5, 0], [4, 3, 5]])
    assert netflix.item_names.tolist() == ["Dinosaur Planet", SECOND_TITLE, "Character"]
    kept = fetch_netflix(data_home=data_home, min_user_interactions=2)
    assert_array_equal(kept.data.toarray(), [[4, 5]])
    assert kept.user_ids.tolist() == [10]
    assert kept.item_names.tolist() == ["Dinosaur Planet", "Character"]


def test_netflix_default_filter_is_that_of_the_paper(data_home, monkeypatch):
    lines = "".join(f"{movie}:\n7,4,2005-01-01\n" for movie in range(1, 6))
    lines += "6:\n7,3,2005-01-01\n8,5,2005-01-01\n"
    content = zip_of({"combined_data_1.txt": lines, "movie_titles.csv": ""})
    source = use_source(monkeypatch, "netflix-kaggle", [], content, 7, checksum=False)
    data_home.mkdir()
    (data_home / source.filename).write_bytes(content)
    netflix = fetch_netflix(data_home=data_home)
    assert netflix.user_ids.tolist() == [7]
    assert netflix.item_ids.tolist() == [1, 2, 3, 4, 5]


def msd_archive(triplets):
    lines = "".join(f"{user}\t{song}\t{plays}\n" for user, song, plays in triplets)
    return zip_of({"train_triplets.txt": lines})


def test_msd_drops_items_first_then_users_in_one_pass(server, data_home, monkeypatch):
    # Song "rare" has one listener and is dropped. Then user "b" has one song and is dropped, too.
    # Then song "z" has one listener but is kept: each minimum is applied only once. If the users
    # were filtered first, "b" would be kept, with the songs "rare" and "z".
    triplets = [
        ("b", "rare", 3),
        ("b", "z", 1),
        ("a", "z", 7),
        ("a", "y", 2),
        ("c", "y", 1),
        ("c", "x", 1),
        ("a", "x", 9),
    ]
    content = msd_archive(triplets)
    source = use_source(monkeypatch, "msd", [server.url], content, len(triplets), checksum=False)
    (server.folder / source.filename).write_bytes(content)
    msd = fetch_msd(data_home=data_home, min_user_interactions=2, min_item_users=2)
    assert msd.user_ids.tolist() == ["a", "c"]
    assert msd.item_ids.tolist() == ["x", "y", "z"]
    assert_array_equal(msd.data.toarray(), [[1, 1, 1], [1, 1, 0]])
    assert msd.data.indices.tolist() == [2, 1, 0, 1, 0]  # file order
    assert msd.item_names is None
    everything = fetch_msd(data_home=data_home, min_user_interactions=0, min_item_users=0)
    assert everything.data.shape == (3, 4)
    assert everything.data.data.tolist() == [1.0] * 7


def test_msd_defaults_are_those_of_the_paper(data_home, monkeypatch):
    # 200 users have 20 songs, user 200 has 19 of these, and song 20 has 199 listeners.
    triplets = [(f"u{u:03d}", f"s{s:02d}", 1) for u in range(200) for s in range(20)]
    triplets += [("u200", f"s{s:02d}", 1) for s in range(19)]
    triplets += [(f"u{u:03d}", "s20", 1) for u in range(199)]
    content = msd_archive(triplets)
    source = use_source(monkeypatch, "msd", [], content, len(triplets), checksum=False)
    data_home.mkdir()
    (data_home / source.filename).write_bytes(content)
    msd = fetch_msd(data_home=data_home)
    assert msd.data.shape == (200, 20)
    assert msd.data.nnz == 4000


@pytest.mark.parametrize(
    "content",
    [b"<html>moved</html>", zip_of({"other.txt": "a\tb\t1\n"})],
    ids=["page", "zip"],  # the bytes of a zip file hold the time
)
def test_unpinned_file_that_is_no_archive(content, data_home, monkeypatch):
    source = use_source(monkeypatch, "msd", [], content, 1, checksum=False)
    data_home.mkdir()
    path = data_home / source.filename
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"(?s)cannot be loaded, it is damaged.*Delete it"
    ) as caught:
        fetch_msd(data_home=data_home)
    assert str(path) in str(caught.value)


def test_a_downloaded_page_instead_of_an_archive_is_not_kept(server, data_home, monkeypatch):
    content = msd_archive([("a", "x", 1), ("a", "y", 1)])
    source = use_source(
        monkeypatch, "msd", [server.url + "moved/", server.url], content, 2, checksum=False
    )
    (server.folder / "moved").mkdir()
    (server.folder / "moved" / source.filename).write_bytes(b"<html>moved</html>")
    (server.folder / source.filename).write_bytes(content)
    msd = fetch_msd(data_home=data_home, min_user_interactions=1, min_item_users=1)
    assert msd.data.nnz == 2
    assert stat.S_IMODE((data_home / source.filename).stat().st_mode) == 0o644


def test_netflix_kaggle_file_that_is_no_archive(data_home):
    data_home.mkdir()
    (data_home / "netflix-prize-data.zip").write_bytes(b"PK truncated")
    with pytest.raises(ValueError, match=r"(?s)netflix-prize-data.zip cannot be loaded.*Delete it"):
        fetch_netflix(data_home=data_home)


def test_truncated_text_is_found_by_the_number_of_interactions(data_home, monkeypatch):
    content = msd_archive([("a", "x", 1), ("a", "y", 1)])
    source = use_source(monkeypatch, "msd", [], content, 3, checksum=False)
    data_home.mkdir()
    (data_home / source.filename).write_bytes(content)
    with pytest.raises(ValueError, match="holds 2 interactions; expected 3"):
        fetch_msd(data_home=data_home)


def test_sources_are_pinned_where_a_checksum_is_known():
    sources = {name: place[key] for name, (place, key) in PLACES.items()}
    unpinned = {name for name, source in sources.items() if source.known_hash is None}
    assert unpinned == {"msd", "netflix-kaggle"}
    for source in sources.values():
        assert all(url.endswith("/" + source.filename) for url in source.urls)
        assert source.known_hash is None or len(source.known_hash) == len("md5:") + 32


def test_filter_interactions_keeps_the_order():
    users = np.array([1, 0, 1, 1, 0], dtype=np.int32)
    items = np.array([0, 0, 1, 2, 2], dtype=np.int32)
    ratings = np.array([5, 4, 3, 2, 1], dtype=np.float32)
    kept = filter_interactions(users, items, ratings, min_rating=2, min_user_interactions=2)
    assert [array.tolist() for array in kept] == [[1, 1, 1], [0, 1, 2], [5, 3, 2]]
    kept = filter_interactions(users, items, ratings, min_item_users=2)
    assert [array.tolist() for array in kept] == [[1, 0, 1, 0], [0, 0, 2, 2], [5, 4, 2, 1]]
    kept = filter_interactions(users, items, ratings, min_rating=9, min_item_users=1)
    assert [len(array) for array in kept] == [0, 0, 0]


@pytest.mark.parametrize(
    ("fetch", "arguments", "message"),
    [
        (fetch_movielens, {"version": "2m"}, "str among .*'2m'"),
        (fetch_movielens, {"min_user_interactions": -1}, "int in the range .* or .*'auto'"),
        (fetch_movielens, {"download_if_missing": "no"}, "instance of 'bool'"),
        (fetch_netflix, {"min_item_users": -1}, "int in the range"),
        (fetch_netflix, {"min_rating": "auto"}, "instance of 'float' or None"),
        (fetch_msd, {"n_retries": -1}, "int in the range"),
    ],
)
def test_invalid_arguments(fetch, arguments, message, data_home):
    [argument] = arguments
    start = f"The '{argument}' parameter of {fetch.__name__} must be an? "
    with pytest.raises(ValueError, match=start + message):
        fetch(data_home=data_home, **arguments)
    assert not data_home.exists()


def test_default_folder_is_that_of_the_system(monkeypatch, tmp_path):
    import pooch

    monkeypatch.delenv("SKVAECF_DATA", raising=False)
    assert cache_folder(None) == pooch.os_cache("skvaecf")
    monkeypatch.setenv("SKVAECF_DATA", str(tmp_path))
    assert cache_folder(None) == tmp_path
    assert cache_folder(tmp_path / "other") == tmp_path / "other"


def test_missing_pooch_says_how_to_install_it(monkeypatch, data_home):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match="pip install pooch"):
        fetch_msd(data_home=data_home)
