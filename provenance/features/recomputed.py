"""Counts feature files that a night computed although an earlier night had them already."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from provenance.core.errors import InputError
from provenance.core.published import night_in_force, published_days
from provenance.core.store import Store, digest
from provenance.features.plan import load_plan
from provenance.inputs.night import Night, load_night

log = logging.getLogger("provenance.featurise")


def count_recomputed(store: Store, night: Night, computed: Iterable[str]) -> int:
    """The number of a night's computed feature files of the corpus that an earlier published night had.

    A file counts if the plan of an earlier night names it. All count if an earlier night had the same ingredients, because the
    keys should then be the same. Of earlier nights with the same ingredients, only the last plan is read.

    Args:
        computed: keys of the computed files.
    """
    keys, seen, recomputed = set(computed), set(), set[str]()
    if not keys:
        return 0
    own = _ingredients(night)
    for day in reversed(published_days(store)):
        try:
            folder = night_in_force(store, day)
            ingredients = _ingredients(load_night(store, folder))
            if ingredients == own:
                return len(keys)
            if ingredients not in seen:
                seen.add(ingredients)
                recomputed |= keys & {file.key for file in load_plan(store, folder).corpus}
        except InputError as error:  # a broken export stops the publishing, not the computing
            log.warning("%s is ignored in the search for features that exist already: %s", day, error)
    return len(recomputed)


def _ingredients(night: Night) -> str:
    """Digest of all that decides the corpus's features."""
    names = ("name", "projection", "bits")
    version = night.method["versions"].get("features")
    return digest([night.corpus, night.model, night.checkpoints, version, *(night.method.get(name) for name in names)])
