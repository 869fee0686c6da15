"""Each fault, for each thing that is asked of a store."""

import errno
import os
import subprocess
import uuid
from pathlib import Path

import pytest
from places import filled
from proxy import FAULTS
from s3fs import S3FileSystem
from samples import new_bucket

from provenance.core.errors import StoreError, StoreUnavailable
from provenance.core.store import READS, Store, sha256

DATA = bytes(range(256)) * 400
ASKED = {
    "read": ("GET", lambda store: store.read("a/b") == DATA),
    "size": ("HEAD", lambda store: store.read("a/b") == DATA),
    "exists": ("HEAD", lambda store: store.exists("a/b") and not store.exists("a/c")),
    "list": ("GET", lambda store: store.list("a") == ["a/b"]),
    "write": ("PUT", lambda store: store.write("w", DATA) is None and store.read("w") == DATA),
    "create": ("PUT", lambda store: store.create("k", DATA) and not store.create("k", b"") and store.read("k") == DATA),
    "replace": ("PUT", lambda store: store.replace("a/b", b"1", previous=DATA) and store.read("a/b") == b"1"),
    "remove": ("DELETE", lambda store: store.remove("a/b") is None and not store.exists("a/b")),
}
PASSING = [fault for fault in FAULTS if fault != "expired"]


@pytest.fixture(scope="module")
def shared_bucket(s3):
    return new_bucket(s3)


@pytest.fixture
def faulty(shared_bucket, proxy):
    """A store behind the proxy, with an object in it."""
    store = Store(f"{shared_bucket.url}/{uuid.uuid4().hex}", {"endpoint_url": proxy.url})
    store.write("a/b", DATA)
    proxy.requests = 0
    return store


def times(count, fault, wanted):
    """Whatever decides for a proxy: a fault for the first so many requests with a method."""
    left = [count]

    def when(method, *_):
        if method != wanted or not left[0]:
            return None
        left[0] -= 1
        return fault

    return when


@pytest.mark.parametrize("asked", ASKED)
def test_what_passes_is_not_noticed(faulty, proxy, asked):
    method, ask = ASKED[asked]
    for fault in (fault for fault in PASSING if method in FAULTS[fault]):
        proxy.when = times(2, fault, method)
        faulty_again = Store(faulty.url, faulty.options)
        assert ask(faulty_again), fault
        assert proxy.injected[fault] == 2
        proxy.when = None
        faulty.write("a/b", DATA)
        faulty.remove("k") if asked == "create" else None


def test_of_two_who_create_or_replace_alike_one_wins_even_if_no_answer_reaches_it(faulty, proxy):
    rival = Store(faulty.url, {"endpoint_url": proxy.to})
    proxy.when = times(1, "lost", "PUT")
    assert faulty.create("k", b"same")
    assert not rival.create("k", b"same")
    assert rival.replace("k", b"next", previous=b"same")
    proxy.when = times(2, "lost", "PUT")
    assert not faulty.replace("k", b"next", previous=b"same")
    assert not faulty.create("k", b"next")
    assert faulty.read("k") == b"next"


@pytest.mark.parametrize("fault", ["errors", "timeouts", "truncated", "shortened", "corrupted"])
def test_what_does_not_pass_is_left_to_later_retries_and_says_where_it_is(faulty, proxy, fault, monkeypatch):
    if fault == "timeouts":
        monkeypatch.setattr(S3FileSystem, "read_timeout", 0.05)
    proxy.when = lambda method, *_: fault if method in FAULTS[fault] else None
    fails = rf"{faulty.url}/a/b: the store fails: .* If it lasts, see that the server is up"
    with pytest.raises(StoreUnavailable, match=fails):
        faulty.read("a/b")
    assert proxy.injected[fault] >= READS
    proxy.when = None
    assert faulty.read("a/b") == DATA


@pytest.mark.parametrize("asked", ASKED)
def test_an_expired_credential_is_named_until_it_is_renewed(faulty, proxy, asked):
    _, ask = ASKED[asked]
    proxy.when = lambda *_: "expired"
    with pytest.raises(StoreError, match=rf"{faulty.url}/.*found ExpiredToken: .*Renew the credentials of \[store\]"):
        ask(faulty)
    assert proxy.requests < 10, "it is not asked for again and again"
    proxy.when = None
    assert ask(faulty)


def test_renewed_credentials_are_found_by_a_process_that_goes_on(s3, tmp_path, monkeypatch):
    store = new_bucket(s3)
    store.write("a", b"1")
    shared = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    shared.write_text(f"[default]\naws_access_key_id = revoked\naws_secret_access_key = {secret}\n")
    store = Store(store.url, {**store.options, "default_block_size": 2**20})  # of a file system of its own
    with pytest.raises(StoreError, match="InvalidAccessKeyId.*Check the URL"):
        store.read("a")
    shared.write_text(f"[default]\naws_access_key_id = test-access\naws_secret_access_key = {secret}\n")
    assert store.read("a") == b"1"


def test_no_bucket_is_not_an_empty_store(s3):
    store = Store("s3://no-such-bucket/root", {"endpoint_url": s3})
    with pytest.raises(StoreError, match=r"no-such-bucket/root/a: .*NoSuchBucket.*Check the URL"):
        store.read("a")


def test_a_full_disk_is_named_and_keeps_what_was_there(small_disk):
    disk = small_disk("disk", 1)
    store = Store(f"file://{disk}/store", {})
    store.write("a", b"1")
    large = bytes(2**16)
    for ask in (
        lambda: store.write("a", large), lambda: store.create("b", large), lambda: store.replace("a", large, previous=b"1"),
    ):  # fmt: skip
        full = pytest.raises(StoreError, match=rf"{disk}/store/[ab]: .*No space left on device.*Make room")
        with filled(disk, 2**14), full:
            ask()
    assert store.list("") == ["a"]
    assert store.read("a") == b"1"
    assert [path.name for path in Path(store.path("")).iterdir() if path.name != ".a.lock"] == ["a"], "nothing lies aside"
    store.write("a", large)
    assert store.read("a") == large


def test_a_copy_that_fails_leaves_nothing_aside(store, tmp_path, small_disk):
    store.write("m/weights", bytes(2**21))
    disk = small_disk("cache", 1)
    files = {"weights": sha256(bytes(2**21))}
    with pytest.raises(StoreError, match=rf"{disk}/m: .*No space left on device.*Make room"):
        store.fetch("m", files, disk / "m")
    assert list(disk.iterdir()) == []
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    assert (store.fetch("m", files, disk / "m") / "weights").stat().st_size == 2**21


def test_a_disk_that_fails_once_is_tried_again_by_others(store, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StoreUnavailable, match=r"store/a: the store fails: .*Input/output error"):
            store.write("a", b"1")
    assert store.list("") == []
    store.write("a", b"1")
