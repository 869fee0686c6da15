"""Whatever goes wrong on the way, a night ends in the bytes of one to which nothing happened."""

import pytest
from nights import at_once, night, run
from samples import corpus_frames, deliver, new_bucket

from provenance.core.store import Store

pytestmark = pytest.mark.night


def test_a_tenth_of_all_requests_fails(undisturbed, places, proxy, s3, at):
    bucket = new_bucket(s3)
    place = places(bucket, Store(bucket.url, {"endpoint_url": proxy.url}))
    proxy.faults = ("errors", "slowdown", "timeouts", "truncated", "shortened", "corrupted", "lost")
    proxy.rate, proxy.seed = 0.1, 1
    deliver(place.store, corpus_frames())
    at(place)
    run("ingest.ingest")
    night()
    assert place.exports == undisturbed.exports
    assert place.entries == undisturbed.entries
    assert set(proxy.injected) == set(proxy.faults), "every fault was met"
    assert sum(proxy.injected.values()) > 0.07 * proxy.requests
    print(proxy.injected, proxy.requests)


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_two_schedulers_run_the_same_night_at_once(request, undisturbed, places, kind, tmp_path):
    store = Store(f"file://{tmp_path}/store", {}) if kind == "file" else new_bucket(request.getfixturevalue("s3"))
    place = places(store)
    undisturbed.copy(store, ("corpus", "outputs", "frozen"))
    assert at_once([place.environment] * 2) == [0, 0]
    assert place.exports == undisturbed.exports
    assert place.entries == undisturbed.entries
