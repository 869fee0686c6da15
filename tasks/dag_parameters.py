"""Holds what DAG files share: arguments of tasks, forms of runs by hand, answers of people.

Import-light, since DAG files import it while Airflow parses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from provenance.core.errors import ContractError, InputError, SettingsError, did_you_mean, parse_day
from provenance.core.settings import CounterfactualSettings
from tasks.lineage import CALLBACKS
from tasks.settings import load

if TYPE_CHECKING:
    from provenance.settlement.approvals import Approval

# Where the page in Airflow serves documents (infra/page).
DOCS = "/payouts/docs"
# Errors that stay: tasks that raise them are not retried.
LASTING = (
    "provenance.core.errors.InputError",
    "provenance.core.errors.CheckFailed",
    "airflow.providers.standard.exceptions.HITLRejectException",  # a person's rejection
)


def documented(text: str | None) -> str:
    """A DAG's documentation, with links to `docs/` leading to the page, which serves them below Airflow's own path."""
    return (text or "").replace("](docs/", f"]({urlsplit(base_url()).path}{DOCS}/")


def base_url() -> str:
    """Where people reach Airflow, as its configuration says; empty if it says nothing."""
    from airflow.sdk.configuration import conf

    return str(conf.get("api", "base_url", fallback="") or "").rstrip("/")


def task_defaults(owner: str) -> dict[str, Any]:
    """Arguments of all tasks of a DAG: owner, retries of errors that may pass, lineage."""
    from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

    policy = ExceptionRetryPolicy(rules=[RetryRule(exception=error, action=RetryAction.FAIL) for error in LASTING])
    return {"owner": owner, "retries": 2, "retry_delay": timedelta(minutes=1), "retry_policy": policy, **CALLBACKS}


def training_place() -> dict[str, Any]:
    """Arguments of the mapped task that trains: where it runs, and how many at a time, as `[counterfactuals]` says.

    Wrong settings give the defaults, so that the first task reports them, and not every DAG.
    """
    try:
        settings = load().counterfactuals
    except SettingsError:
        settings = CounterfactualSettings()
    place = settings.model_dump(include={"queue", "pool", "executor_config"})
    return {"max_active_tis_per_dag": settings.at_once} | {name: value for name, value in place.items() if value}


def form_value(params: Mapping[str, str | None], name: str) -> str | None:
    """The value of the only field in the form of a run by hand.

    Raises:
        InputError: the form has another field. Airflow accepts any, and a run for "Day" would pay its default day.
    """
    for other in params:
        if other != name:
            hint = did_you_mean(other, [name])
            raise InputError("form of the run", expected=f"{name!r}, or nothing", found=repr(other), hint=hint)
    return params[name]


def approval(answer: Mapping[str, Any]) -> Approval:
    """The answer to an approval task, as Airflow recorded it."""
    from provenance.settlement.approvals import Approval

    user = answer.get("responded_by_user") or {}
    name, identity = str(user.get("name") or ""), str(user.get("id") or "")
    by = name if name == identity or not identity else f"{name} ({identity})"
    at = answer.get("responded_at")
    time = at if isinstance(at, datetime) else datetime.fromisoformat(str(at))
    return Approval(by, time, granted=answer.get("chosen_options") == ["Approve"])


def paid_day(interval_start: datetime | None, day: str | None = None) -> str:
    """The day that a run pays: the form's, or else the day on which the run's data interval starts (UTC)."""
    if day:
        return str(parse_day("run of nightly_payouts: day", day))
    if interval_start is None:
        raise ContractError(
            "run of nightly_payouts",
            expected="a day to pay, or a data interval that starts on it",
            found="neither",
            hint="Trigger it with a day, such as 2026-11-20.",
        )
    return interval_start.astimezone(UTC).date().isoformat()


def settled_period(interval_start: datetime | None, period: str | None = None) -> str:
    """The period that a run settles: the form's, or else the month in which the run's data interval starts (UTC)."""
    from provenance.settlement.months.periods import parse_period

    if period:
        return parse_period("run of settle_period: period", period)
    if interval_start is None:
        hint = "Trigger it with a period, such as 2026-11."
        raise InputError(
            "run of settle_period", expected="a period, or a data interval that starts in it", found="none", hint=hint
        )
    return f"{interval_start.astimezone(UTC):%Y-%m}"


def files_url() -> str:
    """The address below which the page hands out published files."""
    return f"{base_url()}/payouts/files"
