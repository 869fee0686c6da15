"""The ledger's database as an ordinary login sees it."""

import pytest
import sqlalchemy as sa
from samples import administer, create_database
from servers import eventually

from provenance.core.errors import SettingsError
from provenance.core.settings import DatabaseSettings
from provenance.settlement import ledger
from tasks.database import database_url, open_ledger, open_register
from tasks.where import opened


@pytest.fixture
def url(postgres):
    """A database that belongs to a login which is no superuser but may make roles."""
    url = sa.engine.make_url(create_database(postgres))
    name = f"login_{url.database}"
    administer(url, f"CREATE ROLE {name} LOGIN CREATEROLE", f"ALTER DATABASE {url.database} OWNER TO {name}")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        for role in ("provenance_ledger", "provenance_payees"):  # as other ledgers on this server may have made them
            if connection.execute(sa.text(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'")).first():
                administer(url, f"GRANT {role} TO {name} WITH ADMIN OPTION")
    return url.set(username=name)


def test_a_login_that_is_no_superuser_keeps_the_books(url, store):
    settings = DatabaseSettings(url=url.render_as_string(hide_password=False))
    engine = open_ledger(settings, store)
    assert open_ledger(settings, store), "migrated once"
    assert ledger.bookings(engine) == []
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT current_user")).scalar_one() == "provenance_ledger"
    with open_register(settings).connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM payees.payee")).scalar_one() == 0


def test_a_folder_with_a_space_is_named_before_a_server_is_started_in_it(tmp_path):
    folder = tmp_path / "my projects/postgres"
    with pytest.raises(SettingsError, match=r"database.folder: expected a path without spaces, found .*/my projects/postgres"):
        database_url(DatabaseSettings(folder=str(folder)))
    assert not folder.exists()


def ask(url, question):
    """The first column of the answer, asked in another database of the server."""
    engine = sa.create_engine(sa.make_url(url).set(database="postgres"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return list(connection.execute(sa.text(question), {"name": sa.make_url(url).database}).scalars())


def test_one_session_answers_until_the_doors_close(books):
    query = "SELECT pid FROM pg_stat_activity WHERE datname = :name AND usename IS NOT NULL"
    with opened() as where:
        url = where.settings.database.url
        assert ledger.newest(where.ledger) == 0
        (session,) = eventually(lambda: len(found := ask(url, query)) == 1 and found, "one session")
        assert ledger.newest(where.ledger) == 0
        assert ask(url, query) == [session]
    assert eventually(lambda: ask(url, query) == [], "the session's end")


def test_a_session_that_the_server_has_ended_is_begun_again(where):
    assert ledger.newest(where.ledger) == 0
    end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :name"
    assert ask(where.settings.database.url, end) == [True]
    assert ledger.newest(where.ledger) == 0
