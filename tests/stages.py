"""A night as its stages, one after the other, in this process or in several at once."""

import importlib
import multiprocessing
import os

from samples import DAY

STAGES = (
    "freeze.freeze", "shard.shard", "featurise.featurise", "curvature.fit_curvature", "score.score",
    "likelihoods.likelihoods", "estimate.estimate", "share.share", "book.book",
)  # fmt: skip
# Of a model of a few thousand parameters the least that every stage still has to work on.
SMALL = {
    "CORPUS__SHARD_EXAMPLES": "16", "CLUSTER__WORKERS": "1", "INFLUENCE__CHECKPOINTS": "1", "INFLUENCE__SAMPLE": "16",
    "INFLUENCE__DRAWS": "1", "FEATURES__DENSE_ALONE": "64", "FEATURES__DENSE": "64",
}  # fmt: skip


def run(stage, *arguments):
    """A stage by its module and name, such as `book.book`."""
    module, name = stage.split(".")
    return getattr(importlib.import_module(f"tasks.{module}"), name)(*arguments)


def night(attempt=run, day=DAY):
    """All stages, each by way of `attempt`; returns the night's folder."""
    first, *others = STAGES
    folder = attempt(first, day)
    for stage in others:
        attempt(stage, folder)
    attempt("publish.publish", day)
    attempt("reconcile.reconcile", day)
    return folder


def at_once(environments):
    """A night in several processes that begin every stage together, each with an environment; returns their exit codes."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["provenance.royalty.estimate_stage", "provenance.settlement.publish", "provenance.models.adapters.causal_lm", "s3fs"]
    )
    together = processes.Barrier(len(environments))
    running = [processes.Process(target=_abreast, args=(together, environment)) for environment in environments]
    for process in running:
        process.start()
    for process in running:
        process.join(240)
    return [process.exitcode for process in running]


def _abreast(together, environment):
    os.environ.update(environment)

    def attempt(stage, argument):
        together.wait(120)
        return run(stage, argument)

    try:
        night(attempt)
    except BaseException:
        together.abort()  # or the other would wait for ever
        raise
