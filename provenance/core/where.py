"""Everything that a stage works with: settings, store, workers and databases. `tasks` opens them.

A stage is a function `stage(where, ...)`. It reads from `where.store`, books on `where.ledger`, and maps over shards with
`where.workers`; it never reads environment variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from provenance.core.errors import SettingsError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from provenance.core.settings import Settings
    from provenance.core.store import Store

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(Protocol):
    """Maps a function over many items: a Dask cluster, or a loop."""

    @property
    def device(self) -> str:
        """The device on which workers compute: `cpu` or `cuda`."""

    def map(
        self,
        function: Callable[[Shared, Item], Result],
        shared: Shared,
        items: Sequence[Item],
        *,
        what: str,
        name: Callable[[Item], str] = str,
    ) -> Iterator[Result]:
        """Yield `function(shared, item)` for each item, in order, and log progress.

        Args:
            what: the work, for the log.
            name: names an item, for errors.

        Raises:
            InputError: the first error of an item; it ends the stage.
        """

    def reduce(
        self,
        function: Callable[[Shared, Item], Result],
        shared: Shared,
        items: Sequence[Item],
        combine: Callable[[Sequence[Result]], Result],
        *,
        what: str,
    ) -> Result:
        """Combine all `function(shared, item)`, a few neighbours at a time; `combine` must be associative."""

    def everywhere(self, function: Callable[[], None]) -> None:
        """Call a function in every worker process, for example to free memory."""


# Files that one task has on a GPU, where reading and writing overlap with computation: as many as tasks combine at once.
TOGETHER = {"cuda": 4}


def batched(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Cut items into batches; the last may be smaller. Small tasks cost a scheduler more than they compute."""
    return (items[start : start + size] for start in range(0, len(items), size))


class Databases(Protocol):
    """The ledger's database, opened in several roles."""

    @property
    def ledger(self) -> sa.Engine:
        """The ledger of the store, with its schema up to date."""

    @property
    def payees(self) -> sa.Engine:
        """The vault of payees' details, as the role that may read it."""

    @property
    def locks(self) -> sa.Engine | None:
        """A connection for locks alone; the ledger need not exist. None for work on folders."""


@dataclass(frozen=True)
class SerialWorkers:
    """Workers that are a loop in this process."""

    device: str = "cpu"

    def map(
        self,
        function: Callable[[Shared, Item], Result],
        shared: Shared,
        items: Sequence[Item],
        *,
        what: str,  # noqa: ARG002 (the Protocol's)
        name: Callable[[Item], str] = str,  # noqa: ARG002
    ) -> Iterator[Result]:
        """Call the function for one item after another."""
        return (function(shared, item) for item in items)

    def reduce(
        self,
        function: Callable[[Shared, Item], Result],
        shared: Shared,
        items: Sequence[Item],
        combine: Callable[[Sequence[Result]], Result],
        *,
        what: str,  # noqa: ARG002
    ) -> Result:
        """Combine results from the left, two at a time."""
        return reduce(lambda one, other: combine([one, other]), [function(shared, item) for item in items])

    def everywhere(self, function: Callable[[], None]) -> None:
        """Call the function in this process."""
        function()


class NoDatabases:
    """Databases of work without money: none."""

    def _none(self) -> sa.Engine:
        raise SettingsError("database", expected="a ledger", found="work on folders, which has none")

    ledger = payees = property(_none)
    locks = None


@dataclass(frozen=True)
class Where:
    """Settings, store, workers and databases, opened.

    Attributes:
        open_workers, open_databases: return the same object at every call; started at the first use.
    """

    settings: Settings
    store: Store
    open_workers: Callable[[], Workers] = SerialWorkers
    open_databases: Callable[[], Databases] = NoDatabases

    @property
    def workers(self) -> Workers:
        """The workers that map over shards."""
        return self.open_workers()

    @property
    def databases(self) -> Databases:
        """The ledger's database, in its roles."""
        return self.open_databases()

    @property
    def ledger(self) -> sa.Engine:
        """The ledger of the store."""
        return self.databases.ledger

    def at(self, work: Path, model: Path | None = None) -> Where:
        """A copy with the same workers, its own store in the folder `work`, no ledger, and optionally another model."""
        settings = self.settings.at(work, model)
        return replace(self, settings=settings, store=settings.store.open(), open_databases=NoDatabases)


def on_device(where: Where, function: Callable[[str, Item], Result], item: Item, *, what: str) -> Result:
    """`function(device, item)` where the device is: in this process for a CPU, on a worker for a GPU."""
    device = where.settings.cluster.device
    if device == "cpu":
        return function(device, item)
    (result,) = where.workers.map(function, device, [item], what=what)
    return result
