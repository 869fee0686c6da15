"""What tests share: a tiny corpus, a tiny model trained on it, stores on disk and on a real S3 server, and a database."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from samples import create_database, enter, new_bucket, settings_of, train_counterfactuals, train_tiny
from servers import s3_server

from provenance.core.store import Store

# How long an example takes says how busy the machine is.
settings.register_profile("provenance", deadline=None)
settings.load_profile("provenance")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A byte-level transformer of a few thousand parameters, with a base and four checkpoints."""
    return train_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_set(tiny_model, tmp_path_factory) -> Path:
    """Nine counterfactual models of the tiny model: of five owners each alone, and two random halves with the others."""
    return train_counterfactuals(tmp_path_factory.mktemp("sets"), tiny_model, 3)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(f"file://{tmp_path}/store", {})


@pytest.fixture(scope="session")
def postgres(tmp_path_factory) -> str:
    """URL of a throw-away PostgreSQL server; `{}` stands for the database."""
    from tasks.database import get_server

    server = get_server(tmp_path_factory.mktemp("postgres"))
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
def books(store, database, tmp_path, monkeypatch) -> Store:
    """The store, an empty ledger and a key, each of the test's own, as the settings name them."""
    named = {"STORE__URL": store.url, "DATABASE__URL": database, "SETTLEMENT__KEY": str(tmp_path / "signing.pem")}
    enter(monkeypatch, {f"PROVENANCE_{name}": value for name, value in named.items()})
    return store


@pytest.fixture
def airflow(airflow_tables, postgres) -> str:
    """URL of Airflow's tables, of the test's own."""
    return create_database(postgres, sa.make_url(airflow_tables).database)


@pytest.fixture
def environment(monkeypatch, tmp_path, tiny_model, database):
    """Settings of a night on the tiny corpus and model, in the environment; returns a function that overrides some."""

    def configure(store: Store, **extra: str) -> None:
        few = {"CORPUS__SHARD_EXAMPLES": "8", "CLUSTER__WORKERS": "1"}
        enter(monkeypatch, settings_of(store, database, tiny_model, tmp_path, **(few | extra)))

    return configure


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Runs `provenance` in this process: exit code, standard output and standard error."""
    from tasks.cli import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["provenance", *words])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return exit_.value.code, captured.out, captured.err

    return run
