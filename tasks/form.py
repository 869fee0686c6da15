"""What the form of a run by hand asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provenance.core.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping


def asked(params: Mapping[str, str | None], name: str) -> str | None:
    """What a DAG's only parameter was set to.

    Airflow takes other names, too, and says nothing: a run for "Day" would pay the day that it pays by itself.

    Raises:
        InputError: something else was set.
    """
    for other in params:
        if other != name:
            hint = did_you_mean(other, [name])
            raise InputError("form of the run", expected=f"{name!r}, or nothing", found=repr(other), hint=hint)
    return params[name]
