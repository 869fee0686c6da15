"""Describes the model in use, from published nights: what it is, how far its shares can be trusted, what is followed, the cost.

Reads manifests, records and the notes of runs, no weights, so that a page can show it (Mitchell et al. 2019, "Model cards for
model reporting", arXiv 1810.03993).
"""

from __future__ import annotations

import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from provenance.core.errors import ContractError, InputError, did_you_mean
from provenance.core.money import format_minor
from provenance.core.published import MANIFEST, in_force, published_days
from provenance.core.stages import APPROVE, STAGES
from provenance.corpus.shards import load_frozen
from provenance.features.run_notes import note_of_booking, read_notes
from provenance.influence.audits import AuditFigure, audits
from provenance.royalty.fidelity import CONTAINED
from provenance.royalty.shares import BY_VALUE
from provenance.settlement.exports.export import count_outputs
from provenance.settlement.exports.trust import in_words

if TYPE_CHECKING:
    from provenance.core.settings import Settings
    from provenance.core.store import Store

# By the folder of a night, seconds by stage, where the times are known.
Times = Mapping[str, Mapping[str, float]]
# What predicts left-out models, in the words of a table.
PREDICTORS = {"estimate": "the estimate", "influence": "influence alone", "tfidf": "TF-IDF", "size": "size alone"}
# Files of a frozen model folder that say what it is.
CARD, CONFIG = "model.toml", "config.json"
ON_CLUSTER = frozenset(stage.name for stage in STAGES if stage.maps)


@dataclass(frozen=True)
class Score:
    """A rank correlation of predicted and actual left-out models over a night's outputs, with a 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fidelity:
    """How far the shares of one contract can be trusted on one night.

    Attributes:
        paid_by: the part of shares that each rule decided.
        models: counterfactual models that were left out and predicted.
        scores: by predictor (`PREDICTORS`); empty if they were too few.
        left_out, set_aside: the part of the results of models inside their 90 % intervals: of models that were left out, and of
            models set aside, on which nothing was fitted; None if there were none.
        failed: why the rule paid nothing.
    """

    contract: str
    rule: str
    paid_by: Mapping[str, float]
    models: int
    scores: Mapping[str, Score]
    left_out: float | None
    set_aside: float | None
    failed: tuple[str, ...]


@dataclass(frozen=True)
class CardNight:
    """One published night of the model.

    Attributes:
        matched: by currency, the part of the owners' money that has an owner; the rest is in escrow or unattributed.
        computed, reused: feature files, of the run that was booked.
        seconds: by stage, where the times are known; worker_seconds: of all workers together.
        cost_minor: of the worker seconds, in minor units of `ModelCard.cost_currency`; None if times are not known, or an hour
            has no price.
    """

    day: str
    revision: int
    outputs: int
    fidelity: tuple[Fidelity, ...]
    matched: Mapping[str, float]
    computed: int = 0
    reused: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    worker_seconds: float | None = None
    cost_minor: int | None = None


@dataclass(frozen=True)
class Followed:
    """How the gradients of the last checkpoint are followed, as the check before the first night found it.

    Attributes:
        share: the part of the trainable parameters that features cover; parameters: how many are trainable.
        weights: number of weights that are followed; rank: of the projections of inner layers, 0 without any.
        by_autograd: those followed one example at a time; not_followed: those left out, with their deviation from autograd.
        largest_deviation, tolerance: of features from autograd, relative.
        blocks: one line for each weight: `weight, parameters, by, deviation, verdict`.
    """

    share: float
    parameters: int
    weights: int
    rank: int
    dtype: str
    largest_deviation: float
    tolerance: float
    by_autograd: tuple[str, ...]
    not_followed: Mapping[str, float | None]
    blocks: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class ModelCard:
    """The model in use.

    Attributes:
        model: digest of the frozen model folder.
        recipe: `[training]` of its `model.toml`, as far as it is known.
        checkpoints: steps of all checkpoints; read: files of those that nights read.
        corpus: `digest, examples, held_out, owners, works_without_owner` that it pays for now.
        method: how influence is measured; components: their weights on the last night, by contract's rule on copies.
        counterfactuals: number of counterfactual models by stratum; set_aside: how many of them nothing is fitted on.
        followed: None where no check was kept, or the method uses no gradients.
        stored: files of features of corpus and outputs that the last night names, and rows in them.
        nights: published ones, oldest first; at most so many as were asked for; of all nights there are `published`.
        audit: figures of the audit that the last night's manifest cites.
        trust: how far the last night's shares can be trusted, in plain words.
        warnings: what a reader should know, in sentences.
    """

    model_id: str
    model: str
    adapter: str
    adapter_args: Mapping[str, Any]
    architecture: str
    base: str
    recipe: Mapping[str, Any]
    checkpoints: tuple[int, ...]
    read: tuple[str, ...]
    corpus: Mapping[str, Any]
    method: Mapping[str, Any]
    components: Mapping[str, Mapping[str, float]]
    counterfactuals: Mapping[str, int]
    set_aside: int
    followed: Followed | None
    stored: Mapping[str, int]
    nights: tuple[CardNight, ...]
    published: int
    audit: tuple[AuditFigure, ...]
    cost_currency: str
    trust: str
    warnings: tuple[str, ...]

    @property
    def last(self) -> CardNight:
        """The newest night."""
        return self.nights[-1]


def model_card(
    store: Store,
    settings: Settings,
    *,
    model_id: str = "",
    last: int = 30,
    seconds: Times | None = None,
    booked: Mapping[int, datetime] | None = None,
) -> ModelCard:
    """The card of the model that the newest published night paid for, or of another one by its name.

    Args:
        last: number of the model's published nights that are listed.
        seconds: by a night's folder and by stage, where somebody knows the times.
        booked: when each booking was made, by its id; it tells the run that was booked from previews and later runs.

    Raises:
        ContractError: no day is published.
        InputError: no published night has a model of that name.
    """
    manifests = _manifests(store, model_id, last)
    newest = manifests[-1]
    inputs, folder = newest["inputs"], newest["night"]
    described = _toml(store, inputs["model"])
    frozen = _json(store, f"{folder}/inputs.json")
    estimated = _json(store, f"{folder}/estimate.json")
    plan = _json(store, f"{folder}/plan.json")
    records = [_json(store, f"counterfactuals/{inputs['model']}/{name}.json") for name in inputs.get("counterfactuals", {})]
    seconds, booked = seconds or {}, booked or {}
    nights = tuple(
        _night(store, settings, manifest, seconds.get(manifest["night"], {}), booked.get(manifest["booking_id"]))
        for manifest in manifests
    )
    card = ModelCard(
        model_id=inputs["model_id"],
        model=inputs["model"],
        adapter=str(described.get("adapter", "")),
        adapter_args=described.get("adapter_args", {}),
        architecture=_architecture(_json(store, f"frozen/models/{inputs['model']}/{CONFIG}")),
        base=str(described.get("base", {}).get("folder", "")),
        recipe=described.get("training", {}),
        checkpoints=tuple(checkpoint["step"] for checkpoint in described.get("checkpoints", ())),
        read=tuple(frozen.get("checkpoints", ())),
        corpus=_corpus(store, inputs["corpus"]),
        method=newest["method"],
        components={rule: report.get("components", {}) for rule, report in estimated.get("copies", {}).items()},
        counterfactuals=dict(Counter(record.get("stratum", "unknown") for record in records)),
        set_aside=sum(bool(record.get("aside")) for record in records),
        followed=_followed(_json(store, plan["check"])) if plan.get("check") else None,
        stored={
            "files": len(plan.get("corpus", ())) + len(plan.get("outputs", ())),
            "rows": sum(file["rows"] for name in ("corpus", "outputs") for file in plan.get(name, ())),
        },
        nights=nights,
        published=len(published_days(store)),
        audit=_audit(store, newest),
        cost_currency=settings.monitoring.currency,
        trust=in_words([newest.get("fidelity")]),
        warnings=(),
    )
    return replace(card, warnings=tuple(_warnings(card)))


def _manifests(store: Store, model_id: str, last: int) -> list[dict[str, Any]]:
    """Manifests of the newest nights that paid for one model, oldest first."""
    days = published_days(store)
    if not days:
        raise ContractError(store.url, expected="a published night", found="none", hint="`make demo` pays one.")
    found: list[dict[str, Any]] = []
    others: set[str] = set()
    for day in reversed(days):
        manifest = store.read_json(f"{in_force(store, day)['folder']}/{MANIFEST}")
        inputs = manifest["inputs"]
        wanted = inputs["model"] == found[0]["inputs"]["model"] if found else model_id in ("", inputs["model_id"])
        if wanted:
            found.append(manifest)
        else:
            others.add(inputs["model_id"])
        if len(found) == last:
            break
    if not found:
        hint = did_you_mean(model_id, sorted(others)) or f"There are: {', '.join(sorted(others))}."
        raise InputError("MODEL_ID", expected="the model of a published night", found=repr(model_id), hint=hint)
    return found[::-1]


def _json(store: Store, key: str) -> dict[str, Any]:
    """A JSON file of the store; empty if it is missing, as housekeeping removes files of old nights."""
    return store.read_json(key) if store.exists(key) else {}


def _toml(store: Store, model: str) -> dict[str, Any]:
    key = f"frozen/models/{model}/{CARD}"
    return tomllib.loads(store.read(key).decode()) if store.exists(key) else {}


def _architecture(config: Mapping[str, Any]) -> str:
    """The architecture and its sizes, as far as a configuration of transformers or diffusers says them."""
    names = config.get("architectures") or [config.get("model_type") or config.get("_class_name")]
    words = {"num_hidden_layers": "layers", "hidden_size": "width", "vocab_size": "vocabulary"}
    sizes = [f"{word} {config[key]:,}" for key, word in words.items() if isinstance(config.get(key), int)]
    name = ", ".join(str(name) for name in names if name)
    return f"{name} ({', '.join(sizes)})" if name and sizes else name


def _corpus(store: Store, digest: str) -> dict[str, Any]:
    corpus = load_frozen(store, digest)
    unmatched = store.read_table(corpus.unmatched.key)
    return {
        "digest": digest,
        "examples": corpus.examples,
        "held_out": corpus.held_out,
        "owners": corpus.owners.rows,
        "works_without_owner": int(unmatched["works"].sum()),
    }


def _followed(report: Mapping[str, Any]) -> Followed | None:
    if not report:
        return None
    layout = report["following"]["layout"]
    layers = report["layers"]
    followed = [layer for layer in layers if layer["verdict"] == "followed"]
    dense = [block for block in layout["blocks"] if block["kind"] == "dense"]
    failed = {
        layer["weight"]: layer["deviation"] for layer in layers if layer["verdict"] in ("deviates", "too large to follow")
    }
    return Followed(
        share=1 - sum(layout["left_out"].values()) / layout["parameters"],
        parameters=layout["parameters"],
        weights=len(followed),
        rank=max((max(block["rows"], block["columns"]) for block in dense), default=0),
        dtype=report["dtype"],
        largest_deviation=max((layer["deviation"] or 0.0 for layer in followed), default=0.0),
        tolerance=report["tolerance"],
        by_autograd=tuple(layer["weight"] for layer in followed if layer["by"] == "autograd"),
        not_followed=failed,
        blocks=tuple(layers),
    )


def _night(
    store: Store,
    settings: Settings,
    manifest: Mapping[str, Any],
    seconds: Mapping[str, float],
    booked_at: datetime | None,
) -> CardNight:
    note = note_of_booking(read_notes(store, manifest["night"]), booked_at)
    pools = {c: row["revenue_minor"] - row["developer_minor"] for c, row in manifest["totals"].items()}
    busy = {stage: spent for stage, spent in seconds.items() if stage != APPROVE.name}
    workers = settings.cluster.workers
    work = sum(spent * (workers if stage in ON_CLUSTER else 1) for stage, spent in busy.items()) if busy else None
    price = settings.monitoring.hourly_cost
    return CardNight(
        day=manifest["day"],
        revision=manifest["revision"],
        outputs=count_outputs(store, manifest),
        fidelity=tuple(_fidelity(name, facts) for name, facts in manifest.get("fidelity", {}).items()),
        matched={c: manifest["totals"][c]["earned_minor"] / pool for c, pool in pools.items() if pool},
        computed=note.corpus_computed + note.outputs_computed if note else 0,
        reused=note.corpus_reused + note.outputs_reused if note else 0,
        seconds=dict(busy),
        worker_seconds=work,
        cost_minor=round(work * price / 3600) if work is not None and price else None,
    )


def _fidelity(contract: str, facts: Mapping[str, Any]) -> Fidelity:
    inside = facts["intervals_hold"]
    return Fidelity(
        contract=contract,
        rule=facts["rule"],
        paid_by=facts["paid_by"],
        models=facts["models"],
        scores={name: Score(**score) for name, score in facts["lds"].items()},
        left_out=inside.get("left_out"),
        set_aside=inside.get("set_aside"),
        failed=tuple(facts["failed"]),
    )


def _audit(store: Store, manifest: Mapping[str, Any]) -> tuple[AuditFigure, ...]:
    cited = manifest.get("audit")
    if not cited:
        return ()
    return next((audit.figures for audit in audits(store) if audit.sha256 == cited["sha256"]), ())


def _warnings(card: ModelCard) -> Iterator[str]:
    """What a reader should know before trusting the figures."""
    for facts in card.last.fidelity:
        place = f"On {card.last.day}, contract {facts.contract!r}"
        for reason in facts.failed:
            yield f"{place}: the rule {facts.rule} paid nothing, since {reason}."
        if facts.set_aside is None and facts.scores:
            yield f"{place}: no counterfactual model is set aside, so its intervals are tested on left-out models alone."
        if not facts.scores:
            yield f"{place}: fidelity was not measured; {facts.models} counterfactual models are too few."
        elif (words := facts.scores.get("tfidf")) and facts.scores["estimate"].low <= words.high:
            yield f"{place}: the estimate's interval overlaps that of TF-IDF, which looks at no model."
        if facts.rule in BY_VALUE and (alone := facts.scores.get("influence")) and alone.high >= facts.scores["estimate"].low:
            yield (
                f"{place}: influence alone scores as well ({alone.value:.2f} beside {facts.scores['estimate'].value:.2f}). "
                f"{WHY_THE_ESTIMATE}"
            )
        for name, part in (("left out", facts.left_out), ("set aside", facts.set_aside)):
            if part is not None and part < CONTAINED:
                yield f"{place}: 90 % intervals hold only {part:.0%} of the results of models {name}."
    if any(facts.scores for facts in card.last.fidelity):
        yield SEEDS
    if not card.last.fidelity:
        yield f"Fidelity of {card.last.day} was not measured."
    failed = [night.day for night in card.nights[:-1] if any(facts.failed for facts in night.fidelity)]
    if failed:
        yield f"On {len(failed)} earlier nights a rule failed its check, the last time on {failed[-1]}."
    if card.followed is None:
        yield "No check of its gradients is kept for the last night, so what is followed is not known here."
    elif card.followed.not_followed:
        yield f"Not followed: {', '.join(card.followed.not_followed)}."
    if not card.audit:
        yield "No retraining audit is in force; fidelity is measured on counterfactual models alone."


def markdown(card: ModelCard) -> str:
    """The card as Markdown."""
    return "\n\n".join(_sections(card)) + "\n"


def _sections(card: ModelCard) -> Iterator[str]:
    first, last = card.nights[0], card.last
    yield f"# Model card: {_cell(card.model_id)}"
    count = len(card.nights)
    span = f"the published night of {last.day}" if count == 1 else f"{count} published nights, {first.day} to {last.day}"
    yield f"What the model is, how far shares of its outputs can be trusted, what is followed, what a night costs. From {span}."
    if card.trust:
        yield f"On {last.day}: {card.trust}"
    yield "## What it is"
    yield _table(("what", "value"), identity(card))
    yield "## Fidelity, by night"
    yield (
        "The rank correlation over counterfactual models (left out, predicted from the others, and compared), mean over the "
        "night's outputs: 1 is perfect, 0 is chance. *Inside*: the part of results within their 90 % intervals."
    )
    yield _table(
        ("night", "contract", "rule", "models", *PREDICTORS.values(), "inside: left out", "inside: set aside"),
        fidelity_rows(card),
    )
    if card.audit:
        yield "## Audit by retraining"
        yield _table(("halves of", "method", "LDS", "interval", "noise ceiling"), audit_rows(card))
    yield "## Coverage and what is followed"
    yield _table(("what", "value"), coverage(card))
    if card.followed:
        yield _table(
            ("weight", "parameters", "by", "deviation from autograd", "verdict"),
            (
                (
                    f"`{block['weight']}`",
                    f"{block['parameters']:,}",
                    block["by"] or "-",
                    "-" if block["deviation"] is None else f"{block['deviation']:.1e}",
                    block["verdict"],
                )
                for block in card.followed.blocks
            ),
        )
    yield "## Cost of a night"
    yield _table(("night", "outputs", "feature files computed", "reused", "time", "worker time", "cost"), cost_rows(card))
    yield "## Read with care"
    yield "\n".join(f"- {_cell(sentence)}" for sentence in (*card.warnings, LIMITS))


LIMITS = (
    "Fidelity is a mean over outputs; one share may be further off than its interval. docs/limits.md says what is not measured."
)


# Why the estimate pays although another predictor scores as well.
WHY_THE_ESTIMATE = (
    "The estimate pays all the same: it is the contract's rule, it has what the counterfactual models themselves showed of "
    "these outputs, and its intervals come from them. The nightly check asks that it ranks better than size, not better than "
    "influence or TF-IDF."
)
# What intervals were seen to hold of shares by retraining; docs/evidence.md has the measurements.
SEEDS = (
    "Nine in ten is about counterfactual models that are left out. Beside models trained again with other seeds, shares lay in "
    "their intervals 81 to 97 % of the time on three workloads, and 52 % on the demo's, where retraining itself is noisy "
    "(docs/evidence.md)."
)


def identity(card: ModelCard) -> list[tuple[str, str]]:
    """What the model is, in rows of a name and a text."""
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(card.counterfactuals.items()))
    corpus = card.corpus
    counts = f"{corpus['examples']:,} examples of {corpus['owners']:,} owners, {corpus['held_out']:,} held out"
    return [
        ("model", f"{card.model_id} ({card.model[:12]})"),
        ("architecture", f"{card.architecture or 'a model'} by the adapter {card.adapter or '(not kept)'}"),
        *([("stands on", card.base)] if card.base else []),
        ("arguments", _plain(card.adapter_args) or "none"),
        ("recipe", _plain(card.recipe) or "nothing is known"),
        ("checkpoints", f"steps {', '.join(map(str, card.checkpoints))}; nights read {', '.join(card.read)}"),
        ("corpus", f"{counts}; {corpus['works_without_owner']:,} works without an owner ({corpus['digest'][:12]})"),
        (
            "trained on parts",
            f"{sum(card.counterfactuals.values())} counterfactual models ({kinds}), {card.set_aside} of them set aside"
            if kinds
            else "none",
        ),
    ]


def fidelity_rows(card: ModelCard) -> list[tuple[str, ...]]:
    """A row for each night and contract, newest first."""
    rows = []
    for night in reversed(card.nights):
        for facts in night.fidelity:
            paid = ", ".join(f"{part:.0%} {rule}" for rule, part in facts.paid_by.items())
            scores = (_score(facts.scores.get(name)) for name in PREDICTORS)
            inside = (_part(facts.left_out), _part(facts.set_aside))
            rule = facts.rule if facts.paid_by == {facts.rule: 1} else f"{facts.rule} (paid by {paid})"
            rows.append((night.day, facts.contract, rule, str(facts.models), *scores, *inside))
        if not night.fidelity:
            rows.append((night.day, "-", "-", "-", *["not measured"] * len(PREDICTORS), "-", "-"))
    return rows


def audit_rows(card: ModelCard) -> list[tuple[str, ...]]:
    """The figures of the audit in force."""
    return [(f.family, f.method, f"{f.score:.2f}", f"{f.low:.2f} to {f.high:.2f}", f"{f.ceiling:.2f}") for f in card.audit]


def coverage(card: ModelCard) -> list[tuple[str, str]]:
    """What is followed at what rank, how influence is weighed, and how much of the money has an owner."""
    rows = []
    if followed := card.followed:
        rank = f", inner layers at rank {followed.rank}" if followed.rank else ""
        allowed = f"{followed.tolerance:g} is allowed in {followed.dtype}"
        rows += [
            ("parameters", f"{followed.share:.2%} of {followed.parameters:,} that are trained are followed"),
            ("weights", f"{followed.weights} are followed{rank}"),
            ("left out", _left_out(followed)),
            ("could not be followed", ", ".join(followed.not_followed) or "none"),
            ("largest error", f"gradients are {followed.largest_deviation:.1e} off those of autograd at most; {allowed}"),
            (
                "a pass per example",
                f"{', '.join(followed.by_autograd)} (slow: by autograd, each example by itself)"
                if followed.by_autograd
                else "no weight needs one",
            ),
        ]
    projection = card.method.get("projection", {})
    rows.append(("influence", f"method {card.method.get('name')}; projections: {_plain(projection) or 'none'}"))
    for rule, weights in card.components.items():
        largest = sorted(((weight, name) for name, weight in weights.items() if weight > 0), reverse=True)
        text = ", ".join(f"{name} {weight:.2f}" for weight, name in largest) or "none has a weight"
        rows.append(("components", f"{text} (fitted weights; copies: {rule})"))
    parts = " and ".join(f"{part:.1%} of the {currency}" for currency, part in card.last.matched.items())
    rows.append(("money with an owner", f"{parts} for owners of {card.last.day}" if parts else "none"))
    return rows


def _left_out(followed: Followed) -> str:
    """The weights of which no feature is kept, by kind: `5 norm weights, 480 parameters`."""
    blocks = [block for block in followed.blocks if block["verdict"] == "left out"]
    kinds = Counter(_kind(block["weight"]) for block in blocks)
    texts = [f"{count:,} {kind}{'' if count == 1 else 'es' if kind == 'bias' else 's'}" for kind, count in kinds.items()]
    return f"{', '.join(texts)}, {sum(block['parameters'] for block in blocks):,} parameters" if blocks else "none"


def _kind(weight: str) -> str:
    if weight.endswith("bias"):
        return "bias"
    return "norm weight" if re.search(r"norm|\bln_", weight.lower()) else "weight"


def cost_rows(card: ModelCard) -> list[tuple[str, ...]]:
    """A row for each night, newest first."""
    return [
        (
            night.day,
            f"{night.outputs:,}",
            f"{night.computed:,}",
            f"{night.reused:,}",
            _time(sum(night.seconds.values())) if night.seconds else "not known here",
            "-" if night.worker_seconds is None else _time(night.worker_seconds),
            "-" if night.cost_minor is None else format_minor(night.cost_minor, card.cost_currency),
        )
        for night in reversed(card.nights)
    ]


def _score(score: Score | None) -> str:
    return "-" if score is None or math.isnan(score.value) else f"{score.value:.2f} ({score.low:.2f} to {score.high:.2f})"


def _part(part: float | None) -> str:
    return "-" if part is None else f"{part:.0%}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _plain(values: Mapping[str, Any]) -> str:
    """Keys and values in words; long lists shortened."""

    def text(value: Any) -> str:
        if isinstance(value, list):
            return "[" + ", ".join(map(str, value[:6])) + (f", ... ({len(value)})]" if len(value) > 6 else "]")
        return str(value)

    return ", ".join(f"{key} {text(value)}" for key, value in values.items())


def _table(headings: Sequence[str], rows: Any) -> str:
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    lines += [f"| {' | '.join(_cell(str(cell)) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text in Markdown that can be no markup: names come from outside."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")
