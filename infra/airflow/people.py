"""Who may change a DAG itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails


class AuthManager(FabAuthManager):
    """Flask-AppBuilder's, but for one right: to pause a DAG, or let it run, takes the right to edit all of them.

    Whoever answers what a DAG asks needs the right to edit that DAG, and with that alone could start a settlement.
    """

    def is_authorized_dag(
        self, *, method: Any, user: Any, access_entity: DagAccessEntity | None = None, details: DagDetails | None = None
    ) -> bool:
        """Whether a person may do this to a DAG, or to what belongs to it."""
        if access_entity is None and method != "GET":
            details = None  # which asks for the right on all DAGs
        return bool(super().is_authorized_dag(method=method, user=user, access_entity=access_entity, details=details))
