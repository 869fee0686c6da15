import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import polars as pl
import pytest

from provenance.core.errors import StoreError
from provenance.core.store import Store, canonical_json, digest, sha256, to_parquet


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.night)])
def any_store(request):
    return request.getfixturevalue("store" if request.param == "file" else "bucket")


def test_what_is_written_is_read_and_a_missing_object_is_a_clear_error(any_store):
    any_store.write("a/b", b"1")
    any_store.write("a/b", b"2")
    any_store.write("a/c/d", b"3")
    assert any_store.read("a/b") == b"2"
    assert any_store.list("a") == ["a/b", "a/c/d"]
    assert any_store.list("nothing") == []
    assert any_store.exists("a/b")
    assert not any_store.exists("a/x")
    frame = pl.DataFrame({"x": [1, 2], "y": ["a", None]})
    assert any_store.write_table("t.parquet", frame) == sha256(any_store.read("t.parquet"))
    assert any_store.read_table("t.parquet").equals(frame)
    with pytest.raises(StoreError, match="expected an object, found nothing"):
        any_store.read("no/such")


def test_a_name_that_is_too_long_for_the_disk_is_no_passing_failure_of_the_store(store):
    with pytest.raises(StoreError, match=r"File name too long.*Shorten the name"):
        store.write("a/" + 300 * "x", b"1")


def test_of_many_writers_that_create_one_wins(any_store):
    def race(writer):
        return any_store.create("contested", str(writer).encode())

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(race, range(8)))
    assert outcomes.count(True) == 1
    assert any_store.read("contested") == str(outcomes.index(True)).encode()


def test_no_write_is_lost_where_each_replaces_what_it_read(any_store):
    any_store.write("counter", b"0")

    def add(_):
        while True:
            before = any_store.read("counter")
            if any_store.replace("counter", str(int(before) + 1).encode(), previous=before):
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert any_store.read("counter") == b"24"
    assert not any_store.replace("counter", b"0", previous=b"23")
    assert any_store.read("counter") == b"24"


def test_objects_are_described_and_removed_at_once(any_store):
    keys = [f"x/{number}" for number in range(5)]
    for key in keys:
        any_store.write(key, b"12")
    (stored, *_) = any_store.describe()
    assert (stored.key, stored.bytes) == ("x/0", 2)
    assert abs(datetime.now(UTC) - stored.modified) < timedelta(minutes=5)
    any_store.remove_all([*keys[:3], "x/never"])
    assert [stored.key for stored in any_store.describe()] == keys[3:]


def test_a_killed_writer_leaves_nothing_that_is_listed(store):
    script = f"""
import os
from provenance.core.store import Store
os.replace = lambda *_: os.kill(os.getpid(), 9)
Store({store.url!r}, {{}}).write("folder/object", b"half")
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -9
    assert list(Path(store.path("folder")).iterdir()), "the write aside should have begun"
    assert store.list("folder") == []
    assert not store.exists("folder/object")


def test_unwritable_store_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path in ("file/store", "file"):
        with pytest.raises(StoreError, match=rf"{path}.*expected a writable store.*\[store\]"):
            Store(f"file://{tmp_path}/{path}", {}).check_writable()


@pytest.mark.night
def test_wrong_credentials_are_a_clear_error(bucket):
    wrong = Store(bucket.url, {**bucket.options, "key": "test-access", "secret": "wrong"})
    with pytest.raises(StoreError, match="expected a writable store"):
        wrong.check_writable()


def test_equal_frames_give_equal_bytes_and_a_digest_is_of_the_value_and_not_of_its_spelling():
    frame = pl.DataFrame({"x": range(1000), "y": [f"{n}" for n in range(1000)]})
    halves = pl.concat([frame[:500], frame[500:]], rechunk=False)
    assert to_parquet(frame) == to_parquet(halves)
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert canonical_json({"b": "ü", "a": 1}) == '{\n  "a": 1,\n  "b": "ü"\n}\n'.encode()


@pytest.mark.parametrize("large", [1, 2**28])
def test_files_are_copied_whole_or_in_pieces(any_store, large, tmp_path, monkeypatch):
    monkeypatch.setattr("provenance.core.store.LARGE", large)
    monkeypatch.setattr("provenance.core.store.PIECE", 1000)
    data = bytes(range(256)) * 9
    (tmp_path / "weights").write_bytes(data)
    any_store.write("m/weights", b"earlier ones")
    any_store.write_file("m/weights", tmp_path / "weights")
    assert any_store.read("m/weights") == data
    assert any_store.list("m") == ["m/weights"]
    copied = any_store.fetch("m", {"weights": sha256(data)}, tmp_path / "copy")
    assert (copied / "weights").read_bytes() == data
    with pytest.raises(StoreError, match="m/weights: expected SHA-256"):
        any_store.fetch("m", {"weights": "0" * 64}, tmp_path / "other")
    with pytest.raises(StoreError, match="m/none: expected an object, found nothing"):
        any_store.fetch("m", {"none": "0" * 64}, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_fetch_refuses_another_content(store, tmp_path):
    store.write("m/file", b"weights")
    with pytest.raises(StoreError, match="m/file: expected SHA-256"):
        store.fetch("m", {"file": "0" * 64}, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert (store.fetch("m", {"file": sha256(b"weights")}, tmp_path / "copy") / "file").read_bytes() == b"weights"


def test_a_disk_signs_no_links(store):
    store.write("a/page.html", b"x")
    with pytest.raises(StoreError, match="expected a store on S3, which can sign a link, found one on a disk"):
        store.signed_link("a/page.html", days=1, content_type="text/html")


@pytest.mark.night
def test_a_signed_link_opens_one_object_for_whoever_has_it(bucket):
    key = "exports/statements/period=2026-10/owner=a%2Fb/statement.html"
    bucket.write(key, "<p>Grüße</p>".encode())
    bucket.write("exports/other.html", b"x")
    link = bucket.signed_link(key, days=2, content_type="text/html; charset=utf-8")
    answer = httpx.get(link)
    assert (answer.status_code, answer.text) == (200, "<p>Grüße</p>")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    other = link.replace(link.split("?")[0], f"{bucket.options['endpoint_url']}/{bucket.path('exports/other.html')}")
    assert httpx.get(other).status_code == 403
    assert httpx.get(link.split("?")[0]).status_code == 403
    with pytest.raises(StoreError, match="expected an object, found none"):
        bucket.signed_link("exports/none.html", days=1, content_type="text/html")
