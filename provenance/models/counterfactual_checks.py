"""Checks counterfactual models: same recipe as the served model, and trained on the works that their manifests list."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import polars as pl

from provenance.core.errors import ModelError
from provenance.core.store import canonical_json
from provenance.models.counterfactual_records import Record, listed_examples, records
from provenance.models.frozen import close_models, open_model
from provenance.models.model import Model, all_losses, examples_in
from provenance.models.partition_plan import BOUNDS
from provenance.models.subject import Subject, recipe_of, works_served
from provenance.models.writing import MANIFEST

log = logging.getLogger("provenance.counterfactuals")

# `check_losses`: examples compared, examples per batch, and the smallest t statistic (Welch) that passes.
EXAMPLES, BATCH, SMALLEST_T = 256, 32, 3.0
# Examples of the served model that are joined at once: a table of more outgrows the processor's caches.
SLICE = 2**16


def check_new(subject: Subject, candidates: Sequence[Record]) -> None:
    """Mark new models as checked, once all of them pass `check_losses`.

    Raises:
        ModelError: one failed; then all new ones are removed.
    """
    new = [record for record in candidates if not record.checked]
    try:
        check_losses(subject, new)
    except ModelError:
        subject.store.remove_all([record.key for record in new])
        raise
    for record in new:
        subject.store.write(record.key, canonical_json(record.model_copy(update={"checked": True}).model_dump()))


def check_same_recipe(served: Model, trained: Model) -> None:
    """Raise ModelError if a counterfactual model has another architecture or recipe than the served model."""
    where, theirs, ours = f"{trained.folder / 'model.toml'}", trained.card, served.card
    rows: list[tuple[str, object, object]] = [("key 'adapter'", ours.adapter, theirs.adapter)]
    names = sorted({*theirs.adapter_args, *ours.adapter_args})
    rows += [(f"adapter_args.{name}", ours.adapter_args.get(name), theirs.adapter_args.get(name)) for name in names]
    wanted, actual = ours.training.decisive(), theirs.training.decisive()
    wanted.pop("command", None)
    rows += [(f"training.{name}", value, actual.get(name)) for name, value in wanted.items()]
    for key, expected, found in rows:
        if found != expected:
            raise ModelError(f"{where}: {key}", expected=f"{expected!r}, the value of the model served", found=repr(found))
    if trained.architecture() != served.architecture():
        files = sorted({*trained.other_files(), *served.other_files()})
        differing = [name for name in files if trained.files.get(name) != served.files.get(name)]
        difference = f"a different {', '.join(differing) or 'code of the adapter'}"
        raise ModelError(where, expected="the architecture of the model served", found=difference)
    if ours.training.start == "base" and not same_start(served, trained):
        expected = f"the weights of {ours.checkpoints[0].file} of the model served, which its training started from"
        raise ModelError(f"{trained.folder / theirs.checkpoints[0].file}", expected=expected, found="others")


def same_start(one: Model, other: Model) -> bool:
    """Whether the first checkpoints of two models hold the same weights."""
    import torch
    from safetensors.torch import load_file

    files = [(model, model.card.checkpoints[0].file) for model in (one, other)]
    if len({model.files[file] for model, file in files}) == 1:
        return True
    before, after = (load_file(model.folder / file) for model, file in files)
    return before.keys() == after.keys() and all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def check_works(listed: pl.DataFrame, served: pl.DataFrame, where: str) -> None:
    """Raise ModelError if a manifest lists an example that the served model was not trained on.

    Args:
        listed, served: `work_id, content_sha256, count` of the manifest, and from `works_served`.
    """
    for work, foreign in _foreign_examples(listed, served).sort("work_id").iter_rows():
        count = listed.filter(pl.col("work_id") == work)["count"].sum()
        found = f"work {work!r}: {foreign} of its {count} examples are not there"
        hint = "It was trained on another corpus: train counterfactual models for this one."
        raise ModelError(where, expected="works on which the model served was trained", found=found, hint=hint)


def _foreign_examples(listed: pl.DataFrame, served: pl.DataFrame) -> pl.DataFrame:
    """`work_id, foreign`: the number of a manifest's examples that the served model was not trained on, if there are any."""
    tables = [table if table["work_id"].is_sorted() else table.sort("work_id") for table in (listed, served)]
    ends = tables[1]["work_id"].gather_every(SLICE)[1:]
    cuts = [[0, *table["work_id"].search_sorted(ends), table.height] for table in tables]
    slices = [[table[start:end] for start, end in pairwise(places)] for table, places in zip(tables, cuts, strict=True)]
    return pl.concat(_foreign_in_slice(*pair) for pair in zip(*slices, strict=True))


def _foreign_in_slice(listed: pl.DataFrame, served: pl.DataFrame) -> pl.DataFrame:
    both = listed.join(served, on=["work_id", "content_sha256"], how="left")
    excess = both.select("work_id", foreign=pl.col("count").cast(pl.Int64) - pl.col("count_right").fill_null(0).cast(pl.Int64))
    return excess.filter(pl.col("foreign") > 0).group_by("work_id").agg(pl.col("foreign").sum())


def check_losses(subject: Subject, candidates: Sequence[Record]) -> None:
    """Check by their losses that models were trained on the works that their manifests list.

    The losses of some examples are compared with their mean under the other models of the stratum. A model must be better on
    the examples that it lists than on the others.

    Raises:
        ModelError: a model is not, or there is no other model to compare it with.
    """
    if not candidates:
        return
    from scipy.stats import ttest_ind

    first = subject.read("content_sha256")["content_sha256"].arg_sort().head(EXAMPLES).sort()
    examples = subject.read("work_id", "content_sha256", "content", "prompt", rows=first.to_list()).sort("content_sha256")
    given = examples_in(examples)
    keys = list(examples.select("work_id", "content_sha256").iter_rows())
    models = records(subject.store, subject.model, unchecked=True)
    losses, listed = np.empty((len(models), len(keys))), np.empty((len(models), len(keys)), dtype=bool)
    for row, record in enumerate(models):
        theirs = set(listed_examples(subject.store, record).select("work_id", "content_sha256").iter_rows())
        listed[row] = [key in theirs for key in keys]
        frozen = record.folder, record.files, record.checkpoint
        adapter, module = open_model(subject.store, *frozen, cache=subject.cache, device="cpu")
        losses[row] = all_losses(adapter, module, given, batch_size=BATCH)
    close_models()
    losses /= [len(example.content) for example in given]
    strata, names = np.digitize(listed.mean(axis=1), BOUNDS), [record.name for record in models]
    for record in candidates:
        row = names.index(record.name)
        peers = (strata == strata[row]) & (np.arange(len(models)) != row)
        where = f"{subject.store.locate(record.key)}: {MANIFEST}"
        if not peers.any() or listed[row].all() or not listed[row].any():
            expected = "other models trained on about as much, and examples both listed and not listed, to compare it with"
            found = f"{listed[row].mean():.0%} of the examples in, {peers.sum()} others"
            raise ModelError(where, expected=expected, found=found)
        excess = losses[row] - losses[peers].mean(axis=0)
        t = float(ttest_ind(excess[~listed[row]], excess[listed[row]], equal_var=False).statistic)
        if not t > SMALLEST_T:
            found = f"one that knows the rest of the corpus no worse (t = {t:.1f}; at least {SMALLEST_T:.0f} is required)"
            raise ModelError(where, expected="a model that was trained on the works listed", found=found)


def usable_models(subject: Subject, candidates: Sequence[Record] | None = None) -> dict[str, str]:
    """The counterfactual models that count: digest of each folder by name.

    A model of another corpus, with a work that the served model was not trained on, is left out.

    Args:
        candidates: the models to choose from; by default all of the served model.

    Raises:
        ModelError: a model has another recipe.
    """
    candidates = records(subject.store, subject.model) if candidates is None else candidates
    if not candidates:
        return {}
    recipe, served = recipe_of(subject.open()), works_served(subject)
    for record in candidates:
        if record.made_of != recipe:
            where, hint = subject.store.locate(record.key), "Remove it, or serve the model that it belongs to."
            expected = f"recipe {recipe[:12]} of the model served"
            raise ModelError(where, expected=expected, found=record.made_of[:12], hint=hint)
    usable = [record for record in candidates if _foreign_examples(listed_examples(subject.store, record), served).is_empty()]
    if len(usable) < len(candidates):
        excluded = len(candidates) - len(usable)
        log.warning("counterfactual models: %d of %d are of another corpus and do not count", excluded, len(candidates))
    return {record.name: record.folder for record in usable}
