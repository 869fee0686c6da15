"""Measures on whose works each span of an output rests: the gradient of the span's own loss against the features of all works.

nights/.../credits/scratch/<id>/*     features of the spans of some outputs by source, and queries, while a run needs them

What came before a span, prompt and text, is given; the loss is that of the span's own terms. A gradient is a sum over terms, so
the influence of an output by gradients is the sum of the influences of its spans.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.rows import Rows, concatenate, decode, encode
from provenance.core.store import Store, digest
from provenance.core.tables import SPANS
from provenance.core.where import Where
from provenance.features.featurise import Featuriser, featuriser
from provenance.features.gradients import gradient_features
from provenance.features.plan import Plan, comparisons_of, load_plan
from provenance.features.spans import Span, spans_of
from provenance.features.words import word_features
from provenance.influence.methods import prepare, queries_to_tensors
from provenance.influence.night_curvature import read_fitted
from provenance.influence.night_scores import Block, name_candidates, score_groups, write_holdings
from provenance.influence.scores import Scores
from provenance.inputs.holders import OPTED_OUT
from provenance.inputs.methods import WORDS
from provenance.inputs.night import Night
from provenance.models.frozen import close_models, fetch_model
from provenance.models.model import Example, ExamplePart

# The folder of a night for the features and queries of spans; each run has one of its own there, since two may compute at once.
SCRATCH = "credits/scratch"
# Outputs whose features are computed as one task, and whose spans are scored as one block.
TOGETHER, BLOCK = 2, 32
# Parties of a span that are reported, those with the most influence first.
LEADING = 3


@dataclass(frozen=True)
class SpannedOutput:
    """An output and its spans."""

    output_id: str
    example: Example
    modality: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class _Task:
    """The features of the spans of some outputs, from one source."""

    outputs: tuple[SpannedOutput, ...]
    kind: str
    checkpoint: str
    key: str


def spanned(where: Where, night: Night, outputs: pl.DataFrame, *, most: int) -> list[SpannedOutput]:
    """The spans of outputs; outputs whose loss cannot be split are left out.

    Args:
        outputs: `output_id, content, prompt, modality`.
        most: spans of an output, about.
    """
    if not night.checkpoints:  # a method that compares words alone
        return []
    adapter = fetch_model(where.store, night.model, night.model_files, where.settings.model.cache).adapter()
    cut = []
    for output_id, content, prompt, modality in outputs.iter_rows():
        example = Example(content, prompt)
        cut.append(SpannedOutput(output_id, example, modality, tuple(spans_of(adapter, example, modality, most=most))))
    return [output for output in cut if output.spans]


def span_influence(
    where: Where, night: Night, outputs: Sequence[SpannedOutput], *, rule: str, weights: np.ndarray
) -> pl.DataFrame:
    """The spans table of outputs, under a rule on copies.

    Args:
        weights: of the components of influence, `(K,)`.
    """
    plan, tables = load_plan(where.store, night.folder), [SPANS.frame()]
    scratch = f"{night.folder}/{SCRATCH}/{uuid.uuid4().hex}"
    try:
        groups = write_holdings(where.store, night, plan, [rule], f"{scratch}/holdings")
        for start in range(0, len(outputs), BLOCK):
            some = outputs[start : start + BLOCK]
            block = Block(
                store=where.store,
                queries=_write_queries(where, night, plan, some, scratch),
                comparisons=comparisons_of(night),
                groups=groups,
                outputs=len(_pairs(some)),
                weights=weights,
                top=1,
                device=where.workers.device,
                keep="",
            )
            scores = score_groups(where, block, what="scores of spans")[rule]
            tables.append(_leading(where.store, night, some, scores, parties=groups.parties[rule], weights=weights))
    finally:
        where.store.remove_folder(scratch)
    return pl.concat(tables)


def _leading(
    store: Store, night: Night, outputs: Sequence[SpannedOutput], scores: Scores, *, parties: pl.DataFrame, weights: np.ndarray
) -> pl.DataFrame:
    """Rows of the spans table: of each span the parties with the most influence.

    Args:
        parties: in the order of their numbers.
    """
    measured_parties = parties.with_row_index("party")[scores.parties]
    kept = (measured_parties["account"] != OPTED_OUT).to_numpy()
    sums = np.einsum("k,kqp->qp", weights, scores.sums[:, :, kept])
    positive = np.maximum(sums, 0)
    totals = positive.sum(axis=1, keepdims=True)
    parts = np.divide(positive, totals, out=np.zeros_like(positive), where=totals > 0)
    spans = pl.DataFrame(
        [(number, output.output_id, span.start, span.end) for number, (output, span) in enumerate(_pairs(outputs))],
        schema={"span": pl.Int64, **{column: SPANS.schema[column] for column in ("output_id", "start", "end")}},
        orient="row",
    )
    span, column = np.indices(parts.shape).reshape(2, -1)
    measured = measured_parties.filter(kept)[column].with_columns(
        span=pl.Series(span), part=pl.Series(parts.ravel()), influence=pl.Series(sums.ravel())
    )
    measured = measured.filter(pl.col("part") > 0).sort("part", "account", "party_id", descending=[True, False, False])
    leading = measured.group_by("span", maintain_order=True).head(LEADING)
    found = scores.candidates
    pairs = pl.DataFrame({"span": found.output.astype(np.int64), "party": found.party}).with_row_index("at")
    shown = found.take(pairs.join(leading, on=["span", "party"], how="semi", maintain_order="left")["at"].to_numpy())
    best = name_candidates(store, night, shown, outputs=spans["span"], parties=parties).select(
        "account", "party_id", "example_id", "work_id", span="output_id"
    )
    table = spans.join(leading, on="span", maintain_order="left_right")
    table = table.join(best, on=["span", "account", "party_id"], how="left", maintain_order="left")
    return table.select(*SPANS.columns)


def _pairs(outputs: Sequence[SpannedOutput]) -> list[tuple[SpannedOutput, Span]]:
    return [(output, span) for output in outputs for span in output.spans]


def _write_queries(where: Where, night: Night, plan: Plan, outputs: Sequence[SpannedOutput], scratch: str) -> dict[str, str]:
    """Turn the spans of outputs into queries once for all workers; returns their keys by source."""
    store, keys, tasks = where.store, dict[str, str](), dict[str, list[_Task]]()
    for source in plan.sources:
        file = plan.of(source)[0][0]
        groups = [tuple(outputs[start : start + TOGETHER]) for start in range(0, len(outputs), TOGETHER)]
        tasks[source] = [_Task(some, file.kind, file.checkpoint, _key(scratch, source, some)) for some in groups]
    every = [task for of_source in tasks.values() for task in of_source]
    shared = featuriser(where, night, plan)
    for _ in where.workers.map(
        _featurise, shared, every, what="features of spans", name=lambda task: task.outputs[0].output_id
    ):
        pass
    where.workers.everywhere(close_models)
    for number, source in enumerate(plan.sources):
        rows = concatenate([decode(load_tensors(store.read(task.key)), np) for task in tasks[source]])
        keys[source] = f"{scratch}/queries-{digest([task.key for task in tasks[source]])[:32]}-{number}.safetensors"
        store.write(keys[source], save_tensors(queries_to_tensors(prepare(read_fitted(store, night, plan, source), rows, np))))
    return keys


def _key(scratch: str, source: str, outputs: Sequence[SpannedOutput]) -> str:
    """The key of the features of the spans of some outputs."""
    spans = [[output.output_id, [[span.start, span.end, *span.part] for span in output.spans]] for output in outputs]
    return f"{scratch}/features-{digest({'source': source, 'spans': spans})[:32]}.safetensors"


def _featurise(featuriser: Featuriser, task: _Task) -> str:
    """Compute and write the features of a task; returns the key."""
    tensors = encode(_features(featuriser, task), dense_bits=32, sparse_bits=32)
    featuriser.store.write(task.key, save_tensors(tensors))
    return task.key


def _features(featuriser: Featuriser, task: _Task) -> Rows:
    pairs = _pairs(task.outputs)
    if task.kind == WORDS:
        contents = [output.example.content[span.start : span.end] for output, span in pairs]
        return word_features(contents, [output.modality for output, _ in pairs])
    adapter, module = featuriser.open(task.checkpoint)
    examples = [ExamplePart(output.example, span.part) for output, span in pairs]
    return gradient_features(adapter, module, examples, **featuriser.passes(task.checkpoint))
