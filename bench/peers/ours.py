"""Scores of one of our methods, in a process of its own: `ours.py METHOD FOLDER WORKLOAD`; writes what `peer.py` writes.

Of `fitted` its components, `(components, outputs, examples)`, which the comparison weighs.
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

from provenance.features.featurise import recipe
from provenance.features.plan import load_plan
from provenance.local.attribute import local_settings, opened
from provenance.models.model import forward_and_backward
from provenance.validation.audit import FITTED, components_of, scores_of
from provenance.validation.cost import alone


def main() -> None:
    """Run one method and write what came of it."""
    method, folder, workload = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    examples = json.loads((folder / "examples.json").read_text())
    settings = alone(local_settings(method=method, device="cpu", workers=1))
    with (
        tempfile.TemporaryDirectory() as scratch,
        opened(replace(request_of(workload), out=Path(scratch)), settings) as (here, night),
        threadpool_limits(limits=1),
    ):
        store = here.store.open()
        start = time.process_time()
        if method == FITTED:
            components = components_of(here, store, night, method)
            scores = np.stack(list(components.values()))
            (folder / "components.json").write_text(json.dumps(list(components)))
        else:
            scores = scores_of(here, store, night, method)
        seconds = time.process_time() - start
        made, bare = recipe(store, night, here), 0.0
        contents = night.read_corpus(store, "content")["content"].to_list()
        for checkpoint in night.checkpoints:
            adapter, module = made.open(checkpoint)
            start = time.process_time()
            forward_and_backward(adapter, module, contents, made.batch_size)
            bare += time.process_time() - start
        plans = [load_plan(store, key.rpartition("/")[0]) for key in store.list("nights") if key.endswith("plan.json")]
        files = {file.key for plan in plans for file in plan.corpus}
        sources = {source for plan in plans for source in plan.sources}
        kept = sum(len(store.read(key)) for key in files) / len(examples) / len(sources)
    measured.write(folder, method, scores, seconds=seconds, bare=bare, kept=round(kept))


if __name__ == "__main__":
    main()
