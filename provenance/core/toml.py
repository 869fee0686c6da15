"""Read TOML files and validate values against a model; errors name the file, the key and the expected value."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from provenance.core.errors import InputError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path, what: str, kind: type[InputError] = InputError) -> dict[str, Any]:
    """Read a TOML file; errors are of `kind`, and name `what` where the file is missing."""
    if not path.is_file():
        raise kind(str(path), expected=what, found="no such file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise kind(str(path), expected="TOML", found=str(error)) from error


def validated(model: type[Model], values: object, where: str, kind: type[InputError] = InputError) -> Model:
    """Validate values as a model; an error is of `kind` and names the first mistake."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise explained(error, model, where, kind) from error


def explained(error: ValidationError, model: type[BaseModel], where: str, kind: type[InputError]) -> InputError:
    """The first mistake as an error of `kind`; for an unknown key with the nearest known one."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    at = ": ".join(filter(None, (where, ".".join(path))))
    if first["type"] == "extra_forbidden":
        keys = _keys(model, path[:-1])
        hint = did_you_mean(path[-1], keys)
        return kind(at, expected=f"one of {', '.join(keys)}", found=repr(path[-1]), hint=hint)
    expected = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    return kind(at, expected=expected, found="none" if first["type"] == "missing" else repr(first["input"]))


def _keys(model: type[BaseModel], path: Iterable[str]) -> list[str]:
    """The keys of the model at a path inside another model."""
    for name in path:
        if name in model.model_fields:
            annotation = model.model_fields[name].annotation
            inner = (annotation, *get_args(annotation))
            model = next(kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel))
    return list(model.model_fields)
