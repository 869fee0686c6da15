"""Counts what is new in a corpus, and feature files that a night computed although an earlier night had them already."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from provenance.core.errors import InputError
from provenance.core.published import night_in_force, published_days
from provenance.core.store import Store, digest
from provenance.corpus.shards import count_new
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


def count_new_examples(store: Store, night: Night) -> int | None:
    """The number of examples of a night's corpus that the last night published for a day before did not have.

    None if there is no such night, or its corpus is gone.
    """
    day = max((day for day in published_days(store) if day < night.day), default=None)
    if day is None:
        return None
    try:
        earlier = load_night(store, night_in_force(store, day))
        if earlier.corpus == night.corpus:
            return 0
        return count_new(store, night.frozen_corpus(store), earlier.frozen_corpus(store))
    except InputError as error:  # housekeeping removes old corpora
        log.warning("what is new since %s is not known: %s", day, error)
        return None


def _ingredients(night: Night) -> str:
    """Digest of all that decides the corpus's features."""
    names = ("name", "projection", "bits")
    version = night.method["versions"].get("features")
    return digest([night.corpus, night.model, night.checkpoints, version, *(night.method.get(name) for name in names)])
