"""The policy sets the permitted uses of each class; its errors name file, key, found and expected value, and a hint."""

import copy
import re

import pytest

from provenance.core.errors import ContractError
from provenance.core.settings import Settings
from provenance.corpus.packages.distributions import SPDX_OF_CLASSIFIER
from provenance.corpus.rights import spdx
from provenance.corpus.rights.policy import CLASSES, USES, parse_policy, read_policy

VALUES = {
    "strictness": ["commercial", "non_commercial", "academic_only", "unspecified", "forbidden"],
    "precedence": ["owner", "source", "aggregator"],
    "uses": {"train": ["commercial"], "research": ["commercial", "non_commercial", "academic_only"], "evaluate": []},
    "licences": {"commercial": ["MIT", "GPL-3.0-only"], "non_commercial": ["CC-BY-NC-*"]},
    "references": {"LicenseRef-lab": "academic_only"},
    "exceptions": {"AdditionRef-Commons-Clause": "non_commercial"},
    "words": [{"pattern": "research only", "class": "academic_only"}],
}
FORBIDDEN = {"pattern": "a", "class": "forbidden"}


def changed(path, value):
    values = copy.deepcopy(VALUES)
    *folders, last = path
    inside = values
    for name in folders:
        inside = inside[name]
    inside[last] = value
    return values


def test_the_policy_that_is_delivered_is_good_and_has_a_class_for_the_common_licences():
    policy = read_policy(Settings().rights.policy)
    common = {
        "commercial": ["MIT", "Apache-2.0", "BSD-3-Clause", "GPL-2.0-or-later", "AGPL-3.0-only", "CC-BY-SA-4.0", "CC0-1.0"],
        "non_commercial": ["CC-BY-NC-4.0", "CC-BY-NC-ND-3.0-IGO", "CC-BY-NC-SA-2.0-UK", "PolyForm-Noncommercial-1.0.0"],
        "unspecified": ["CC-BY-ND-4.0", "SSPL-1.0"],
    }  # fmt: skip
    for name, ids in common.items():
        assert {policy.classes[key] for key in ids} == {name}
    assert {name: bool(policy.refusal(name)) for name in CLASSES} == {
        "commercial": False, "non_commercial": True, "academic_only": True, "unspecified": True, "forbidden": True,
    }  # fmt: skip
    assert set(policy.uses) == set(USES)
    assert "forbidden" not in {name for allowed in policy.uses.values() for name in allowed}
    of_the_demo = [spdx.parse(key).key for key in SPDX_OF_CLASSIFIER.values()]
    assert set(of_the_demo) <= policy.classes.keys()


def test_an_id_that_is_written_out_counts_before_a_pattern():
    values = changed(("licences", "unspecified"), ["CC-BY-NC-4.0"])
    classes = parse_policy(values, "rights.toml").classes
    assert (classes["CC-BY-NC-4.0"], classes["CC-BY-NC-3.0"]) == ("unspecified", "non_commercial")


@pytest.mark.parametrize(("path", "value", "message"), [
    ("licenses", {}, ": expected one of strictness, .*, words, found 'licenses'. Did you mean 'licences'?"),
    ("licences.commercial", ["MTI"], ": expected ids of SPDX licences, found 'MTI'. Did you mean 'MIT'?"),
    ("licences.commercial", ["Rubin-*"], ": expected ids of SPDX licences, found 'Rubin-*'.*"),
    ("licences.comercial", ["MIT"], ": expected one of .*, found 'comercial'. Did you mean 'commercial'?"),
    ("licences.forbidden", ["MIT"], ": expected no licence of commercial, found 'MIT', which means MIT"),
    ("licences.forbidden", ["CC-BY-NC-4*"],
     ": expected no licence of non_commercial, found 'CC-BY-NC-4*', which means CC-BY-NC-4.0"),
    ("licences.commercial", "MIT", ": expected a list, found 'MIT'"),
    ("uses.train", ["comercial"], ".1: expected one of .*, found 'comercial'. Did you mean 'commercial'?"),
    ("uses.trian", ["commercial"], ": expected one of train, .*, found 'trian'. Did you mean 'train'?"),
    ("uses", {"train": [], "research": []}, ".evaluate: expected a list of classes, found none"),
    ("uses.train", ["commercial", "unspecified"], ": expected no class without all that strictness has before it, .*"),
    ("strictness", ["commercial"], ": expected each of .* once, found commercial"),
    ("precedence", ["owner", "owner", "source"], ": expected each of .* once, found owner, owner, source"),
    ("precedence", ["onwer"], ".1: expected one of owner, .*, found 'onwer'. Did you mean 'owner'?"),
    ("references", {"MIT": "commercial"}, ": expected LicenseRef- .*, found 'MIT'"),
    ("references", {"LicenseRef-a": "comercial"}, ".LicenseRef-a: expected one of commercial.*"),
    ("exceptions", {"Classpath-exception": "commercial"}, ": .*. Did you mean 'Classpath-exception-2.0'?"),
    ("words", [{"pattern": "(", "class": "commercial"}], ".1.pattern: expected a regular expression, found '('.*"),
    ("words", [{"pattern": "a*", "class": "commercial"}], ".1.pattern: expected one that asks for .*, found 'a*'"),
    ("words", [FORBIDDEN | {"spx": "MIT"}], ".1.spx: expected .*, found 'spx'. Did you mean 'spdx'?"),
    ("words", [{"pattern": "a"}], ".1.class: expected .*, found none"),
    ("words", [FORBIDDEN | {"spdx": "MTI"}], ".1.spdx: expected an SPDX expression, found 'MTI': .*"),
])  # fmt: skip
def test_a_mistake_names_the_file_the_key_and_the_nearest(path, value, message):
    with pytest.raises(ContractError) as raised:
        parse_policy(changed(path.split("."), value), "rights.toml")
    pattern = re.escape(f"rights.toml: {path}{message}").replace(r"\.\*", ".*")
    assert re.fullmatch(pattern, str(raised.value)), str(raised.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "strictness: expected .*found none"),
        (b"a = ", "expected TOML"),
        (b"\xff", "expected TOML"),
        (None, "no such file"),
    ],
)
def test_a_file_that_is_no_policy_is_named(tmp_path, data, message):
    path = tmp_path / "rights.toml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ContractError, match=rf"rights\.toml: .*{message}"):
        read_policy(path)
