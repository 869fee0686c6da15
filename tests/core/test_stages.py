"""Every stage has a function under its name, and reads only datasets that an earlier stage wrote."""

import inspect

import pytest

from provenance.core.stages import APPROVE, BY_NAME, COMPUTED, FREEZE, STAGES


@pytest.mark.parametrize("stage", [stage for stage in BY_NAME.values() if stage.function != ""], ids=lambda stage: stage.name)
def test_every_stage_is_a_function_that_is_handed_the_doors(stage):
    assert next(iter(inspect.signature(stage.find()).parameters)) == "where"


def test_what_a_stage_of_a_night_reads_an_earlier_one_wrote_or_was_there_and_all_have_an_order():
    available = {"corpus", "outputs", "counterfactuals", "ledger"}
    for stage in STAGES:
        assert set(stage.reads) <= available, stage.name
        available |= set(stage.writes)
    assert STAGES[: 1 + len(COMPUTED)] == (FREEZE, *COMPUTED)
    assert [stage.name.split(".")[1] for stage in STAGES[1 + len(COMPUTED) :]] == [
        "review", "approve", "book", "publish", "reconcile", "credit",
    ]  # fmt: skip
    assert APPROVE.function == "", "a person"
