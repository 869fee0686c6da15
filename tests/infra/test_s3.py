"""Rights in the bucket, on a real S3 server with identities, policy and configuration of infra/s3."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import botocore.session
import pytest
import yaml
from botocore.exceptions import ClientError
from samples import enter
from servers import answers, credentials, served, weed_ports

from infra.s3.identities import ADMINISTRATOR, ROLES, identities
from infra.s3.setup import lock, open_client, set_up
from provenance.core.errors import StoreError
from provenance.core.settings import CHECKOUT, StoreSettings
from provenance.core.store import Store

pytestmark = pytest.mark.night

BUCKET = "provenance-test"
KEYS = {name: (f"{name}-access", f"{name}-secret") for name in (*ROLES, ADMINISTRATOR)}
EXPORT, BANK, NIGHT = "exports/payouts/day=2026-11-19/rev=0001/payouts.csv", "bank/period=2026-11/a.xml", "nights/x/inputs.json"
KEPT = (EXPORT, BANK, NIGHT, "bank/answers/a.xml", "corpus/examples.parquet", "outputs/day=2026-11-19/a.parquet", "store.json")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("identities")
    config = folder / "s3.json"
    config.write_text(json.dumps(identities(BUCKET, KEYS)))
    master, volume, filer, port = weed_ports(4)
    # As in production, but for the ports and folders.
    line = yaml.safe_load((CHECKOUT / "infra/compose.yaml").read_text())["services"]["s3"]["command"][-1].split("exec weed ")[1]
    mine = {"-dir": folder, "-s3.port": port, "-s3.config": config, "-volume.max": 50}
    words = [word.partition("=") for word in line.split()]
    command = [
        Path(sys.executable).with_name("weed"),
        *(f"{flag}{equals}{mine.get(flag, value)}" for flag, equals, value in words),
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-master.volumeSizeLimitMB=64"),
    ]
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "WEED_S3_SSE_KEK": "5e" * 32}  # encrypts what a bucket encrypts
    with served(command, lambda: answers(f"{url}/status"), folder / "log", env=environment):
        yield url


@pytest.fixture(scope="module")
def clients(endpoint):
    """A client of each role; the bucket is set up twice, and has an object wherever something lies."""
    made = {
        name: botocore.session.get_session().create_client(
            "s3", endpoint_url=endpoint, aws_access_key_id=access, aws_secret_access_key=secret, region_name="us-east-1"
        )
        for name, (access, secret) in KEYS.items()
    }
    for _ in range(2):
        assert set_up(made[ADMINISTRATOR], BUCKET) == ["no public access"], "the one thing that SeaweedFS does not know"
    for key in KEPT:
        made["pipeline"].put_object(Bucket=BUCKET, Key=key, Body=b"first")
    yield made
    for client in made.values():
        client.close()


def _refused(call, **arguments) -> bool:
    with pytest.raises(ClientError) as raised:
        call(Bucket=BUCKET, **arguments)
    return raised.value.response["Error"]["Code"] == "AccessDenied"


def _store(endpoint: str, role: str) -> Store:
    access, secret = KEYS[role]
    return Store(f"s3://{BUCKET}", {"endpoint_url": endpoint, "key": access, "secret": secret})


@pytest.mark.parametrize(
    ("role", "readable"),
    [
        ("accountants", {EXPORT}),
        ("operators", set(KEPT) - {BANK, "bank/answers/a.xml"}),
        ("bank", {BANK, "bank/answers/a.xml"}),
        ("data", {"corpus/examples.parquet", "outputs/day=2026-11-19/a.parquet"}),
        ("pipeline", set(KEPT)),
    ],
)
def test_a_role_reads_and_lists_what_is_its_own(clients, role, readable):
    client = clients[role]
    for key in KEPT:
        folder = key.rpartition("/")[0] + "/" if "/" in key else key
        if key in readable:
            assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"first"
            assert client.list_objects_v2(Bucket=BUCKET, Prefix=folder)["KeyCount"] >= 1
        else:
            assert _refused(client.get_object, Key=key)
            assert _refused(client.list_objects_v2, Prefix=folder)
            assert _refused(client.list_object_versions, Prefix=folder)
    if role != "pipeline":
        assert _refused(client.list_objects_v2), "all of the bucket"


@pytest.mark.parametrize(
    ("role", "writable"),
    [("accountants", ()), ("operators", ()), ("bank", ("bank/answers/new",)), ("data", ("corpus/new", "outputs/new"))],
)
def test_a_role_writes_what_is_its_own(clients, role, writable):
    client = clients[role]
    for key in (*KEPT, "exports/new", "bank/new", "bank/answers/new", "corpus/new", "outputs/new", "new"):
        if key.startswith(tuple(new.removesuffix("new") for new in writable)):
            client.put_object(Bucket=BUCKET, Key=f"{key}-by-{role}", Body=b"")
            client.delete_object(Bucket=BUCKET, Key=f"{key}-by-{role}")
            continue
        assert _refused(client.put_object, Key=key, Body=b"forged")
        assert _refused(client.delete_object, Key=key)
        assert _refused(client.put_object_tagging, Key=key, Tagging={"TagSet": []})
        assert _refused(client.copy_object, Key=key, CopySource=f"{BUCKET}/{BANK if role != 'bank' else EXPORT}")
    assert _refused(client.put_bucket_policy, Policy="{}")
    assert _refused(client.put_object_retention, Key=EXPORT, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": _in(1)})


def test_the_pipeline_works_as_through_its_store(endpoint):
    store = _store(endpoint, "pipeline")
    store.check_writable()
    assert store.create("nights/y/inputs.json", b"one")
    assert not store.create("nights/y/inputs.json", b"two")
    assert store.replace("nights/y/inputs.json", b"two", previous=b"one")
    assert store.read("nights/y/inputs.json") == b"two"
    assert "nights/y/inputs.json" in store.list("nights")


def test_accountants_collect_through_the_store(endpoint):
    store = _store(endpoint, "accountants")
    assert store.read(EXPORT) == b"first"
    assert store.list("exports/payouts") == [EXPORT]
    with pytest.raises(StoreError, match="AccessDenied"):
        store.read(BANK)
    with pytest.raises(StoreError, match="AccessDenied"):
        store.write(EXPORT, b"forged")


def test_nobody_comes_without_a_key(endpoint):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{endpoint}/{BUCKET}/{EXPORT}")


def test_what_is_published_stays(clients):
    """With the pipeline's identity: neither deleted, nor, once it is locked, lost by being written over."""
    pipeline, key = clients["pipeline"], "exports/periods/period=2026-11/closing/closing.csv"
    first = pipeline.put_object(Bucket=BUCKET, Key=key, Body=b"first")["VersionId"]
    assert _refused(pipeline.delete_object, Key=key), "by the bucket's policy"
    assert _refused(pipeline.delete_object, Key=key, VersionId=first)

    assert lock(pipeline, BUCKET, "exports/periods/", days=30) == 1
    assert lock(pipeline, BUCKET, "exports/periods/", days=30) == 0, "each is locked once"
    retained = pipeline.get_object_retention(Bucket=BUCKET, Key=key, VersionId=first)["Retention"]
    assert retained["Mode"] == "COMPLIANCE"
    assert abs(retained["RetainUntilDate"] - _in(30)) < timedelta(minutes=5)

    clients[ADMINISTRATOR].delete_bucket_policy(Bucket=BUCKET)
    try:  # the lock holds without the policy, and against the administrator
        for client in (pipeline, clients[ADMINISTRATOR]):
            assert _refused(client.delete_object, Key=key, VersionId=first)
            assert _refused(client.delete_object, Key=key, VersionId=first, BypassGovernanceRetention=True)
            shorter = {"Mode": "COMPLIANCE", "RetainUntilDate": _in(1)}
            assert _refused(client.put_object_retention, Key=key, VersionId=first, Retention=shorter)
        pipeline.delete_object(Bucket=BUCKET, Key=key)  # hides it, and no more than that
        assert pipeline.get_object(Bucket=BUCKET, Key=key, VersionId=first)["Body"].read() == b"first"
        second = pipeline.put_object(Bucket=BUCKET, Key=key, Body=b"second")["VersionId"]
        assert second != first
        assert pipeline.get_object(Bucket=BUCKET, Key=key, VersionId=first)["Body"].read() == b"first"
    finally:
        set_up(clients[ADMINISTRATOR], BUCKET)


def test_bank_files_are_not_deleted(clients):
    assert _refused(clients["pipeline"].delete_object, Key=BANK)
    assert _refused(clients["bank"].delete_object, Key=BANK)


def test_versions_and_encryption_cannot_be_turned_off_by_the_pipeline(clients):
    pipeline = clients["pipeline"]
    written = pipeline.put_object(Bucket=BUCKET, Key="nights/z", Body=b"")
    assert written["ServerSideEncryption"] == "AES256"
    assert written["VersionId"]
    for call, arguments in (
        (pipeline.delete_bucket_encryption, {}),
        (pipeline.delete_bucket_policy, {}),
        (pipeline.put_bucket_policy, {"Policy": "{}"}),
        (pipeline.delete_bucket_lifecycle, {}),
        (pipeline.put_object_lock_configuration, {"ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled"}}),
        (pipeline.delete_bucket, {}),
    ):
        assert _refused(call, **arguments), call
    assert pipeline.list_objects_v2(Bucket=BUCKET)["KeyCount"] >= len(KEPT)
    with pytest.raises(ClientError, match=r"AccessDenied|InvalidBucketState"):
        pipeline.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"})
    with pytest.raises(ClientError, match="AccessDenied"):
        pipeline.create_bucket(Bucket="another")


def test_the_command_line_sets_up_and_locks(clients, endpoint):
    def run(role, *words, url=f"s3://{BUCKET}"):
        variables = {"PROVENANCE_STORE__URL": url, "PROVENANCE_STORE__ENDPOINT_URL": endpoint}
        environment = os.environ | variables | credentials(*KEYS[role])
        command = [sys.executable, "-m", "infra.s3.setup", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout + done.stderr

    assert run(ADMINISTRATOR, "bucket") == (0, f"{BUCKET} is set up; this server does not support: no public access\n")
    clients["pipeline"].put_object(Bucket=BUCKET, Key="exports/keys/a.pem", Body=b"")
    code, message = run("pipeline", "lock", "--days", "2")
    assert code == 0
    assert int(message.split()[0]) >= 1
    assert run("pipeline", "lock", "--days", "2") == (0, "0 versions locked\n")
    code, message = run("accountants", "lock")
    assert code == 2
    assert "AccessDenied" in message
    code, message = run("pipeline", "lock", url="file://var/store")
    assert code == 2
    assert "store.url: expected s3://" in message


def test_a_client_of_the_settings(monkeypatch, endpoint):
    enter(monkeypatch, credentials(*KEYS["operators"]))
    client = open_client(StoreSettings(url=f"s3://{BUCKET}", endpoint_url=endpoint))
    assert _refused(client.put_object, Key=NIGHT, Body=b"")
    client.close()


def _in(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)
