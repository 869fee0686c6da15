"""Which works a model to come may be trained on: the training manifest, written, checked, and put beside a model."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from provenance.core.contracts import SIGNALS
from provenance.core.errors import CheckFailed, InputError, did_you_mean, parse_day
from provenance.core.store import Store, digest, sha256
from provenance.corpus import records
from provenance.corpus.examples import open_on, since
from provenance.corpus.rights.clearance import (
    TRAIN,
    Manifest,
    check_trained_on,
    clear,
    cleared,
    contents,
    copies,
    read_manifest,
    stated,
)
from provenance.corpus.rights.optout_records import corpora, recorded
from provenance.corpus.rights.optouts import in_force
from provenance.corpus.rights.policy import USES, RightsPolicy, read_policy
from provenance.corpus.rights.signals.verdicts import verdicts
from provenance.corpus.shards import FrozenCorpus, corpus_in_force, corpus_key, load_frozen, read_examples
from provenance.models.model import Model, state_manifest
from provenance.settlement.publish import code_version
from tasks.settings import Settings, load

log = logging.getLogger("provenance.clear")

# What a manifest is made of, of all examples that a model is trained on.
COLUMNS = ("work_id", "example_id", "position", "content_sha256", "source_uri")
# What a manifest says of circumstances, and not of works.
CIRCUMSTANCES = ("code_version",)


def make_manifest(
    settings: Settings, *, use: str, day: date, corpus: FrozenCorpus | None = None
) -> tuple[Manifest, pl.DataFrame]:
    """The works of a corpus, or of that in force, that may be used on a day, as known now, and every work's clearance."""
    store = settings.store.open()
    frozen = corpus or corpus_in_force(store)
    examples = read_examples(store, frozen, *COLUMNS)
    policy = read_policy(settings.rights.policy)
    said = _verdicts(settings, store, examples["source_uri"].drop_nulls().unique().to_list(), use, day)
    optouts = in_force(recorded(store), day)
    disputes = open_on(store.read_table(frozen.disputes.key), day) if frozen.disputes else None
    copied = copies_withheld(store, frozen, optouts)
    terms = _for_use(read_rights(store, frozen), policy, use)
    clearance = clear(examples, terms, optouts, said, use, disputes=disputes, copied=copied)
    facts: dict[str, Any] = {
        "use": use,
        "day": str(day),
        "corpus": frozen.digest,
        "policy": sha256(settings.rights.policy.read_bytes()),
        "clearance": digest(clearance.rows()),
        "code_version": code_version(),
    }
    return cleared(examples, clearance, facts), clearance


def write_manifest(settings: Settings, *, use: str, day: date) -> tuple[str, Manifest, pl.DataFrame]:
    """Write the training manifest of the corpus in force; its key, itself and the clearance. The same again writes nothing."""
    store = settings.store.open()
    manifest, clearance = make_manifest(settings, use=use, day=day)
    data = manifest.as_bytes()
    key = f"{records.ROOT}/manifests/{use}/day={day}/{sha256(data)[:32]}.json"
    store.create(key, data)
    return key, manifest, clearance


def left_out(clearance: pl.DataFrame) -> pl.DataFrame:
    """`work_id, because` of all works that are not cleared."""
    return clearance.filter(~pl.col("cleared")).select("work_id", because=pl.col("because").list.join("; ")).sort("work_id")


def clear_today() -> str:
    """The stage `rights.manifest`: what may be trained on today (UTC); returns the manifest's key."""
    key, manifest, _ = write_manifest(load(), use=TRAIN, day=datetime.now(UTC).date())
    log.info("training manifest %s: %s, left out: %s", key, manifest.facts["cleared"], manifest.facts["left_out"])
    return key


def check_manifest(settings: Settings, data: bytes, where: str) -> Manifest:
    """A manifest whose works are those of its corpus that are cleared on its day, as it is known now.

    Raises:
        InputError: it is no manifest, or says too little to be checked.
        CheckFailed: it lists other works or examples, or says something that is not so.
    """
    manifest = read_manifest(data, where)
    try:
        facts = {name: str(manifest.facts[name]) for name in ("use", "day", "corpus")}
    except KeyError as error:
        hint = "What a training run states has none of these, and is checked by the night."
        raise InputError(where, expected="use, day and corpus", found=f"no {error.args[0]}", hint=hint) from None
    day = parse_day(f"{where}: day", facts["day"])
    corpus = find_frozen(settings.store.open(), facts["corpus"], f"{where}: corpus")
    made, clearance = make_manifest(settings, use=facts["use"], day=day, corpus=corpus)
    reasons = dict(clearance.select("work_id", "because").iter_rows())
    problems = [f"{work}: not of the corpus" for work in sorted(manifest.works.keys() - reasons.keys())]
    problems += [
        f"{work}: {'; '.join(reasons[work])}" for work in sorted(manifest.works.keys() & reasons.keys() - made.works.keys())
    ]
    problems += [f"{work}: cleared, and not in it" for work in sorted(made.works.keys() - manifest.works.keys())]
    both = sorted(made.works.keys() & manifest.works.keys())
    problems += [f"{work}: other examples" for work in both if made.works[work] != manifest.works[work]]
    # Counts and digests of works that differ differ, too.
    said = [] if problems else sorted({*manifest.facts, *made.facts} - {*CIRCUMSTANCES})
    problems += [f"{name} differs" for name in said if manifest.facts.get(name) != made.facts.get(name)]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckFailed(f"{where}: {'; '.join(problems[:5])}{more}")
    return manifest


def find_frozen(store: Store, digest: str, where: str) -> FrozenCorpus:
    """A frozen corpus by its digest; raises InputError where there is none."""
    key = corpus_key(digest)
    if not digest.isalnum() or not store.exists(key):
        known = sorted(key.rsplit("/", 1)[-1].removesuffix(".json") for key in store.list("frozen/corpus"))
        hint = f"There are: {', '.join(name for name in known if name != 'current')}." if known else ""
        raise InputError(where, expected="the digest of a frozen corpus", found=repr(digest), hint=hint)
    return load_frozen(store, digest)


def check_model(store: Store, model: Model, corpus: FrozenCorpus) -> Manifest | None:
    """What a model's training run states, held against a corpus; None where it states nothing."""
    if (path := model.manifest) is None:
        return None
    manifest = read_manifest(path.read_bytes(), str(path))
    check_trained_on(manifest, contents(read_examples(store, corpus, *COLUMNS)), str(path))
    return manifest


def state_training(folder: Path, examples: pl.DataFrame) -> None:
    """Put what a run was trained on beside its checkpoints, as `manifest.json`, and name it in `model.toml`.

    Args:
        folder: a model folder.
        examples: `work_id, content` of what it was trained on.
    """
    digests = pl.Series([sha256(content) for content in examples["content"]], dtype=pl.String)
    ordered = examples.select("work_id", content_sha256=digests, example_id=digests, position=pl.lit(None, pl.Int64))
    state_manifest(folder, stated(ordered).as_bytes())


def copies_withheld(store: Store, corpus: FrozenCorpus, optouts: pl.DataFrame) -> pl.DataFrame:
    """Whole copies of what owners have opted out of, in this corpus or any that is still stored, as `work_id, original`."""
    if optouts.is_empty():
        return pl.DataFrame(schema={"work_id": pl.String, "original": pl.String})
    opted_out = pl.col("work_id").is_in(optouts["work_id"].unique().implode())
    examples = _dated(store, corpus)
    others = [_dated(store, load_frozen(store, name)) for name in corpora(store) if name != corpus.digest]
    return copies(examples, pl.concat([one.filter(opted_out) for one in (examples, *others)]))


def _dated(store: Store, corpus: FrozenCorpus) -> pl.DataFrame:
    """`work_id, content_sha256, since` of a corpus's examples; whose claim is not dated has always had the work."""
    examples = read_examples(store, corpus, "work_id", "content_sha256", "acquired_at")
    claims = store.read_table(corpus.claims.key, columns=["work_id", "valid_from"])
    always = claims.with_columns(pl.col("valid_from").fill_null(date.min))
    return since(examples, always).select("work_id", "content_sha256", "since")


def read_rights(store: Store, corpus: FrozenCorpus) -> pl.DataFrame | None:
    """The rights table of a corpus; None for corpora that were frozen before anybody looked."""
    return store.read_table(corpus.rights.key) if corpus.rights else None


def _for_use(rights: pl.DataFrame | None, policy: RightsPolicy, use: str) -> pl.DataFrame | None:
    """The rights table with what the policy, as it is now, has against a use: ingesting asked it about training alone."""
    if use not in USES:
        raise InputError("use", expected=f"one of {', '.join(USES)}", found=repr(use), hint=did_you_mean(use, USES))
    if rights is None:
        return None
    refused = {name: policy.refusal(name, use) for name in rights["licence_class"].unique()}
    return rights.with_columns(quarantine=pl.col("licence_class").replace_strict(refused, return_dtype=pl.String))


def _verdicts(settings: Settings, store: Store, uris: Iterable[str], use: str, day: date) -> pl.DataFrame:
    """What the signals that were known by the end of a day say of a use; nothing where none were collected."""
    until = datetime.combine(day, time.min, UTC) + timedelta(days=1)
    signals = records.read(store, SIGNALS, known=until)
    return verdicts(signals, uris, use, now=until, days=settings.signals.days)
