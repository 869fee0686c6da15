"""What each run of a night computed: a note for operators beside the night's manifests.

    nights/day=2026-11-20/<digest>/work.json    one entry for each run that featurised it, the first one first

No digest has it in it and nothing that is published rests on it, so a run may add to it, and a night without it is as good.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from provenance.core.errors import InputError
from provenance.core.store import canonical_json, digest
from provenance.settlement.exports import MANIFEST, in_force, published_days
from tasks.night import load_night
from tasks.shard import load_plan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provenance.core.store import Store
    from tasks.night import Night

log = logging.getLogger("provenance.work")

NOTE = "work.json"


@dataclass(frozen=True)
class Work:
    """Feature files that one run of a night computed, and that it found.

    Attributes:
        at: when it was done, ISO 8601 (UTC).
        without_cause: of those computed of the corpus, how many an earlier published night had had.
        parameters_covered: the part of the parameters whose gradients are followed; None where the run took none.
    """

    at: str
    corpus_computed: int
    corpus_reused: int
    outputs_computed: int
    outputs_reused: int
    without_cause: int
    parameters_covered: float | None


def note(store: Store, folder: str, work: Work) -> None:
    """Add what a run did to a night's note."""
    key = f"{folder}/{NOTE}"
    while not store.create(key, canonical_json({"runs": [asdict(work)]})):
        before = store.read(key)
        runs = [*json.loads(before)["runs"], asdict(work)]
        if store.replace(key, canonical_json({"runs": runs}), previous=before):
            return


def noted(store: Store, folder: str) -> list[Work]:
    """What runs of a night did, the first one first; none where nobody noted it."""
    key = f"{folder}/{NOTE}"
    return [Work(**run) for run in store.read_json(key)["runs"]] if store.exists(key) else []


def without_cause(store: Store, night: Night, computed: Iterable[str]) -> int:
    """How many of the corpus's feature files that a night has computed, an earlier published night had had.

    Those that its plan names; and all of them where everything that features are made of was the same, so that other names
    are themselves without a cause. Every published night is looked at, but each kind of corpus and model once.
    """
    keys, seen, again = set(computed), set(), set[str]()
    if not keys:
        return 0
    for day in reversed(published_days(store)):
        try:
            folder = store.read_json(f"{in_force(store, day)['folder']}/{MANIFEST}")["night"]
            earlier = load_night(store, folder)
            ingredients = _ingredients(earlier)
            if ingredients == _ingredients(night):
                return len(keys)
            if ingredients not in seen:
                seen.add(ingredients)
                again |= keys & {file.key for file in load_plan(store, folder).corpus}
        except InputError as error:  # a broken export stops publishing, and not the work before it
            log.warning("%s is not looked at for features that it had: %s", day, error)
    return len(again)


def _ingredients(night: Night) -> str:
    """Digest of all that the corpus's features are made of."""
    names = ("name", "projection", "bits")
    version = night.method["versions"].get("features")
    return digest([night.corpus, night.model, night.checkpoints, version, *(night.method.get(name) for name in names)])
