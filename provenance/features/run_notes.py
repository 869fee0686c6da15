"""Notes the number of feature files that each run of a night computed, for operators.

    nights/day=2026-11-20/<digest>/work.json    one entry for each run of the stage `featurise`, in order

No digest includes this file and no result depends on it, so runs may add to it, and a night may lack it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from provenance.core.store import Store, canonical_json

FILE = "work.json"


@dataclass(frozen=True)
class RunNote:
    """Numbers of feature files that one run of a night computed and reused.

    Attributes:
        at: end of the run, ISO 8601 (UTC).
        without_cause: computed files of the corpus that an earlier published night had (`recomputed.count_recomputed`).
        parameters_covered: the part of the model's parameters that features cover; None if the run computed no gradients.
        examples, examples_computed: of the corpus, and those in shards of which the run computed gradients (or, if the method
            has none, words); 0 in notes of before.
        examples_new: of the corpus, those that the last night published for a day before did not have; None if the run computed
            none, or there is no such night.
    """

    at: str
    corpus_computed: int
    corpus_reused: int
    outputs_computed: int
    outputs_reused: int
    without_cause: int
    parameters_covered: float | None
    examples: int = 0
    examples_computed: int = 0
    examples_new: int | None = None

    @property
    def part_computed(self) -> float | None:
        """The part of the corpus's examples whose features the run computed; None in notes of before."""
        return self.examples_computed / self.examples if self.examples else None

    @property
    def part_new(self) -> float | None:
        """The part of the corpus's examples that are new; None if it is not known."""
        return self.examples_new / self.examples if self.examples and self.examples_new is not None else None


def add_note(store: Store, folder: str, note: RunNote) -> None:
    """Add the note of a run to a night."""
    key = f"{folder}/{FILE}"
    while not store.create(key, canonical_json({"runs": [asdict(note)]})):
        before = store.read(key)
        runs = [*json.loads(before)["runs"], asdict(note)]
        if store.replace(key, canonical_json({"runs": runs}), previous=before):
            return


def read_notes(store: Store, folder: str) -> list[RunNote]:
    """The notes of a night's runs, in order; empty if there are none."""
    key = f"{folder}/{FILE}"
    return [RunNote(**run) for run in store.read_json(key)["runs"]] if store.exists(key) else []


def note_of_booking(notes: Sequence[RunNote], booked_at: datetime | None) -> RunNote | None:
    """The note of the run that was booked: the last that ended before, since previews and later runs add notes, too.

    Args:
        booked_at: time of the booking; None while there is none, for the last run.
    """
    before = [note for note in notes if booked_at is None or datetime.fromisoformat(note.at) <= booked_at]
    return before[-1] if before else notes[0] if notes else None
