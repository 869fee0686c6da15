"""What Airflow's own runs tell of a night: by its callbacks, with what it handed from task to task."""

import json
from pathlib import Path

import pytest
from samples import DAY, corpus_frames, deliver

from provenance.core.stages import APPROVE, BY_NAME, STAGES
from provenance.core.store import Store

pytestmark = pytest.mark.night
# Of a night that nobody was asked about.
NIGHT = {stage.name for stage in STAGES if stage is not APPROVE}


def test_a_night_tells_what_each_of_its_tasks_read_and_wrote(new_operator, tmp_path):
    store = Store(f"file://{tmp_path}", {})
    deliver(store, corpus_frames())
    operator = new_operator(store, "lineage")
    operator.ingest()
    operator.night(DAY)
    folder = Path(operator.environment["PROVENANCE_LINEAGE__FOLDER"])
    events = [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]
    ended = {event["job"]["name"].split(".", 1)[1]: event for event in events if event["eventType"] == "COMPLETE"}
    assert set(ended) == {"rights.sources", "corpus.ingest", "rights.signals", "rights.manifest", *NIGHT}, operator.log[-3000:]
    for task, event in ended.items():
        stage = BY_NAME[task]
        if task in {"rights.sources", "rights.signals"}:  # this delivery has no list, and nobody is asked
            assert not event["outputs"]
            continue
        assert bool(event["inputs"]) == bool(stage.reads), task
        assert bool(event["outputs"]) == bool(stage.writes), task
    begun = {event["run"]["runId"] for event in events if event["eventType"] == "START"}
    assert begun == {event["run"]["runId"] for event in ended.values()}
    assert len({event["run"]["facets"]["parent"]["run"]["runId"] for event in ended.values()}) == 2
