"""Faults are injected into nights on the tiny corpus, each in a store and a ledger of its own."""

import subprocess

import pytest
from botocore.retries.standard import ExponentialBackoff
from places import Place
from proxy import Proxy
from s3fs import S3FileSystem
from samples import corpus_frames, create_database, deliver, enter, settings_of
from stages import SMALL, night, run

from provenance.core.store import Store


@pytest.fixture(scope="session")
def places(postgres, tiny_model, tmp_path_factory):
    """Makes places, which sign with one key."""
    folder = tmp_path_factory.mktemp("places")

    def make(store, reached=None):
        database = create_database(postgres)
        own = {"MODEL__CACHE": str(folder / database.split("test_")[1].split("?")[0])}
        return Place(store, settings_of(reached or store, database, tiny_model, folder, **SMALL, **own))

    return make


@pytest.fixture(scope="session")
def undisturbed(places, tmp_path_factory):
    """A night without a fault."""
    place = places(Store(f"file://{tmp_path_factory.mktemp('undisturbed')}", {}))
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, place.environment)
        deliver(place.store, corpus_frames())
        run("corpus.ingest")
        night()
    return place


@pytest.fixture
def at(monkeypatch):
    """Makes a place that of the settings."""
    return lambda place: enter(monkeypatch, place.environment)


@pytest.fixture
def impatient(monkeypatch):
    """Retries as often as ever, and sooner."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.01)
    monkeypatch.setattr(S3FileSystem, "read_timeout", 0.3)


@pytest.fixture
def proxy(s3, impatient):
    """A proxy without faults before the S3 server, and its URL."""
    proxy = Proxy(s3, hold=0.6)
    with proxy.running() as proxy.url:
        yield proxy


@pytest.fixture
def small_disk(tmp_path):
    """Makes file systems of a size in MiB; only an administrator may mount one."""
    mounted = []

    def make(name, size):
        folder = tmp_path / name
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("mounting a small disk takes rights that this account does not have")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def pytest_collection_modifyitems(items):
    """Whatever asks for a proxy asks for a server."""
    for item in items:
        if {"s3", "undisturbed"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.night)
