"""Whatever goes wrong on the way, a night ends in the bytes of one to which nothing happened."""

import contextlib
import itertools
from datetime import UTC, date, datetime, timedelta

import botocore.auth
import pytest
from places import filled
from samples import DAY, corpus_frames, deliver, new_bucket
from servers import eventually, s3_server, weed_ports
from stages import at_once, night, run

from provenance.core.errors import ContractError, StoreError, StoreUnavailable
from provenance.core.published import in_force, revision_folder
from provenance.core.store import Store
from provenance.inputs.stage import wait_until_over
from provenance.settlement.exports import export as exports

PUBLISH = "settlement.publish"
INPUTS = ("corpus/", "outputs/", "frozen/")
REUSED = ("features/", "statistics/", "curvature/", "likelihoods/")


def differences(place, undisturbed):
    """The published files and the entries in which two nights differ."""
    one, other = place.exports, undisturbed.exports
    files = [(key, one.get(key), other.get(key)) for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    return files + ([] if place.entries == undisturbed.entries else [place.entries, undisturbed.entries])


def behind(store, url):
    """A store by way of a proxy."""
    return Store(store.url, {**store.options, "endpoint_url": url})


@pytest.fixture
def place(places, proxy, s3):
    """A bucket, which nights reach by way of the proxy."""
    bucket = new_bucket(s3)
    return places(bucket, behind(bucket, proxy.url))


def test_a_tenth_of_all_requests_fails(undisturbed, place, proxy, at):
    faults = proxy.faults = ("errors", "slowdown", "timeouts", "truncated", "shortened", "corrupted", "lost")
    proxy.rate, proxy.seed = 0.1, 1
    deliver(place.store, corpus_frames())
    at(place)
    run("corpus.ingest")
    night()
    assert differences(place, undisturbed) == []
    assert sum(proxy.injected.values()) > 0.07 * proxy.requests
    # Digests are the keys' dice, so that a kind of fault may be left out: then the night is run again, and meets it.
    for proxy.seed in range(2, 9):
        proxy.faults = tuple(set(faults) - set(proxy.injected))
        if proxy.faults:
            night()
    assert set(proxy.injected) == set(faults), "every fault was met"
    assert differences(place, undisturbed) == []


def test_no_first_write_of_an_export_is_answered(undisturbed, place, proxy, at):
    lost = []

    def when(method, path, headers):
        if method != "PUT" or "/exports/" not in path or path in lost:
            return None
        lost.append(path)
        return "lost"

    undisturbed.copy(place.store)
    at(place)
    proxy.when = when
    night()
    assert differences(place, undisturbed) == []
    assert proxy.injected == {"lost": len(undisturbed.exports)}, "files, signature, key, manifest and pointer"
    lost.clear()
    later = revision_folder(DAY, 2)
    place.store.write(f"{later}/manifest.json", b"{}")
    exports.point_to(behind(place.store, proxy.url), date.fromisoformat(DAY), 2)
    assert in_force(place.store, DAY)["revision"] == 2
    assert len(lost) == 1, "the pointer is replaced, not created"


def test_a_credential_expires_in_every_stage(undisturbed, place, proxy, at):
    undisturbed.copy(place.store, *INPUTS)
    at(place)

    def attempt(stage, argument):
        for valid in range(0, 60, 12) if stage == PUBLISH else (6,):
            until = proxy.requests + valid
            proxy.when = lambda *_, until=until: "expired" if proxy.requests > until else None
            with pytest.raises(StoreError, match=r"ExpiredToken: .*Renew the credentials of \[store\]"):
                run(stage, argument)
            assert not place.half_published
        proxy.when = None
        return run(stage, argument)

    night(attempt)
    assert differences(place, undisturbed) == []


def test_the_disk_is_full_in_every_stage(undisturbed, places, small_disk, at):
    disk = small_disk("disk", 16)
    place = places(Store(f"file://{disk}/store", {}))
    undisturbed.copy(place.store, *INPUTS)
    at(place)

    def attempt(stage, argument):
        if stage not in {"settlement.book", "settlement.reconcile"}:  # which write to the ledger, or nothing
            for left in (0, 2**13, 2**14) if stage == PUBLISH else (0,):
                full = pytest.raises(StoreError, match=rf"{disk}/store/.*No space left on device.*Make room")
                with filled(disk, left), full:
                    run(stage, argument)
                assert not place.half_published
        return run(stage, argument)

    night(attempt)
    assert differences(place, undisturbed) == []


def until_it_answers(stage, argument):
    """A stage, tried again as Airflow does while a server that has just been started finds its files."""

    def attempt():
        with contextlib.suppress(StoreUnavailable):
            return [run(stage, argument)]

    return eventually(attempt, stage, every=1.0)[0]


def test_the_disk_behind_s3_is_full(undisturbed, places, small_disk, at, impatient):
    """With room again the server is started again: its index, once it could not write, often refuses until then."""
    disk, ports = small_disk("disk", 48), weed_ports(4)
    with contextlib.ExitStack() as running:
        place = places(new_bucket(running.enter_context(s3_server(disk, ports))))
        undisturbed.copy(place.store)
        at(place)

        def attempt(stage, argument):
            if stage == PUBLISH:
                for left in (0, 2**14):
                    full = pytest.raises(StoreUnavailable, match="If it lasts, see .* that its disk has room")
                    with filled(disk, left), full:
                        run(stage, argument)
                    assert not place.half_published
                running.close()
                running.enter_context(s3_server(disk, ports))
                return until_it_answers(stage, argument)
            return run(stage, argument)

        night(attempt)
        assert differences(place, undisturbed) == []


def test_clocks_of_machines_are_ten_minutes_off(undisturbed, places, s3, at, monkeypatch):
    """Each stage on a machine of its own, ten minutes ahead or behind in turns."""
    place, off = places(new_bucket(s3)), itertools.cycle((-10, 10))
    undisturbed.copy(place.store)
    at(place)

    def attempt(stage, argument):
        with monkeypatch.context() as patch:
            signed = turn_clock(patch, next(off))
            handed = run(stage, argument)
        assert signed
        return handed

    night(attempt)
    assert differences(place, undisturbed) == []


def test_a_clock_that_no_signature_survives_is_named(s3, monkeypatch):
    store = new_bucket(s3)
    turn_clock(monkeypatch, 20)
    for ask in (store.check_writable, lambda: store.exists("a")):
        with pytest.raises(StoreError, match=r"RequestTimeTooSkewed: .*Set this machine's clock"):
            ask()


def turn_clock(monkeypatch, minutes):
    """Have requests be signed at another time; returns a list of when they were."""
    right, asked = botocore.auth.get_current_datetime, []

    def wrong(*arguments, **options):
        asked.append(right(*arguments, **options) + timedelta(minutes=minutes))
        return asked[-1]

    monkeypatch.setattr(botocore.auth, "get_current_datetime", wrong)
    return asked


def test_a_run_that_comes_minutes_early_waits_for_the_end_of_its_day(monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    day, midnight = date(2026, 11, 19), datetime(2026, 11, 20, tzinfo=UTC)
    wait_until_over(day, midnight - timedelta(minutes=10))
    wait_until_over(day, midnight)
    wait_until_over(day, midnight + timedelta(minutes=10))
    assert slept == [600]
    with pytest.raises(ContractError, match="expected a day that is over"):
        wait_until_over(day, midnight - timedelta(minutes=16))


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_two_schedulers_run_the_same_night_at_once(request, undisturbed, places, kind, tmp_path):
    store = Store(f"file://{tmp_path}/store", {}) if kind == "file" else new_bucket(request.getfixturevalue("s3"))
    place = places(store)
    undisturbed.copy(store, *(INPUTS if kind == "file" else (*INPUTS, *REUSED)))
    assert at_once([place.environment] * 2) == [0, 0]
    assert differences(place, undisturbed) == []
