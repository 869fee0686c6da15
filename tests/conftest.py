"""Fixtures: a tiny corpus, a tiny model trained on it, stores on disk and on a real S3 server, databases."""

import gc
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from samples import DAY, administer, create_database, deliver, enter, new_bucket, settings_of, train_counterfactuals, train_tiny
from servers import s3_server
from stages import run

from provenance.core.store import Store

# The time of an example depends on the load of the machine.
settings.register_profile("provenance", deadline=None)
settings.load_profile("provenance")


@pytest.fixture(scope="module", autouse=True)
def _set_aside():
    """Take all that is loaded out of what the garbage collector looks through: stages collect when they close a model."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A byte-level transformer of a few thousand parameters, with a base and four checkpoints."""
    return train_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_set(tiny_model, tmp_path_factory) -> Path:
    """Nine counterfactual models of the tiny model: each of five owners alone, and two random halves with their complements."""
    return train_counterfactuals(tmp_path_factory.mktemp("sets"), tiny_model, 3)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(f"file://{tmp_path}/store", {})


@pytest.fixture(scope="session")
def postgres(tmp_path_factory) -> str:
    """URL of a throw-away PostgreSQL server; `{}` stands for the database."""
    from tasks.database import get_server

    server = get_server(tmp_path_factory.mktemp("postgres"))
    # It dies with the tests: what it writes need not outlive a power cut, and hundreds of databases are slow to force to disk.
    administer(server.get_uri(driver="psycopg2"), "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
    return server.get_uri(database="PLACE", driver="psycopg2").replace("PLACE", "{}")


@pytest.fixture
def database(postgres) -> str:
    """URL of an empty database of the test's own."""
    return create_database(postgres)


@pytest.fixture(scope="session")
def airflow_tables(postgres, tmp_path_factory) -> str:
    """URL of a database with Airflow's own tables, and no rows of ours."""
    url = create_database(postgres)
    environment = {"AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url}
    script = "from airflow.utils import db; db.initdb()"
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, **environment}, capture_output=True)
    return url


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """A real S3 server (SeaweedFS): its endpoint, with credentials in the environment."""
    with s3_server(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3) -> Store:
    """A store in a fresh bucket."""
    return new_bucket(s3)


@pytest.fixture
def new_books(postgres, tmp_path, monkeypatch):
    """Makes a store with an empty ledger, or a copy of one, and one key for all, and points the settings at them."""

    def make(name: str = "store", template: str = "template1") -> Store:
        store, key = Store(f"file://{tmp_path}/{name}", {}), f"{tmp_path}/signing.pem"
        values = {"STORE__URL": store.url, "DATABASE__URL": create_database(postgres, template), "SETTLEMENT__KEY": key}
        values["SETTLEMENT__CONTACT"] = "royalties@example.org"
        enter(monkeypatch, {f"PROVENANCE_{name}": value for name, value in values.items()})
        return store

    return make


@pytest.fixture
def books(new_books) -> Store:
    """A store of the test's own, with an empty ledger and a key; the settings name all three."""
    return new_books()


@pytest.fixture
def airflow(airflow_tables, postgres) -> str:
    """URL of the test's own database with Airflow's tables."""
    return create_database(postgres, sa.make_url(airflow_tables).database)


@pytest.fixture
def environment(monkeypatch, tmp_path, tiny_model, database):
    """A function that puts settings of a night on the tiny corpus and model in the environment."""

    def configure(store: Store, **overrides: str) -> None:
        small = {"CORPUS__SHARD_EXAMPLES": "8", "CLUSTER__WORKERS": "1"}
        enter(monkeypatch, settings_of(store, database, tiny_model, tmp_path, **(small | overrides)))

    return configure


@pytest.fixture
def ingested(store, environment):
    """Puts a corpus in force on the store of the settings, delivers days of outputs, and returns the corpus's digest."""

    def make(frames=None, days=(DAY,), **settings: str) -> str:
        environment(store, **settings)
        deliver(store, frames, days)
        return run("corpus.ingest")

    return make


@pytest.fixture
def doors():
    """Opens the doors of some settings, by default those in force; they close at the end of the test."""
    from tasks.where import opened

    with ExitStack() as stack:
        yield lambda settings=None, **options: stack.enter_context(opened(settings, **options))


@pytest.fixture
def where(books, doors):
    """The doors of `books`: a store, an empty ledger and a key of the test's own."""
    return doors()


@pytest.fixture
def own_logs(monkeypatch, tmp_path):
    """Log folders of the test's own, so that housekeeping leaves those of the checkout alone."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    monkeypatch.setattr("tasks.where.CHECKOUT", tmp_path)
    monkeypatch.setattr("provenance.validation.retention.CHECKOUT", tmp_path)


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Runs `provenance` in this process; returns exit code, standard output and standard error."""
    from tasks.cli import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["provenance", *words])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return exit_.value.code, captured.out, captured.err

    return run


@pytest.fixture
def shown(command_line):
    """Runs `provenance`, which must succeed; returns its output, with `--json` as data."""

    def run(*words):
        code, out, err = command_line(*words)
        assert code == 0, out + err
        return json.loads(out) if "--json" in words else out

    return run


@pytest.fixture
def refused(command_line):
    """Runs `provenance`, which must fail with a code, by default that of bad input; returns the error."""

    def run(*words, code=2):
        exit_code, out, err = command_line(*words)
        assert exit_code == code, out + err
        assert "Traceback" not in err
        return err

    return run
