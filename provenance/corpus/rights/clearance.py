"""Clear works for training future models, and write the manifest that lists them.

A work is cleared unless its terms, an opt-out, a dispute or a signal is against it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import polars as pl

from provenance.core.errors import CheckFailed, InputError, did_you_mean, parse_day
from provenance.core.store import Store, digest, sha256
from provenance.core.tables import CLEARANCE, SIGNALS
from provenance.core.version import code_version
from provenance.core.where import Where
from provenance.corpus import records
from provenance.corpus.ownership import open_on, since
from provenance.corpus.rights.content_codes import keep_codes, read_codes, same_contents
from provenance.corpus.rights.manifest import Manifest, cleared_manifest, contents, read_manifest
from provenance.corpus.rights.optout_records import read_optouts
from provenance.corpus.rights.optouts import in_force
from provenance.corpus.rights.policy import USES, RightsPolicy, read_policy
from provenance.corpus.rights.signals.embedded import CONTENT
from provenance.corpus.rights.signals.verdicts import verdicts
from provenance.corpus.shards import FrozenCorpus, corpora, corpus_in_force, find_frozen, load_frozen, read_examples

log = logging.getLogger("provenance.clear")

TRAIN = "train"
# Prefixes of reasons against a work.
QUARANTINED, UNKNOWN_TERMS, OPTED_OUT, DISPUTED, FORBIDDEN = "quarantine", "terms", "opt-out", "dispute", "signal"
# Columns of examples that a manifest needs.
COLUMNS = ("work_id", "example_id", "position", "content_sha256", "source_uri")
# Facts of a manifest that do not depend on works.
CIRCUMSTANCES = {"code_version"}


def clear(
    examples: pl.DataFrame,
    rights: pl.DataFrame | None,
    optouts: pl.DataFrame,
    verdicts: pl.DataFrame,
    use: str = TRAIN,
    *,
    disputes: pl.DataFrame | None = None,
    copied: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Decide for each work whether it may be used: the clearance table, sorted by work.

    Args:
        examples: `work_id, example_id, position, content_sha256, source_uri`.
        rights: the rights table; with None no work is cleared.
        optouts: `work_id, owner_id` of opt-outs in force, with any choice.
        verdicts: `source_uri, allowed, because` of signals on addresses and contents (`sha256:`); missing ones and null
            verdicts allow the use.
        disputes: the open disputes.
        copied: `copies` of works that owners opted out of.
    """
    against: dict[str, list[str]] = defaultdict(list)
    works = examples["work_id"].unique().sort()
    terms = _terms(rights)
    for work in works:
        if work not in terms:
            against[work].append(f"{UNKNOWN_TERMS}: nobody has looked under which it came")
        elif refusal := terms[work][0]:
            against[work].append(f"{QUARANTINED}: {refusal}")
    for work, owner in optouts.select("work_id", "owner_id").sort("work_id", "owner_id").iter_rows():
        against[work].append(f"{OPTED_OUT}: of {owner}")
    for work, original in [] if copied is None else copied.iter_rows():
        against[work].append(is_copy_of(original))
    if disputes is not None:
        for work, owner, day in disputes.select("work_id", "owner_id", "opened_on").sort("work_id", "owner_id").iter_rows():
            against[work].append(f"{DISPUTED}: by {owner} since {day}")
    forbidden = verdicts.filter(~pl.col("allowed").fill_null(value=True)).select("source_uri", "because")
    places = pl.concat([examples.select("work_id", "source_uri"), _addresses(examples)]).unique()
    signalled = places.join(forbidden, on="source_uri").sort("work_id", "source_uri")
    for work, uri, because in signalled.iter_rows():
        against[work].append(f"{FORBIDDEN}: {uri}: {because}")
    digests = contents(examples)
    rows = [
        {
            "work_id": work,
            "use": use,
            "cleared": work not in against,
            "because": against.get(work) or [terms[work][1]],
            "examples": len(digests[work]),
            "content_sha256": digest(digests[work]),
        }
        for work in works
    ]
    return pl.DataFrame(rows, schema=CLEARANCE.schema)


def copies(examples: pl.DataFrame, originals: pl.DataFrame) -> pl.DataFrame:
    """Find whole copies: works whose every example has the content of an original's example, as `work_id, original`, sorted.

    A work known to be older than the original is no copy. Neither is a work that shares only some examples, such as the text
    of a licence.

    Args:
        examples, originals: `work_id, content_sha256, since`, the day of the first claim or of collection, if known.
    """
    candidates = examples.join(originals, on="work_id", how="anti")
    ordered = originals.sort("since", "work_id", nulls_last=True)
    first = ordered.group_by("content_sha256").agg(pl.col("work_id", "since").first().name.prefix("first_"))
    matches = (
        candidates.join(first, on="content_sha256", how="left")
        .group_by("work_id")
        .agg(
            original=pl.col("first_work_id").sort_by("first_since", "first_work_id", nulls_last=True).first(),
            whole=pl.col("first_work_id").is_not_null().all(),
            older=(pl.col("since") < pl.col("first_since")).any(),
        )
    )
    return matches.filter(pl.col("whole") & ~pl.col("older")).select("work_id", "original").sort("work_id")


def is_copy_of(original: str) -> str:
    """The reason against a copy of a work that its owner opted out of."""
    return f"{OPTED_OUT}: a copy of {original}"


def _addresses(examples: pl.DataFrame) -> pl.DataFrame:
    """`work_id, source_uri`: the addresses of the works' contents in the signals table."""
    return examples.select("work_id", source_uri=pl.lit(CONTENT) + pl.col("content_sha256")).unique()


def _terms(rights: pl.DataFrame | None) -> dict[str, tuple[str, str]]:
    """By work, the reason of its quarantine (empty: none), and the terms that permit its use."""
    if rights is None:
        return {}
    columns = ("work_id", "quarantine", "licence_spdx", "licence_class", "asserted_by")
    return {
        work: (quarantine, f"{UNKNOWN_TERMS}: {licence or 'none that can be read'} ({kind}), by {asserter}")
        for work, quarantine, licence, kind, asserter in rights.select(columns).iter_rows()
    }


def make_manifest(where: Where, *, use: str, day: date, corpus: FrozenCorpus | None = None) -> tuple[Manifest, pl.DataFrame]:
    """The manifest of works of a corpus (by default that in force) cleared on a day, as known now; and all works' clearance."""
    store, settings = where.store, where.settings
    frozen = corpus or corpus_in_force(store)
    examples = read_examples(store, frozen, *COLUMNS)
    policy = read_policy(settings.rights.policy)
    places = pl.concat([examples["source_uri"].drop_nulls(), _addresses(examples)["source_uri"]]).unique()
    signalled = _verdicts(where, places.to_list(), use, day)
    optouts = in_force(read_optouts(store), day)
    disputes = open_on(store.read_table(frozen.disputes.key), day) if frozen.disputes else None
    copied = copies_withheld(where, frozen, optouts)
    terms = _for_use(read_rights(store, frozen), policy, use)
    clearance = clear(examples, terms, optouts, signalled, use, disputes=disputes, copied=copied)
    facts: dict[str, Any] = {
        "use": use,
        "day": str(day),
        "corpus": frozen.digest,
        "policy": sha256(settings.rights.policy.read_bytes()),
        "clearance": digest(clearance.rows()),
        "code_version": code_version(),
    }
    return cleared_manifest(examples, clearance, facts), clearance


def write_manifest(where: Where, *, use: str, day: date) -> tuple[str, Manifest, pl.DataFrame]:
    """Write the manifest of the corpus in force, unless it exists; returns its key, itself and the clearance.

    Keeps the codes by which copies are found, from the first opt-out on.
    """
    corpus = corpus_in_force(where.store)
    if not in_force(read_optouts(where.store), day).is_empty():
        keep_codes(where, [corpus, *_others(where.store, corpus)])
    manifest, clearance = make_manifest(where, use=use, day=day)
    data = manifest.as_bytes()
    key = f"{records.ROOT}/manifests/{use}/day={day}/{sha256(data)[:32]}.json"
    where.store.create(key, data)
    return key, manifest, clearance


def left_out(clearance: pl.DataFrame) -> pl.DataFrame:
    """The works that are not cleared: `work_id, because`."""
    return clearance.filter(~pl.col("cleared")).select("work_id", because=pl.col("because").list.join("; ")).sort("work_id")


def clear_today(where: Where) -> str:
    """Stage `rights.manifest`: write the training manifest of today (UTC); returns its key."""
    key, manifest, _ = write_manifest(where, use=TRAIN, day=datetime.now(UTC).date())
    log.info("training manifest %s: %s, left out: %s", key, manifest.facts["cleared"], manifest.facts["left_out"])
    return key


def check_manifest(where: Where, data: bytes, file: str) -> Manifest:
    """Read a manifest and check that it lists exactly the works of its corpus cleared on its day, as known now.

    Args:
        file: place of the data, for errors.

    Raises:
        InputError: it is no manifest, or lacks facts for the check.
        CheckFailed: it lists other works or examples, or its facts differ.
    """
    manifest = read_manifest(data, file)
    try:
        facts = {name: str(manifest.facts[name]) for name in ("use", "day", "corpus")}
    except KeyError as error:
        hint = "What a training run states has none of these, and is checked by the night."
        raise InputError(file, expected="use, day and corpus", found=f"no {error.args[0]}", hint=hint) from None
    day = parse_day(f"{file}: day", facts["day"])
    corpus = find_frozen(where.store, facts["corpus"], f"{file}: corpus")
    remade, clearance = make_manifest(where, use=facts["use"], day=day, corpus=corpus)
    reasons = dict(clearance.select("work_id", "because").iter_rows())
    problems = [f"{work}: not of the corpus" for work in sorted(manifest.works.keys() - reasons.keys())]
    problems += [
        f"{work}: {'; '.join(reasons[work])}" for work in sorted(manifest.works.keys() & reasons.keys() - remade.works.keys())
    ]
    problems += [f"{work}: cleared, and not in it" for work in sorted(remade.works.keys() - manifest.works.keys())]
    shared = sorted(remade.works.keys() & manifest.works.keys())
    problems += [f"{work}: other examples" for work in shared if remade.works[work] != manifest.works[work]]
    # If works differ, counts and digests differ as well.
    names = [] if problems else sorted({*manifest.facts, *remade.facts} - CIRCUMSTANCES)
    problems += [f"{name} differs" for name in names if manifest.facts.get(name) != remade.facts.get(name)]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckFailed(f"{file}: {'; '.join(problems[:5])}{more}")
    return manifest


def copies_withheld(where: Where, corpus: FrozenCorpus, optouts: pl.DataFrame) -> pl.DataFrame:
    """Whole copies of works that owners opted out of, in this or any stored corpus, as `work_id, original`.

    Contents are the same by their bytes, or by their ISCC (`content_codes`): a picture that was saved again is a copy.
    """
    if optouts.is_empty():
        return pl.DataFrame(schema={"work_id": pl.String, "original": pl.String})
    store = where.store
    opted_out = pl.col("work_id").is_in(optouts["work_id"].unique().implode())
    examples, others = _dated(store, corpus), _others(store, corpus)
    originals = pl.concat([dated.filter(opted_out) for dated in (examples, *(_dated(store, other) for other in others))])
    theirs = pl.col("content_sha256").is_in(originals["content_sha256"].unique().implode())
    codes = read_codes(where, [corpus])
    coded = pl.concat([codes, read_codes(where, others)]).filter(theirs).unique("content_sha256", keep="first")
    same = same_contents(codes, coded)
    if same:
        examples = examples.with_columns(pl.col("content_sha256").replace(same))
    return copies(examples, originals)


def _others(store: Store, corpus: FrozenCorpus) -> list[FrozenCorpus]:
    """The other stored corpora."""
    return [load_frozen(store, name) for name in corpora(store) if name != corpus.digest]


def _dated(store: Store, corpus: FrozenCorpus) -> pl.DataFrame:
    """The examples of a corpus as `work_id, content_sha256, since`; undated claims begin with the calendar."""
    examples = read_examples(store, corpus, "work_id", "content_sha256", "acquired_at")
    claims = store.read_table(corpus.claims.key, columns=["work_id", "valid_from"])
    always = claims.with_columns(pl.col("valid_from").fill_null(date.min))
    return since(examples, always).select("work_id", "content_sha256", "since")


def read_rights(store: Store, corpus: FrozenCorpus) -> pl.DataFrame | None:
    """The rights table of a corpus; None for corpora frozen before terms were judged."""
    return store.read_table(corpus.rights.key) if corpus.rights else None


def _for_use(rights: pl.DataFrame | None, policy: RightsPolicy, use: str) -> pl.DataFrame | None:
    """The rights table with quarantine by the current policy and for a use; ingesting judges training alone."""
    if use not in USES:
        raise InputError("use", expected=f"one of {', '.join(USES)}", found=repr(use), hint=did_you_mean(use, USES))
    if rights is None:
        return None
    refused = {name: policy.refusal(name, use) for name in rights["licence_class"].unique()}
    return rights.with_columns(quarantine=pl.col("licence_class").replace_strict(refused, return_dtype=pl.String))


def _verdicts(where: Where, uris: Iterable[str], use: str, day: date) -> pl.DataFrame:
    """The verdicts of signals known by the end of a day on a use; empty if none were collected."""
    until = datetime.combine(day, time.min, UTC) + timedelta(days=1)
    signals = records.read(where.store, SIGNALS, known=until)
    read = set(signals["about"].unique())
    uris = [uri for uri in uris if not uri.startswith(CONTENT) or uri in read]  # nearly all files say nothing
    return verdicts(signals, uris, use, now=until, days=where.settings.signals.days)
