"""Checks the model of a night on a worker, once, and keeps the report in the store.

checks/<digest>.json    how a model is followed, by model, weights, projection, examples tried and version (`checks.Report`)
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from provenance.core.arrays import pass_namespace
from provenance.core.errors import ExampleError, ModelError, SettingsError, in_batch
from provenance.core.store import Store, canonical_json, digest
from provenance.core.where import Where
from provenance.corpus.delivery import identities
from provenance.corpus.shards import Part, read_part
from provenance.features.projection import Projection
from provenance.features.report import Report, from_json, require_followed, to_json
from provenance.inputs.night import Night
from provenance.models.frozen import close_models, fetch_model, open_model
from provenance.models.model import example_losses, examples_in

log = logging.getLogger("provenance.check")

# Examples that are tried for the weights that they use.
TRIED = 16


@dataclass(frozen=True)
class _Subject:
    """What a worker needs to check a model."""

    store: Store
    model: str
    model_files: dict[str, str]
    cache: Path
    projection: Projection
    checkpoint: str
    device: str
    precision: str


def check_night(where: Where, night: Night, sample: Part) -> str:
    """Check how the model of a night is followed, or find the report of an earlier check; returns the report's key.

    Args:
        sample: frozen examples of the corpus, in the order of their lengths.

    Raises:
        ModelError: the model cannot be followed, or not all of it and `features.unfollowed` is `refuse`.
        SettingsError: its passes cannot have the precision of the night.
    """
    store, settings, checkpoint = where.store, where.settings, night.checkpoints[-1]
    device, precision = settings.cluster.device, night.precision
    model = fetch_model(store, night.model, night.model_files, settings.model.cache)
    require_precision(precision, on_base=model.base is not None)
    ingredients = {
        "architecture": model.architecture(),
        "checkpoint": checkpoint,
        "weights": night.model_files[checkpoint],
        "projection": night.method["projection"],
        "examples": digest(identities(_tried(store, sample.sha256))),
        "version": night.method["versions"]["features"],
        **({} if device == "cpu" else {"device": device}),  # it measures the memory of passes there
        **({} if precision == "float32" else {"precision": precision}),
    }
    key = f"checks/{digest(ingredients)}.json"
    if not store.exists(key):
        projection = Projection(**night.method["projection"])
        subject = _Subject(
            store, night.model, night.model_files, settings.model.cache, projection, checkpoint, device, precision
        )
        for found in where.workers.map(_check, subject, [sample.sha256], what="check of the model", name=lambda _: checkpoint):
            store.write(key, canonical_json(found))
        where.workers.everywhere(close_models)
    report = read_check(store, key)
    _log(report)
    if settings.features.unfollowed == "refuse":
        require_followed(report)
    return key


def read_check(store: Store, key: str) -> Report:
    """The report of a check."""
    return from_json(store.read_json(key))


def _check(subject: _Subject, sample: str) -> dict[str, object]:
    """The report of a check, as JSON."""
    from provenance.features.checks import check_following  # with torch, which whoever reads a report does without

    frame = _tried(subject.store, sample)
    adapter, module = open_model(
        subject.store,
        subject.model,
        subject.model_files,
        subject.checkpoint,
        cache=subject.cache,
        device=subject.device,
        precision=subject.precision,
    )
    try:
        report = check_following(
            adapter,
            module,
            examples_in(frame),
            projection=subject.projection,
            checkpoint=subject.checkpoint,
            xp=pass_namespace(subject.device),
        )
    except ExampleError:
        raise_by_id(lambda row: example_losses(adapter, module, examples_in(row)), frame)
        raise
    except RuntimeError as error:
        if subject.precision == "float32":
            raise
        hint = "The adapter mixes types: let it convert its inputs to that of the weights, or use 'float32'."
        found = str(error).partition("\n")[0]
        raise SettingsError("features.precision", expected="passes in bfloat16", found=found, hint=hint) from error
    return to_json(report)


def require_precision(precision: str, *, on_base: bool) -> None:
    """Raise SettingsError for a model on a base whose passes the setting would round: other modules share that base."""
    if on_base and precision != "float32":
        hint = f"Set dtype = {precision!r} in [adapter_args] of its model.toml."
        raise SettingsError("features.precision", expected="float32 for a model on a base", found=precision, hint=hint)


def _tried(store: Store, sample: str) -> pl.DataFrame:
    """The examples of a frozen sample that are tried, of all lengths."""
    frame = read_part(store, sample, "example_id", "content", "content_sha256", "prompt")
    return frame[sorted({round(at * (frame.height - 1) / (TRIED - 1)) for at in range(TRIED)})]


def raise_by_id(function: Callable[[pl.DataFrame], object], frame: pl.DataFrame) -> None:
    """Raise ModelError with the id of the first example that fails alone; the error of a batch names only a row."""
    name = next(column for column in ("example_id", "output_id") if column in frame.columns)
    for row in frame.iter_slices(1):
        try:
            function(row)
        except ExampleError as error:
            where = f"{name} {row[name][0]!r}"
            where += "" if error.where == in_batch(0) else f": {error.where}"
            raise ModelError(where, expected=error.expected, found=error.found, hint=error.hint) from error


def _log(report: Report) -> None:
    summary = report.summary()
    log.info(
        "%s: %d weights followed, %.2f %% of what is trained, within %.2g of autograd; rank %d, examples %s",
        report.checkpoint,
        summary["followed"],
        100 * report.share,
        summary["largest_deviation"],
        summary["rank"],
        summary["batches"],
    )
    if report.failed:
        names = ", ".join(layer.weight for layer in report.failed)
        log.warning("%s: not followed, and left out: %s", report.checkpoint, names)
