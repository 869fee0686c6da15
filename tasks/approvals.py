"""What Airflow's approval tasks return: who answered, and when."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from provenance.settlement.settling import Approval

if TYPE_CHECKING:
    from collections.abc import Mapping


def approval(answer: Mapping[str, Any]) -> Approval:
    """Who answered an approval task, and when; by Airflow's own record of it."""
    user = answer.get("responded_by_user") or {}
    name, identity = str(user.get("name") or ""), str(user.get("id") or "")
    by = name if name == identity or not identity else f"{name} ({identity})"
    at = answer.get("responded_at")
    return Approval(by, at if isinstance(at, datetime) else datetime.fromisoformat(str(at)))
