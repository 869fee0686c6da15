"""What each run of a night computed: a note for operators beside the night's manifests.

    nights/day=2026-11-20/<digest>/work.json    one entry for each run that featurised it, the first one first

No digest has it in it and nothing that is published rests on it, so a run may add to it, and a night without it is as good.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from provenance.core.store import Store, canonical_json

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
