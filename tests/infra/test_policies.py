"""The bucket's policy files match the table of roles, and grant nothing more."""

import json

import pytest

from infra.s3.identities import ADMINISTRATOR, BANK, MADE, PLACE, POLICIES, ROLES, identities, keys_of, main, policies, policy
from infra.s3.setup import HERE, NEEDS_TLS
from provenance.core.errors import SettingsError
from provenance.validation import retention as gc

BUCKET = f"arn:aws:s3:::{PLACE}"
BUCKET_POLICY = json.loads((HERE / "bucket-policy.json").read_text())


def test_the_files_are_made_of_the_table():
    assert {path.name: path.read_text() for path in POLICIES.iterdir()} == policies(), "run infra.s3.identities --policies"


@pytest.mark.parametrize("name", ROLES)
def test_a_policy_names_actions_and_folders(name):
    for statement in policy(name)["Statement"]:
        assert statement["Effect"] == "Allow"
        assert "Principal" not in statement, "it is attached to a role"
        assert all(action.startswith("s3:") and "*" not in action for action in statement["Action"])
        assert all(arn == BUCKET or arn.startswith(f"{BUCKET}/") for arn in statement["Resource"])


@pytest.mark.parametrize("name", sorted(set(ROLES) - {"pipeline"}))
def test_only_the_pipeline_has_all_of_the_bucket(name):
    for statement in policy(name)["Statement"]:
        assert f"{BUCKET}/*" not in statement["Resource"]
        if "s3:ListBucket" in statement["Action"]:
            assert statement["Condition"]["StringLike"]["s3:prefix"]


def test_files_of_banks_are_read_by_those_who_carry_them():
    readers = {name for name, role in ROLES.items() if any(BANK.startswith(prefix) for prefix in role.reads)}
    assert readers == {"pipeline", "bank"}


def test_nobody_deletes_what_is_published():
    for name, role in ROLES.items():
        assert not any(prefix.startswith("exports/") or not prefix for prefix in role.deletes), name


def test_housekeeping_may_delete_what_it_removes_and_versions_of_that_go():
    removed = {*gc.PER_PART, gc.FITTED, gc.LIKELIHOODS, *gc.OBSOLETE, gc.COUNTERFACTUALS, "frozen/", "nights/"}
    assert removed == set(MADE)
    assert removed <= set(ROLES["pipeline"].deletes)
    rules = json.loads((HERE / "lifecycle.json").read_text())["Rules"]
    assert removed <= {rule["Filter"]["Prefix"] for rule in rules if "NoncurrentVersionExpiration" in rule}


def test_the_bucket_s_policy_only_forbids():
    assert {statement["Effect"] for statement in BUCKET_POLICY["Statement"]} == {"Deny"}
    assert NEEDS_TLS in {statement["Sid"] for statement in BUCKET_POLICY["Statement"]}


def test_identities_of_seaweedfs():
    keys = {"accountants": ("a", "x"), "operators": ("b", "y"), "pipeline": ("c", "z"), "bank": ("d", "w")}
    document = {identity["name"]: identity for identity in identities("b", keys)["identities"]}
    assert document["accountants"]["credentials"] == [{"accessKey": "a", "secretKey": "x"}]
    assert document["accountants"]["actions"] == ["Read:b/exports/*", "List:b/exports/*"]
    assert "Read:b" in document["pipeline"]["actions"]
    assert "Write:b/*" in document["pipeline"]["actions"], "not Write:b, which is the bucket's settings, too"
    assert [action for action in document["bank"]["actions"] if action.startswith("Write")] == ["Write:b/bank/answers/*"]
    for name, identity in document.items():
        assert not any(action.startswith("Write") for action in identity["actions"]) or ROLES[name].writes
        assert "Admin" not in identity["actions"]


@pytest.mark.parametrize(
    "keys",
    [{"acountants": ("a", "b")}, {"operators": ("", "b")}, {"operators": ("a", "")}, {"bank": ("a", "b"), "data": ("a", "c")}],
)
def test_identities_that_are_none(keys):
    with pytest.raises(SettingsError, match="S3 identity"):
        identities("b", keys)


def test_keys_come_from_the_environment(monkeypatch, tmp_path):
    for name in ("PIPELINE", "ADMINISTRATOR"):
        monkeypatch.setenv(f"S3_{name}_ACCESS_KEY", f"{name}-a")
        monkeypatch.setenv(f"S3_{name}_SECRET_KEY", f"{name}-s")
    monkeypatch.setenv("S3_BUCKET", "b")
    monkeypatch.setattr("sys.argv", ["identities", str(tmp_path / "s3.json")])
    main()
    document = json.loads((tmp_path / "s3.json").read_text())
    keys = {"pipeline": ("PIPELINE-a", "PIPELINE-s"), ADMINISTRATOR: ("ADMINISTRATOR-a", "ADMINISTRATOR-s")}
    assert document == identities("b", keys)
    assert (tmp_path / "s3.json").stat().st_mode & 0o077 == 0
    assert keys_of({}) == {}


def test_a_secret_that_is_missing_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("S3_OPERATORS_ACCESS_KEY", "a")
    monkeypatch.setenv("S3_BUCKET", "b")
    monkeypatch.setattr("sys.argv", ["identities", str(tmp_path / "s3.json")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "S3 identity 'operators'" in capsys.readouterr().err
    assert not (tmp_path / "s3.json").exists()
