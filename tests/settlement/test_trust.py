"""The words on the trust in shares agree with the manifests."""

from provenance.settlement.exports.trust import in_words

SCORES = {"estimate": 0.86, "influence": 0.4, "size": 0.1}


def measured(rule="faithful", models=24, *, scores=SCORES, failed=(), **paid_by):
    lds = {name: {"value": value, "low": value - 0.1, "high": value + 0.1} for name, value in scores.items()}
    intervals = {"left_out": 0.9} if scores else {}
    return {
        "rule": rule, "paid_by": paid_by or {rule: 1.0}, "models": models, "lds": lds, "intervals_hold": intervals,
        "failed": list(failed),
    }  # fmt: skip


GOOD = {"everything": measured()}
FAILED = {"everything": measured(failed=["too few"], flat=1.0)}


def test_a_period_says_on_how_many_nights_shares_rest_on_what():
    assert in_words([GOOD] * 28 + [FAILED] * 2) == (
        "On 28 of 30 nights shares rest on 24 counterfactual models: each was left out and predicted from the others, and "
        "prediction and result agree at 0.86 (1 is perfect, 0 is chance). On 2 nights "
        "the check failed and amounts were divided by size."
    )
    assert in_words([GOOD] * 2).startswith("On all 2 nights shares rest on 24 counterfactual models: each was left out")


def test_the_score_is_the_mean_of_the_nights():
    worse = {"everything": measured(models=16, scores=SCORES | {"estimate": 0.5})}
    assert in_words([GOOD, worse, worse]).startswith("On all 3 nights shares rest on 16 to 24 counterfactual models: each was")
    assert "agree at 0.62 " in in_words([GOOD, worse, worse])


def test_nights_that_did_not_measure_it_say_so():
    assert in_words([None, None]) == "On all 2 nights how far shares can be trusted was not measured."
    assert in_words([GOOD, None]).endswith("On 1 night how far shares can be trusted was not measured.")
    by_influence = {"everything": measured("proportional", 3, scores={})}
    assert in_words([by_influence]) == "How far shares can be trusted was not measured."


def test_nights_without_outputs_do_not_count():
    assert in_words([GOOD, {}, FAILED]).startswith("On 1 of 2 nights shares rest")
    assert in_words([{}]) == ""
    assert in_words([]) == ""


def test_one_night_needs_no_count():
    assert in_words([GOOD]).startswith("Shares rest on 24 counterfactual models: each was left out")
    assert in_words([FAILED]) == "The check failed and amounts were divided by size."


def test_what_the_rule_does_not_decide_is_told():
    in_part = {"everything": measured(faithful=0.8, flat=0.2)}
    assert in_words([in_part]).startswith("Shares rest on 24 counterfactual models and, for 20 %, on size: each was left out")
    assert in_words([in_part, GOOD]).startswith("On all 2 nights shares rest on 24 counterfactual models and, for 10 %, ")
    by_influence = {"everything": measured(failed=["no better"], proportional=1.0)}
    assert in_words([by_influence]) == "The check failed and amounts were divided by influence."


def test_other_rules_say_what_they_rest_on():
    assert in_words([{"everything": measured("proportional")}]) == (
        "Shares rest on influence: by it 24 counterfactual models were predicted, and prediction and result agree at 0.40 "
        "(1 is perfect, 0 is chance)."
    )
    by_size = {"everything": measured("flat")}
    assert in_words([by_size]) == "Amounts were divided by size, as the contract says."
    assert in_words([FAILED, by_size]) == (
        "On 1 of 2 nights the check failed and amounts were divided by size. "
        "On 1 night amounts were divided by size, as the contract says."
    )


def test_contracts_of_one_night_that_rest_on_different_things_are_told_apart():
    mixed = {"books": measured(), "songs": measured("flat")}
    assert in_words([mixed]) == (
        "For some outputs shares rest on 24 counterfactual models: each was left out and predicted from the others, and "
        "prediction and result agree at 0.86 (1 is perfect, 0 is chance). For some outputs amounts were divided by size, as "
        "the contract says."
    )
    assert in_words([mixed, GOOD]).startswith("On all 2 nights for some outputs shares rest")
    assert in_words([{"books": measured(), "songs": measured()}]) == in_words([GOOD])
