"""Runs a stage with the doors of the settings in force. Import-light, since DAG files import it."""

from __future__ import annotations

from typing import Any

from provenance.core.stages import APPROVE, BOOK, BY_NAME, COMPUTED, CREDIT, FREEZE, PUBLISH, RECONCILE, REVIEW

__all__ = ["APPROVE", "BOOK", "COMPUTED", "CREDIT", "FREEZE", "PUBLISH", "RECONCILE", "REVIEW", "run"]


def run(name: str, *arguments: Any, **options: Any) -> Any:
    """Run a stage by its name, such as `influence.score`; Airflow hands its result to the next task."""
    from tasks.where import opened

    with opened() as where:
        return BY_NAME[name].run(where, *arguments, **options)
