"""Runs the stages of a night one after the other, in this process or in several at once."""

import multiprocessing
import os

from samples import DAY

from provenance.core.stages import COMPUTED, FREEZE

# Stages up to the booking; all but the first take the night's folder.
STAGES = (FREEZE.name, *(stage.name for stage in COMPUTED), "settlement.book")
# The smallest settings with which every stage still has work, for a model of a few thousand parameters.
SMALL = {
    "CORPUS__SHARD_EXAMPLES": "16", "CLUSTER__WORKERS": "1", "INFLUENCE__CHECKPOINTS": "1", "INFLUENCE__SAMPLE": "16",
    "INFLUENCE__DRAWS": "1", "FEATURES__DENSE_ALONE": "64", "FEATURES__DENSE": "64",
}  # fmt: skip


def run(stage, *arguments, **options):
    """Run a stage by its name, such as `settlement.book`, with the settings in force."""
    from tasks.stages import run as run_stage

    return run_stage(stage, *arguments, **options)


def night(attempt=run, day=DAY):
    """Run all stages, each by `attempt(stage, argument)`; returns the night's folder."""
    first, *others = STAGES
    folder = attempt(first, day)
    for stage in others:
        attempt(stage, folder)
    attempt("settlement.publish", day)
    attempt("settlement.reconcile", day)
    return folder


def at_once(environments):
    """Run a night in several processes that begin every stage together; returns their exit codes.

    Args:
        environments: the environment of each process.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["tasks.cluster", "provenance.settlement.stage", "provenance.models.adapters.causal_lm", "s3fs"]
    )
    together = processes.Barrier(len(environments))
    running = [processes.Process(target=_run_night, args=(together, environment)) for environment in environments]
    for process in running:
        process.start()
    for process in running:
        process.join(240)
    return [process.exitcode for process in running]


def _run_night(together, environment):
    os.environ.update(environment)

    def attempt(stage, argument):
        together.wait(120)
        return run(stage, argument)

    try:
        night(attempt)
    except BaseException:
        together.abort()  # or the other processes would wait for ever
        raise
