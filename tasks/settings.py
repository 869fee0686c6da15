"""Reads the settings in force: one TOML file, overridden by the environment.

`PROVENANCE_SETTINGS` names the file (default `infra/settings/local.toml` of the checkout); `PROVENANCE_<SECTION>__<KEY>`
overrides one key. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pydantic import ValidationError

from provenance.core.errors import SettingsError
from provenance.core.settings import CHECKOUT, KEY_VARIABLE, PREFIX, Settings
from provenance.core.toml import explained, read_toml

if TYPE_CHECKING:
    from collections.abc import Mapping


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings in force; an error names the file or variable."""
    environment = os.environ if environment is None else environment
    path = CHECKOUT / environment.get(f"{PREFIX}SETTINGS", "infra/settings/local.toml")
    values = read_toml(path, "a settings file", SettingsError)
    if "key" in values.get("payees", {}):
        hint = f"Set {KEY_VARIABLE}, from wherever secrets are kept."
        raise SettingsError(f"{path}: payees.key", expected="no secret in a file", found="a key", hint=hint)
    variables: dict[tuple[str, ...], str] = {}
    for name, value in sorted(environment.items()):
        if not name.startswith(PREFIX) or name == f"{PREFIX}SETTINGS":
            continue
        if "__" not in name:
            expected, hint = f"{PREFIX}SETTINGS or {PREFIX}<SECTION>__<KEY>", "Two underscores part section and key."
            raise SettingsError(f"environment: {name}", expected=expected, found=name, hint=hint)
        section, _, key = name.removeprefix(PREFIX).lower().partition("__")
        values[section] = {**values.get(section, {}), key: value}
        # The second entry: an error about an unknown section names no key.
        variables[section, key] = variables[section,] = f"environment: {name}"
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        place = tuple(map(str, error.errors()[0]["loc"][:2]))
        raise explained(error, Settings, variables.get(place, str(path)), SettingsError) from error
