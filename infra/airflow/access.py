"""Airflow's tables, and the roles and people in them.

    python -m infra.airflow.access < people.json       {"ann": {"role": "Accountant", "password": "..."}}, or nobody

What `roles.toml` says is what a role may, no more: what it may besides is taken away. People who are there already keep their
passwords.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provenance.core.errors import SettingsError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

ROLES = Path(__file__).with_name("roles.toml")
# Reads everything that is not an administrator's; every role of ours builds on it.
READER = "Viewer"
ADMINISTRATOR = "Admin"


def roles() -> dict[str, dict[str, list[str]]]:
    """What each role may do beyond reading: actions by resource."""
    return tomllib.loads(ROLES.read_text())


def migrate() -> None:
    """Create or upgrade Airflow's own tables, and those of its users."""
    from airflow.providers.fab.auth_manager.models.db import FABDBManager
    from airflow.utils import db
    from airflow.utils.session import create_session

    db.upgradedb()
    with create_session() as session:
        FABDBManager(session).upgradedb()


def set_up(people: Mapping[str, Mapping[str, str]]) -> None:
    """Put roles and people in force.

    Args:
        people: `role` and `password` by name.

    Raises:
        SettingsError: somebody's role is none of ours.
    """
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    known = roles()
    for name, person in people.items():
        if person["role"] not in {*known, ADMINISTRATOR}:
            raise SettingsError(
                f"person {name}: role",
                expected=f"one of {', '.join([*known, ADMINISTRATOR])}",
                found=repr(person["role"]),
                hint=did_you_mean(person["role"], [*known, ADMINISTRATOR]),
            )
    with get_application_builder() as builder:
        manager = builder.sm
        manager.sync_roles()
        for role, rights in known.items():
            _allow(manager, role, {(action, resource) for resource, actions in rights.items() for action in actions})
        for name, person in people.items():
            if manager.find_user(username=name) is None:
                names = [person["role"]] if person["role"] == ADMINISTRATOR else [READER, person["role"]]
                made = manager.add_user(
                    username=name,
                    first_name=name.capitalize(),
                    last_name=person["role"],
                    email=f"{name}@localhost",
                    role=[manager.find_role(each) for each in names],
                    password=person["password"],
                )
                if not made:
                    raise RuntimeError(f"Airflow did not take {name} as a user; its log says why")


def _allow(manager: Any, name: str, wanted: set[tuple[str, str]]) -> None:
    """Give a role these rights and no others."""
    role = manager.add_role(name)
    given = {(permission.action.name, permission.resource.name): permission for permission in role.permissions}
    for right, permission in given.items():
        if right not in wanted:
            manager.remove_permission_from_role(role, permission)
    for action, resource in sorted(wanted - set(given)):
        manager.add_permission_to_role(role, manager.create_permission(action, resource))


def main() -> None:
    """Migrate, and set up the people on standard input."""
    people = json.loads(sys.stdin.read() or "{}")
    migrate()
    set_up(people)


if __name__ == "__main__":
    main()
