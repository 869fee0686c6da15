"""Housekeeping: protected files stay, removals are recorded, and a night that runs again is the same night."""

import os
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import stages
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import Killed, dying
from samples import DAY, outputs_frame

from provenance.core.errors import SettingsError, StoreError
from provenance.core.locks import clearing, freezing
from provenance.core.settings import RetentionSettings
from provenance.core.store import Stored
from provenance.corpus import pieces
from provenance.corpus.ngrams import FOLDER as NGRAMS
from provenance.inputs.night import REMOVED
from provenance.validation import retention as gc
from provenance.validation.retention import Seen, SeenNight, decide
from tasks.settings import load
from tasks.where import log_folders, opened

NOW = datetime(2029, 1, 1, tzinfo=UTC)
DAYS = timedelta(days=1)
POLICY = RetentionSettings(nights=60, features=30, replay=400, logs=90, grace=48)
# Never removed at any age.
UNTOUCHABLE = (
    "store.json", "corpus/examples.parquet", "outputs/day=2026-01-01/part.parquet", "exports/keys/ab.pem",
    "exports/payouts/day=2026-01-01/rev=0001/payouts.csv", "exports/payouts/day=2026-01-01/rev=0001/manifest.json",
    "exports/payouts/day=2026-01-01/current.json", "exports/periods/period=2026-01/closing/closing.csv",
    "exports/statements/period=2026-01/owner=a/statement.pdf", "bank/period=2026-01/m.xml", "bank/answers/a.xml",
    "rights/optouts/20260101T000000000000Z-ab.parquet", "rights/manifests/train/day=2026-01-01/ab.json", "rights/raw/ab",
    "appeals/ab/report.json", "audits/current.json", "audits/ab/lds.json", "audits/truth/ab.parquet",
    "frozen/corpus/current.json", "frozen/corpus/.current.json.lock",
)  # fmt: skip
FILES = (
    "plan.json", "scores.json", "influence/earliest-000000.safetensors", "queries/000000-0.safetensors", "likelihoods.json",
    "party_influence.parquet", "estimate.json", "shares.json", "shares.parquet",
)  # fmt: skip
AGES = st.sampled_from([0, 1, 3, 29, 31, 59, 61, 399, 401, 1000])
NAMES = st.frozensets(st.sampled_from("abcdef"), max_size=4)
KINDS = ("features", "statistics", "curvature", "likelihoods", "snapshots", "sketches", "frozen/parts", NGRAMS)


@st.composite
def stores(draw):
    """A store with some nights that share inputs, and objects of any age."""
    corpora = {name: frozenset(f"frozen/parts/{part}.parquet" for part in draw(NAMES)) for name in "uvw"}
    objects = [Stored(key, 1, NOW - 2000 * DAYS) for key in UNTOUCHABLE]
    nights = {}
    for number in range(draw(st.integers(0, 5))):
        folder, age = f"nights/day=2026-01-0{number + 1}/{number}", draw(AGES)
        booked = draw(st.booleans())
        outputs = frozenset(f"frozen/parts/{part}.parquet" for part in draw(NAMES))
        there = draw(st.sets(st.sampled_from(FILES)))
        features = frozenset(f"{kind}/{name}.safetensors" for kind in ("features", "curvature") for name in draw(NAMES))
        likelihoods = frozenset(f"likelihoods/{name}.parquet" for name in draw(NAMES))
        planned, sample = "plan.json" in there, frozenset({f"frozen/parts/{draw(st.sampled_from('abcdef'))}.parquet"})
        nights[folder] = SeenNight(
            frozen_at=NOW - age * DAYS, booked=booked, standing=booked and draw(st.booleans()),
            corpus=draw(st.sampled_from("uvw")), model=draw(st.sampled_from("mn")), outputs=outputs,
            sample=sample if planned else frozenset(), features=features if planned else None,
            likelihoods=likelihoods if "likelihoods.json" in there else None, counterfactuals=draw(NAMES),
            base=draw(st.sampled_from([None, "p", "q"])),
        )  # fmt: skip
        objects.append(Stored(f"{folder}/inputs.json", 1, NOW - age * DAYS))
        objects += [Stored(f"{folder}/{name}", 1, NOW - draw(st.sampled_from([0, 1, age])) * DAYS) for name in sorted(there)]
    for kind in KINDS:
        suffix = "parquet" if kind in {"frozen/parts", "likelihoods", NGRAMS} else "safetensors"
        objects += [Stored(f"{kind}/{name}.{suffix}", 1, NOW - draw(AGES) * DAYS) for name in sorted(draw(NAMES))]
    objects += [Stored(f"frozen/corpus/{name}.json", 1, NOW - draw(AGES) * DAYS) for name in sorted(corpora)]
    objects += [Stored(f"frozen/models/{name}/model.toml", 1, NOW - draw(AGES) * DAYS) for name in "mnoabcdefpqr"]
    for served in "mno":
        models = sorted(draw(NAMES))
        objects += [Stored(f"counterfactuals/{served}/{name}.json", 1, NOW - draw(AGES) * DAYS) for name in models]
    objects += [Stored(f"exports/.payouts.csv.{'0' * 32}", 1, NOW - draw(AGES) * DAYS)]
    return Seen(tuple(objects), nights, corpora, draw(st.sampled_from("uvw")), recorded(objects))


def recorded(objects):
    """The folders of counterfactual models by the model served; each has the name of its record. Those of `m` stand on `r`."""
    keys = [o.key.split("/") for o in objects if o.key.startswith("counterfactuals/")]
    named = {served: {n.removesuffix(".json") for _, s, n in keys if s == served} for served in {k[1] for k in keys}}
    return {served: frozenset(names | ({"r"} if served == "m" else set())) for served, names in named.items()}


def protected(seen):
    """Keys that must stay, computed independently of the code."""
    age = {folder: (NOW - night.frozen_at) / DAYS for folder, night in seen.nights.items()}
    inside = {folder: [o for o in seen.objects if o.key.startswith(f"{folder}/")] for folder in seen.nights}
    busy = {f for f, files in inside.items() if any(NOW - o.modified < 2 * DAYS for o in files if not o.key.endswith(REMOVED))}
    whole = {f for f, night in seen.nights.items() if night.standing or age[f] < 60 or f in busy}
    read = whole | {f for f, night in seen.nights.items() if night.booked and age[f] < 400}
    keys = {*UNTOUCHABLE, *(o.key for o in seen.objects if NOW - o.modified < 2 * DAYS)}
    keys |= {o.key for f in whole for o in inside[f]} | {f"{f}/inputs.json" for f in read}
    for folder in read:
        night = seen.nights[folder]
        keys |= {f"frozen/corpus/{night.corpus}.json", *seen.corpora[night.corpus], *night.outputs}
        keys |= {f"frozen/models/{name}/model.toml" for name in {night.model, night.base, *night.counterfactuals} if name}
        keys |= night.sample if folder in whole else set()
    # Counterfactual models stay with their model served, and for a while before the first night that uses them.
    served = {seen.nights[folder].model for folder in read}
    records = [o for o in seen.objects if o.key.startswith("counterfactuals/")]
    served |= {o.key.split("/")[1] for o in records if NOW - o.modified < 60 * DAYS}
    for model in served:
        keys |= {f"frozen/models/{model}/model.toml", *(o.key for o in records if o.key.split("/")[1] == model)}
        keys |= {f"frozen/models/{name}/model.toml" for name in seen.counterfactuals.get(model, ())}
    keys |= {f"frozen/corpus/{seen.in_force}.json", *seen.corpora[seen.in_force]}
    corpora = {seen.in_force, *(seen.nights[folder].corpus for folder in read)}
    keys |= {part.replace("frozen/parts", NGRAMS) for name in corpora for part in seen.corpora[name]}
    for folder, night in seen.nights.items():
        if night.standing or age[folder] < 30 or folder in busy:
            computed = (night.features, ("features/", "statistics/", "curvature/")), (night.likelihoods, ("likelihoods/",))
            for names, kinds in computed:
                keys |= {o.key for o in seen.objects if o.key.startswith(kinds)} if names is None else names
    return keys


def after(seen, gone):
    """The state after the removal of some objects."""
    objects = tuple(o for o in seen.objects if o.key not in gone)
    folders = {"/".join(k.split("/")[:3]) for k in gone if k[0] == "n"}
    objects += tuple(Stored(f"{folder}/{REMOVED}", 1, NOW) for folder in folders)
    nights = {}
    for folder, night in seen.nights.items():
        if f"{folder}/inputs.json" not in gone:
            left = replace(night, features=None, sample=frozenset()) if f"{folder}/plan.json" in gone else night
            nights[folder] = replace(left, likelihoods=None) if f"{folder}/likelihoods.json" in gone else left
    corpora = {name: parts for name, parts in seen.corpora.items() if f"frozen/corpus/{name}.json" not in gone}
    return Seen(objects, nights, corpora, seen.in_force, recorded(objects))


def collect(**how):
    """Housekeeping with the settings in force."""
    with opened() as where:
        return gc.collect(where, logs=log_folders(), **how)


def keys_of(removals):
    return [stored.key for removal in removals for stored in removal.objects]


@settings(max_examples=200)
@given(stores(), st.data())
def test_protected_files_stay_and_after_a_kill_at_any_point_the_end_is_the_same(seen, data):
    gone = keys_of(decide(seen, POLICY, NOW))
    assert len(set(gone)) == len(gone)
    assert not protected(seen) & set(gone)
    assert decide(after(seen, set(gone)), POLICY, NOW) == []
    killed = after(seen, set(gone[: data.draw(st.integers(0, len(gone)))]))
    rest = keys_of(decide(killed, POLICY, NOW))
    left = {o.key for o in killed.objects} - set(rest) - {f"{f}/{REMOVED}" for f in seen.nights}
    assert left == {o.key for o in seen.objects} - set(gone)


def test_the_removals_of_a_night_depend_on_its_booking():
    def seen(age, **how):
        night = SeenNight(NOW - age * DAYS, True, False, "u", "m", frozenset(), frozenset(), frozenset(), frozenset())
        folder = "nights/day=2026-01-01/n"
        objects = [Stored(f"{folder}/{name}", 5, NOW - age * DAYS) for name in ("inputs.json", "shares.json", "shares.parquet")]
        return Seen(tuple(objects), {folder: replace(night, **how)})

    def removals(state):
        return [(r.kind, r.policy, [o.key.rsplit("/", 1)[-1] for o in r.objects], r.bytes) for r in decide(state, POLICY, NOW)]

    tables, everything = ["shares.json", "shares.parquet"], ["inputs.json", "shares.json", "shares.parquet"]
    assert removals(seen(59)) == []
    assert removals(seen(60)) == [("tables of nights", "retention.nights = 60", tables, 10)]
    assert removals(seen(400)) == [("inputs of nights", "retention.replay = 400", everything, 15)]
    assert removals(seen(60, booked=False)) == [("nights that were never booked", "retention.nights = 60", everything, 15)]
    assert removals(seen(4000, standing=True)) == []
    for_ever = POLICY.model_copy(update={"replay": 0})
    assert keys_of(decide(seen(4000), for_ever, NOW)) == keys_of(decide(seen(60), POLICY, NOW))


@pytest.mark.parametrize(("text", "message"), [
    ("features = 61", "features to be at most nights .60 days."),
    ("replay = 59", "replay to be at least nights .60 days., or 0 for ever"),
    ("grace = 721", "grace to be at most features .720 hours."),
    ("nights = 0", "greater than or equal to 1"),
])  # fmt: skip
def test_a_policy_that_contradicts_itself_is_refused(tmp_path, text, message):
    (tmp_path / "s.toml").write_text(f"[retention]\n{text}\n")
    with pytest.raises(SettingsError, match=message):
        load({"PROVENANCE_SETTINGS": str(tmp_path / "s.toml")})


def everything(store, prefix=""):
    return {stored.key: store.read(stored.key) for stored in store.describe() if stored.key.startswith(prefix)}


BEFORE = "2026-11-18"


@pytest.fixture
def two_nights(store, ingested, own_logs):
    """Two booked nights, and a third of the first day that is not booked; returns their folders."""
    ingested(days=(BEFORE, DAY))
    folders = [stages.night(day=BEFORE), stages.night(day=DAY)]
    outputs = store.read(f"outputs/day={BEFORE}/part.parquet")
    store.write_table(f"outputs/day={BEFORE}/part.parquet", outputs_frame(BEFORE, 6))
    folders.append(stages.run("inputs.freeze", BEFORE))
    store.write(f"outputs/day={BEFORE}/part.parquet", outputs)
    return folders


@pytest.mark.night
def test_a_night_run_again_after_housekeeping_is_the_same_night(two_nights, store, shown, tmp_path):
    first, last, unbooked = two_nights
    asides = [f"exports/.payouts.csv.{'a' * 32}", f".write-check-{'b' * 32}"]
    for key in asides:
        store.write(key, b"half")
    copy = tmp_path / "cache" / "no-such-model"
    copy.mkdir()
    (copy / "model.toml").write_text("x")
    published, before = everything(store, "exports/payouts"), everything(store)
    assert collect() == [], "nothing of it is old"
    later = datetime.now(UTC) + 100 * DAYS
    wanted = keys_of(collect(dry_run=True, now=later))
    assert everything(store) == before
    assert {*asides, str(copy)} <= set(wanted)
    assert not [key for key in wanted if key.startswith((last, "exports/payouts", "audits", "corpus", "outputs"))]

    # Killed several times, it ends as without a kill.
    for count in (0, 1, 5, 15):
        with dying(count), pytest.raises(Killed):
            collect(now=later)
    collect(now=later)
    assert not {*wanted} & {stored.key for stored in store.describe()}
    assert not copy.exists()
    assert collect(now=later) == [], "a second one removes nothing"
    kept = {key: data for key, data in published.items() if key not in asides}
    assert {k: v for k, v in everything(store, "exports/payouts").items() if k in published} == kept
    assert [key.rsplit("/", 1)[-1] for key in store.list(first)] == ["inputs.json", REMOVED]
    assert store.list(unbooked) == [f"{unbooked}/{REMOVED}"]
    (entry,) = store.read_json(f"{first}/{REMOVED}")["removed"]
    assert (entry["on"], entry["policy"]) == (f"{later:%Y-%m-%d}", "retention.nights = 60")
    assert {"scores.json", "influence/", "estimate.json", "shares/"} <= set(entry["names"])

    message = rf"estimate.json: .*removed by retention on {later:%Y-%m-%d} \(retention.nights = 60\)"
    with pytest.raises(StoreError, match=message):
        stages.run("settlement.book", first)
    output = outputs_frame(BEFORE)["output_id"][0]
    assert shown("explain", output, "--json")["contract"]["rule"] == "faithful", "frozen inputs are kept"
    shown("replay", BEFORE)
    assert stages.night(day=BEFORE) == first
    assert {k: v for k, v in everything(store, "exports/payouts").items() if k in published} == kept
    shown("verify", BEFORE)


@pytest.mark.night
def test_a_night_beyond_replay_says_that_it_was_removed(two_nights, store, shown, refused):
    first, last, _ = two_nights
    later = datetime.now(UTC) + 2000 * DAYS
    collect(now=later)
    assert store.list(first) == [f"{first}/{REMOVED}"]
    message = rf"removed by retention on {later:%Y-%m-%d} (retention.replay = 1096)"
    for words in (("replay", BEFORE), ("diff", BEFORE, "1", "1"), ("explain", outputs_frame(BEFORE)["output_id"][0])):
        assert message in refused(*words)
    for day in (BEFORE, DAY):
        shown("verify", day)  # published files stay valid
    assert store.exists(f"{last}/shares/000000.parquet"), "the newest is kept whole"
    shown("replay", DAY)


@pytest.mark.usefixtures("own_logs")
def test_the_command_lists_removals_and_keeps_the_rest(store, environment, shown, monkeypatch, tmp_path):
    """An empty store with rubbish in it, by the command line."""
    environment(store)
    monkeypatch.setenv("PROVENANCE_RETENTION__GRACE", "1")
    log = tmp_path / "airflow/logs/dag_id=x/run_id=y/attempt=1.log"
    log.parent.mkdir(parents=True)
    log.write_text("said")
    events = tmp_path / "lineage/2028-01-01.jsonl"
    events.parent.mkdir()
    events.write_text("{}\n")
    events.with_name("2028-12-31.jsonl").write_text("{}\n")
    keys = [f"features/{'0' * 64}.safetensors", f"sketches/.x.{'0' * 32}", "frozen/parts/y.parquet", "exports/periods/x"]
    keys.append(f"{pieces.SCRATCH}/{'1' * 32}/00000/values")
    for key in keys:
        store.write(key, b"12345")
    long_ago = time.time() - 100 * 86_400
    for path in (*(store.path(key) for key in keys), log, events):
        os.utime(path, (long_ago, long_ago))
    store.write("features/new.safetensors", b"1")
    report = shown("gc", "--dry-run", "--json")
    assert report["dry_run"]
    assert {removal["kind"]: removal["bytes"] for removal in report["removed"]} == {
        "features": 5, "frozen tables": 5, "half-written leftovers": 10, "logs": 7,
    }  # fmt: skip
    assert all(store.fs.exists(store.path(key)) for key in keys)
    assert "half-written leftovers" in shown("gc")
    assert sorted(stored.key for stored in store.describe()) == ["exports/periods/x", "features/new.safetensors", "store.json"]
    assert not (tmp_path / "airflow/logs/dag_id=x").exists()
    assert [path.name for path in events.parent.iterdir()] == ["2028-12-31.jsonl"]
    assert "Nothing is older" in shown("gc")
    assert gc.AT_ONCE <= 1000, "the most that S3 removes by one request"


def test_a_night_that_freezes_waits_for_the_end_of_a_removal(store, environment, doors):
    """A frozen input that a night reuses must not be removed before the night names it."""
    environment(store)
    engine = doors().ledger
    order = []

    def freeze():
        with freezing(engine):
            order.append("frozen")

    with clearing(engine):
        night = threading.Thread(target=freeze)
        night.start()
        time.sleep(0.3)
        order.append("cleared")
    night.join()
    assert order == ["cleared", "frozen"]
    with freezing(engine), freezing(engine):
        pass  # nights do not wait for one another
