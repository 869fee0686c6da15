"""A corpus that takes seconds to collect, collected once."""

import pytest

from provenance.core.settings import CHECKOUT
from provenance.corpus.packages.distributions import collect


@pytest.fixture(scope="session")
def demo_corpus():
    """Sources of the installed distributions, as the demo collects them, with more pieces of each."""
    return collect(CHECKOUT / "infra/requirements/run.txt", distributions=48, examples_each=44)
