"""Names the files of frozen models in the store.

frozen/models/<digest>/     a model's own files; or a base, the frozen weights of all models that stand on it, once

A model's files are listed by name with their SHA-256, those of its base below `base/`. So a model's digest covers its base.
"""

from __future__ import annotations

from collections.abc import Mapping

from provenance.core.canonical import digest

BASE = "base/"


def own_files(files: Mapping[str, str]) -> dict[str, str]:
    """The files of a model's own folder."""
    return {name: sha for name, sha in files.items() if not name.startswith(BASE)}


def base_files(files: Mapping[str, str]) -> dict[str, str]:
    """The files of a model's base, by their names in its folder; empty for a model without one."""
    return {name.removeprefix(BASE): sha for name, sha in files.items() if name.startswith(BASE)}


def base_digest(files: Mapping[str, str]) -> str | None:
    """The digest of a model's base, which names its frozen folder; None for a model without one."""
    return digest(base) if (base := base_files(files)) else None


def stored_keys(model: str, files: Mapping[str, str]) -> dict[str, str]:
    """The name of each of a frozen model's files by its key in the store.

    Args:
        model: digest of the files.
    """
    base = base_digest(files)
    return {
        f"frozen/models/{base}/{name.removeprefix(BASE)}" if name.startswith(BASE) else f"frozen/models/{model}/{name}": name
        for name in files
    }
