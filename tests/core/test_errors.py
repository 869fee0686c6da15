import pickle
from datetime import date

import pytest

from provenance.core.errors import ContractError, InputError, parse_day


def test_errors_say_where_what_was_expected_and_what_was_found_and_survive_the_way_back_from_a_worker():
    error = ContractError("f: row 3", expected="a value", found="none", hint="Fill it in.")
    assert str(error) == "f: row 3: expected a value, found none. Fill it in."
    error = pickle.loads(pickle.dumps(ContractError("f", expected="a", found="b", hint="c")))
    assert type(error) is ContractError
    assert isinstance(error, InputError)
    assert (error.where, error.expected, error.found, error.hint) == ("f", "a", "b", "c")


def test_a_day_has_one_spelling():
    assert parse_day("DAY", "2026-11-20") == date(2026, 11, 20)
    for text in ("20261120", "2026-13-01", "yesterday", ""):
        with pytest.raises(InputError, match="DAY: expected a day as YYYY-MM-DD, found"):
            parse_day("DAY", text)
