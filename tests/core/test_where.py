"""Work for a GPU goes to a worker, work for a CPU stays in the process."""

import pytest

from provenance.core.settings import Settings
from provenance.core.store import Store
from provenance.core.where import SerialWorkers, Where, batched, on_device


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_function_runs_where_the_device_is(device):
    asked = []

    class Workers(SerialWorkers):
        def map(self, function, shared, items, *, what, name=str):
            asked.append(what)
            return super().map(function, shared, items, what=what, name=name)

    settings = Settings.model_validate({"cluster": {"device": device}})
    where = Where(settings, Store("file:///tmp", {}), lambda: Workers(device))
    assert on_device(where, lambda device, item: (device, item), 3, what="fit") == (device, 3)
    assert asked == ([] if device == "cpu" else ["fit"])


def test_items_are_cut_into_batches_of_which_the_last_may_be_smaller():
    assert list(batched([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
