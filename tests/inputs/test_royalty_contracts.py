"""Contracts are checked before a night runs, and every output has one."""

import polars as pl
import pytest

from provenance.core.errors import ContractError
from provenance.inputs.contracts import assign, parse_contracts, read_contracts

WHOLE = """
[[contract]]
name = "search"
products = ["search*"]
developer_ppb = 500_000_000
rule = "srs"

[[contract]]
name = "all others"
developer_ppb = 300_000_000
"""


def written(tmp_path, text):
    path = tmp_path / "contracts.toml"
    path.write_text(text)
    return path


def outputs(*rows):
    return pl.DataFrame(list(rows), schema=["output_id", "model_id", "product"], orient="row")


def test_the_first_contract_that_covers_an_output_counts_and_under_none_is_an_error(tmp_path):
    contracts = read_contracts(written(tmp_path, WHOLE))
    assert [contract.rule for contract in contracts] == ["srs", "faithful"]
    table = outputs(("a", "m", "search-ads"), ("b", "m", ""), ("c", "m", "Search"))
    assert assign(table, contracts, "outputs").to_list() == ["search", "all others", "all others"]
    with pytest.raises(ContractError, match=r"outputs: output 'b': .*none for model 'm' and product 'chat'"):
        assign(outputs(("a", "m", "search"), ("b", "m", "chat")), contracts[:1], "outputs")
    assert parse_contracts([contract.model_dump(mode="json") for contract in contracts], "of a manifest") == contracts


def test_a_contract_has_a_fallback_or_waits(tmp_path):
    plain, strict = read_contracts(
        written(tmp_path, WHOLE.replace("search*", "s") + 'rule = "banzhaf"\nunsupported = "wait"\n')
    )
    assert (plain.unsupported, plain.fallback) == ("fallback", "flat")
    assert (strict.unsupported, strict.rule) == ("wait", "banzhaf")


@pytest.mark.parametrize(("text", "message"), [
    ("", r"expected one or more \[\[contract\]\] tables .* found none"),
    ("[[contract]\n", "expected TOML"),
    ("x = 1\n" + WHOLE, "nothing else, found 'x'"),
    ('[[contract]]\nname = "a"\n', r"contract 1 \(a\): developer_ppb: expected Field required, found none"),
    ('[[contract]]\nname = "a"\ndeveloper_ppb = 1_000_000_001\n', "less than or equal to 1,000,000,000, found 1000000001"),
    ('[[contract]]\nname = "a"\ndeveloper_ppb = 0.3\n', "developer_ppb: expected a valid integer, found 0.3"),
    ('[[contract]]\nname = "a"\ndeveloper_ppb = 1\nrule = "shapley"\n', "rule: expected 'faithful', 'srs', .*found 'shapley'"),
    ('[[contract]]\nname = "a"\ndeveloper_ppb = 1\nunsupported = "stop"\n', "expected 'fallback' or 'wait', found 'stop'"),
    ('[[contract]]\nname = "a"\ndeveloper_ppb = 1\nrul = "srs"\n', "found 'rul'. Did you mean 'rule'?"),
    ('[[contract]]\nname = "a"\ndeveloper_ppb = 1\nfloor_ppb = 9\ncap_ppb = 8\n', "floor_ppb at most cap_ppb, 8"),
    ('[[contract]]\nname = "a"\ndeveloper_ppb = 1\nmodels = []\n', "models: expected .*at least 1 item"),
    (WHOLE.replace("all others", "search"), "contract 2: name: expected a name that no other contract has"),
])  # fmt: skip
def test_a_bad_contract_names_the_file_the_contract_and_the_key(tmp_path, text, message):
    with pytest.raises(ContractError, match=message) as caught:
        read_contracts(written(tmp_path, text))
    assert "contracts.toml" in str(caught.value)


def test_no_file_is_an_error(tmp_path):
    with pytest.raises(ContractError, match="expected a file of royalty contracts, found no such file"):
        read_contracts(tmp_path / "none.toml")
