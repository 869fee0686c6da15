"""Compute the scores of one of our methods, in its own process: `ours.py METHOD FOLDER WORKLOAD`.

Writes the same files as `peer.py`. The scores of `fitted` are its components, `(components, outputs, examples)`, which the
comparison weighs.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import measured
import numpy as np
from run import request_of
from threadpoolctl import threadpool_limits

from provenance.features.featurise import featuriser
from provenance.features.plan import load_plan
from provenance.local.attribute import folder_night
from provenance.models.model import examples_in, forward_and_backward
from provenance.validation.audit import FITTED, components_of, scores_of
from provenance.validation.cost import alone, begin
from tasks.where import local_settings, opened


def main() -> None:
    """Run one method and write its scores."""
    method, folder, workload = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    examples = json.loads((folder / "examples.json").read_text())
    settings = alone(local_settings(method=method, device="cpu", workers=1))
    with (
        tempfile.TemporaryDirectory() as scratch,
        opened(settings, ledger=False) as where,
        threadpool_limits(limits=1),
    ):
        local, night = folder_night(where, replace(request_of(workload), out=Path(scratch)))
        begin(local, night)  # the start of workers is no part of the cost
        store = local.store
        start = time.process_time()
        if method == FITTED:
            components = components_of(local, night, method)
            scores = np.stack(list(components.values()))
            (folder / "components.json").write_text(json.dumps(list(components)))
        else:
            scores = scores_of(local, night, method)
        seconds = time.process_time() - start
        maker, bare = featuriser(local, night), 0.0
        examples = examples_in(night.read_corpus(store, "content", "prompt"))
        for checkpoint in night.checkpoints:
            adapter, module = maker.open(checkpoint)
            start = time.process_time()
            forward_and_backward(adapter, module, examples, maker.batch_size)
            bare += time.process_time() - start
        plans = [load_plan(store, key.rpartition("/")[0]) for key in store.list("nights") if key.endswith("plan.json")]
        files = {file.key for plan in plans for file in plan.corpus}
        sources = {source for plan in plans for source in plan.sources}
        kept = sum(len(store.read(key)) for key in files) / len(examples) / len(sources)
    measured.write(folder, method, scores, seconds=seconds, bare=bare, kept=round(kept))


if __name__ == "__main__":
    main()
