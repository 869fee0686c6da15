"""A lock keeps two processes from doing the same work at once, and blocks no other work."""

import pytest
import sqlalchemy as sa

from provenance.core.locks import Lock, held


@pytest.fixture
def engine(database):
    engine = sa.create_engine(database)
    yield engine
    engine.dispose()


def free(engine, key, kind=""):
    """Whether another connection could take a lock now."""
    with engine.connect() as connection:
        return connection.execute(sa.text(f"SELECT pg_try_advisory_xact_lock{kind}(:key)"), {"key": key.value}).scalar_one()


def test_a_lock_has_a_number_of_its_own_and_excludes_itself_alone(engine):
    assert len({lock.value for lock in Lock.__members__.values()}) == len(Lock.__members__) == 6
    for taken in Lock:
        with held(engine, taken):
            assert [key for key in Lock if not free(engine, key)] == [taken]
        assert free(engine, taken)


def test_shared_holders_exclude_only_those_who_want_it_alone(engine):
    with held(engine, Lock.CLEARING, shared=True):
        assert free(engine, Lock.CLEARING, "_shared")
        assert not free(engine, Lock.CLEARING)
