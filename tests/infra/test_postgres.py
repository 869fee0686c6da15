"""Logins and rights on a real server after infra/postgres has run twice."""

import pytest
import sqlalchemy as sa

from infra.postgres.setup import LOGINS, set_up
from provenance.core.errors import SettingsError
from provenance.core.settings import CHECKOUT, DatabaseSettings
from provenance.core.store import Store
from provenance.settlement import ledger
from provenance.settlement.books import ROLE
from tasks.database import get_server, open_ledger, open_register
from tasks.settings import load

MIGRATIONS = CHECKOUT / "provenance/settlement/migrations/versions"
PASSWORDS = {login: f"secret of '{login}' %s :x" for login in LOGINS}


@pytest.fixture(scope="module")
def admin(tmp_path_factory) -> sa.URL:
    """The superuser's URL of a server of this module's own, which asks the logins for their passwords."""
    folder = tmp_path_factory.mktemp("roles")
    url = sa.engine.make_url(get_server(folder).get_uri(database="postgres", driver="psycopg2"))
    hba = folder / "pg_hba.conf"
    hba.write_text(f"local all {','.join(LOGINS)} scram-sha-256\n{hba.read_text()}")
    with _as(url).connect() as connection:
        connection.execute(sa.text("SELECT pg_reload_conf()"))
    return url


@pytest.fixture(scope="module")
def server(admin, tmp_path_factory) -> sa.URL:
    """The same, set up and migrated, and set up and migrated again."""
    for _ in range(2):
        set_up(admin.render_as_string(hide_password=False), PASSWORDS)
        settings = DatabaseSettings(url=_login(admin, "provenance"), payees_url=_login(admin, "payees"))
        open_ledger(settings, Store(f"file://{tmp_path_factory.getbasetemp()}/roles-store", {}))
        with _as(sa.engine.make_url(_login(admin, "airflow", "airflow"))).begin() as connection:
            for table in ("dag_run", "connection"):  # as Airflow's migrations do
                connection.execute(sa.text(f"CREATE TABLE IF NOT EXISTS {table} (id int)"))
    set_up(admin.render_as_string(hide_password=False), PASSWORDS)
    return admin


def _login(admin: sa.URL, login: str, database: str = "provenance", password: str | None = None) -> str:
    url = admin.set(username=login, password=password or PASSWORDS[login], database=database)
    return url.render_as_string(hide_password=False)


def _as(url: sa.URL | str) -> sa.Engine:
    return sa.create_engine(url, poolclass=sa.NullPool)


def _run(url: str, *statements: str):
    with _as(url).begin() as connection:
        return [connection.execute(sa.text(statement)) for statement in statements][-1].scalar_one_or_none()


def _refused(url: str, *statements: str) -> bool:
    with pytest.raises((sa.exc.ProgrammingError, sa.exc.InternalError)) as raised:
        _run(url, *statements)
    return any(word in str(raised.value) for word in ("permission denied", "read-only transaction", "must be"))


def test_migrations_run_as_a_login_that_can_make_neither_roles_nor_databases(server):
    url = _login(server, "provenance")
    with _as(url).connect() as connection:
        names = "rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls"
        rights = connection.execute(sa.text(f"SELECT {names} FROM pg_roles WHERE rolname = current_user")).one()
    assert not any(rights)
    assert _refused(url, "CREATE ROLE another")
    assert _run(url, "SELECT version_num FROM alembic_version") == max(path.stem[1:5] for path in MIGRATIONS.glob("v*.py"))
    assert ledger.bookings(_as(url)) == []


def test_a_night_s_connection_does_not_read_payees(server):
    """The login owns the tables, since it migrates them; its connections take a role that may not."""
    settings = DatabaseSettings(url=_login(server, "provenance"), payees_url=_login(server, "payees"))
    arguments = {"options": f"-c role={ROLE}"}
    with sa.create_engine(settings.url, connect_args=arguments, poolclass=sa.NullPool).connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM booking")).scalar_one() == 0
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied for schema payees"):
            connection.execute(sa.text("SELECT * FROM payees.payee"))
    assert _refused(settings.url, "SET ROLE provenance_payees")
    with open_register(settings).connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM payees.payee")).scalar_one() == 0
        assert connection.execute(sa.text("SELECT session_user")).scalar_one() == "payees"


def test_the_login_of_payees_cannot_read_the_ledger(server):
    url = _login(server, "payees")
    assert _refused(url, "SELECT * FROM booking")
    assert _refused(url, "SELECT * FROM payees.payee"), "not even payees, without the role"
    assert _refused(url, "SET ROLE provenance_payees", "SELECT * FROM booking")
    assert _refused(url, "SET ROLE provenance_ledger")
    assert _run(url, "SET ROLE provenance_payees", "SELECT count(*) FROM payees.payee") == 0


def test_metrics_read_both_databases_and_write_neither(server):
    ledger_url, airflow_url = _login(server, "metrics"), _login(server, "metrics", "airflow")
    assert _run(ledger_url, "SELECT count(*) FROM booking") == 0
    assert _run(airflow_url, "SELECT count(*) FROM dag_run") == 0
    writable = "SET default_transaction_read_only = off"
    for url, table in ((ledger_url, "store"), (airflow_url, "dag_run")):
        assert _refused(url, f"DELETE FROM {table}")
        with _as(url).connect() as connection:
            connection.execute(sa.text(writable))
            connection.commit()
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied for table"):
                connection.execute(sa.text(f"DELETE FROM {table}"))
        assert _refused(url, "CREATE TABLE mine (id int)")
    assert _refused(ledger_url, "SELECT * FROM payees.payee")
    assert _refused(airflow_url, "SELECT * FROM connection"), "what Airflow keeps secret"


@pytest.mark.parametrize(("login", "database"), [("payees", "airflow"), ("airflow", "provenance"), ("provenance", "airflow")])
def test_a_login_enters_its_own_database_alone(server, login, database):
    with pytest.raises(sa.exc.OperationalError, match="permission denied for database"):
        _run(_login(server, login, database), "SELECT 1")


@pytest.mark.parametrize("login", LOGINS)
def test_passwords_are_asked_for_and_changed(server, login):
    database = "airflow" if login == "airflow" else "provenance"
    with pytest.raises(sa.exc.OperationalError, match="password authentication failed"):
        _run(_login(server, login, database, "another"), "SELECT 1")
    url = server.render_as_string(hide_password=False)
    set_up(url, {**PASSWORDS, login: "another"})
    try:
        assert _run(_login(server, login, database, "another"), "SELECT 1") == 1
        assert "another" not in _run(url, f"SELECT rolpassword FROM pg_authid WHERE rolname = '{login}'")
    finally:
        set_up(url, PASSWORDS)


@pytest.mark.parametrize("login", LOGINS)
def test_a_login_without_a_password_is_refused(login):
    with pytest.raises(SettingsError, match=f"DB_PASSWORD_{login.upper()}: expected the password"):
        set_up("postgresql+psycopg2://nobody@127.0.0.1:1/none", {**PASSWORDS, login: ""})


def test_the_variables_of_passwords_are_no_settings():
    """`PROVENANCE_...` would be one, and an unknown one."""
    load({f"DB_PASSWORD_{login.upper()}": "x" for login in LOGINS})
