"""Makes or corrects logins, roles and databases of a PostgreSQL server.

    python -m infra.postgres.setup      DB_ADMIN_URL and DB_PASSWORD_<LOGIN> in the environment

The SQL files beside this one have the rights. Run it before migrations and once more after: it can only take rights away from
tables that exist.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from psycopg2.extensions import encrypt_password

from provenance.core.errors import InputError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent
LOGINS = ("airflow", "provenance", "payees", "metrics")
# Each belongs to the login of its name.
DATABASES = ("airflow", "provenance")
ADMIN_VARIABLE = "DB_ADMIN_URL"


def set_up(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Make missing logins, roles and databases; set passwords and rights.

    Args:
        admin_url: SQLAlchemy's URL of any database of the server, as a superuser.
        passwords: of every login.

    Raises:
        SettingsError: a login has no password.
    """
    for login in LOGINS:
        if not passwords.get(login):
            raise SettingsError(variable(login), expected=f"the password of the login {login}", found="nothing")
    url = sa.engine.make_url(admin_url)
    with _connect(url) as connection:
        connection.exec_driver_sql((HERE / "roles.sql").read_text())
        raw = connection.connection.dbapi_connection
        for login in LOGINS:
            # Hashed as the server stores it, so no log of statements has the password.
            hashed = encrypt_password(passwords[login], login, raw, "scram-sha-256")
            connection.exec_driver_sql(f'ALTER ROLE "{login}" PASSWORD %s', (hashed,))
        existing = set(connection.execute(sa.text("SELECT datname FROM pg_database")).scalars())
        for name in DATABASES:
            if name not in existing:
                connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
            connection.exec_driver_sql(f'ALTER DATABASE "{name}" OWNER TO "{name}"')
    for name in DATABASES:
        with _connect(url.set(database=name)) as connection:
            connection.exec_driver_sql((HERE / f"{name}.sql").read_text())


def variable(login: str) -> str:
    """The environment variable of a login's password."""
    return f"DB_PASSWORD_{login.upper()}"


def _connect(url: sa.URL) -> sa.Connection:
    """A connection that runs each script as a transaction, without reading percent signs as parameters."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    return engine.connect().execution_options(no_parameters=True)


def main() -> None:
    """Set up the server that the environment names; exit code 2 for bad input."""
    try:
        if not os.environ.get(ADMIN_VARIABLE):
            raise SettingsError(ADMIN_VARIABLE, expected="the URL of the server, as a superuser", found="nothing")
        set_up(os.environ[ADMIN_VARIABLE], {login: os.environ.get(variable(login), "") for login in LOGINS})
    except InputError as error:
        sys.stderr.write(f"Bad input: {error}\n")
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
