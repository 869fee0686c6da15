"""Counterfactual models: trained once each, whatever happens on the way, and none that is not what it says."""

import json
import shutil
import sys
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from killing import Killed, dying
from samples import corpus_frames, lay_corpus_out, reword

from provenance.core.errors import ContractError, ModelError, StoreError
from provenance.core.store import Store, canonical_json, sha256
from provenance.inputs.freeze import freeze
from provenance.inputs.night import load_night
from provenance.local.attribute import bring, local_settings
from provenance.models import counterfactuals
from provenance.models.adapters.causal_lm import CausalLM
from provenance.models.counterfactuals import MANIFEST, add, in_use, planned, read_record, records, subject_of, summary, train
from provenance.models.model import read_model
from provenance.validation import retention as gc
from tasks.lineage.io import DATASETS, Done, flow
from tasks.settings import load

DAY = date(2026, 11, 20)
KEPT = ("counterfactuals", "frozen/models")


def opened(folder, model, out, *, copies=True):
    """A model and a corpus folder, with a store of their own; and its settings."""
    settings = local_settings(device="cpu", workers=1).at(out, model)
    return subject_of(settings, folder / "corpus", model, DAY, copies=copies), settings


def everything(store, *prefixes):
    return {key: sha256(store.read(key)) for prefix in prefixes for key in store.list(prefix)}


def edited(file, old, new):
    return lambda folder: reword(folder / file, old, new)


@pytest.fixture(scope="module")
def laid_out(tiny_set):
    """Where the corpus lies, and the set that was trained on it."""
    return tiny_set.parent


@pytest.fixture(scope="module")
def trained(laid_out, tiny_model):
    """A set that is worth three trainings, five owners each alone and two pairs; which trainings, and the settings."""
    subject, settings = opened(laid_out, tiny_model, laid_out / "set")
    return subject, planned(subject, 3), settings


def test_a_training_is_on_the_works_of_its_part_and_kept_with_what_it_saw(trained):
    subject, trainings, _ = trained
    examples = subject.read("work_id", "content_sha256")
    assert sorted(record.name for record in records(subject.store, subject.model)) == sorted(each.name for each in trainings)
    for training in trainings:
        record = read_record(subject.store, subject.model, training.name)
        assert all(getattr(record, name) == getattr(training.part, name) for name in counterfactuals.PLANNED)
        given = examples[list(training.examples)].group_by("work_id").agg("content_sha256")
        manifest = counterfactuals.trained_on(subject.store, record)
        assert {work: sorted(saw) for work, saw in manifest.works.items()} == {w: sorted(saw) for w, saw in given.iter_rows()}
        assert manifest.facts == {"seed": record.seed}


def test_of_a_model_the_base_and_the_end_are_kept(trained, tiny_model, tmp_path):
    subject, trainings, _ = trained
    record = read_record(subject.store, subject.model, trainings[0].name)
    kept = read_model(subject.store.fetch(f"frozen/models/{record.folder}", record.files, tmp_path / "kept"))
    served = read_model(tiny_model)
    base, last = kept.card.checkpoints
    assert (base.step, last.file) == (0, record.checkpoint)
    assert kept.architecture() == served.architecture()
    assert kept.card.training.epochs == served.card.training.epochs
    assert {file for file in kept.files if file.endswith(".safetensors")} == {base.file, last.file}


def test_run_again_it_trains_nothing_and_more_trainings_leave_what_is_there(trained, monkeypatch):
    subject, trainings, settings = trained
    before = everything(subject.store, *KEPT)
    monkeypatch.setattr(counterfactuals, "train_model", None)
    assert train(subject, trainings, settings) == 0
    assert everything(subject.store, *KEPT) == before
    more = planned(subject, 5)
    assert more[: len(trainings)] == trainings
    lacking = counterfactuals.missing(subject, more)
    assert {each.name for each in lacking} == {each.name for each in more[9:]}
    assert lacking == sorted(lacking, key=lambda each: -len(each.examples)), "the longest first"


def test_wherever_it_stops_the_same_command_ends_with_the_same_set(trained, laid_out, tiny_model, tmp_path):
    expected, trainings, _ = trained
    subject, settings = opened(laid_out, tiny_model, tmp_path / "again")
    assert (subject.model, subject.corpus) == (expected.model, expected.corpus)
    for count in (0, 4, 5, 23):
        with dying(count, KEPT), pytest.raises(Killed):
            train(subject, trainings, settings)
    assert 0 < len(records(subject.store, subject.model)) < len(trainings)
    train(subject, trainings, settings)
    assert everything(subject.store, *KEPT) == everything(expected.store, *KEPT), "names, and every byte"


def test_a_name_says_recipe_works_and_seed(trained, laid_out, tiny_model, tmp_path):
    _, trainings, _ = trained
    names = [training.name for training in trainings]
    assert [training.name for training in planned(opened(laid_out, tiny_model, tmp_path / "same")[0], 3)] == names
    other = tmp_path / "model"
    shutil.copytree(tiny_model, other)
    edited("model.toml", "epochs = 8\n", "epochs = 9\n")(other)
    changed = planned(opened(laid_out, other, tmp_path / "other")[0], 3)
    assert [training.part for training in changed] == [training.part for training in trainings]
    assert not {training.name for training in changed} & set(names)


def test_a_work_goes_with_whoever_has_the_largest_part_and_a_copy_with_its_original(tmp_path, tiny_model):
    frames = corpus_frames()
    content = frames["examples"]["content"].to_list()
    at = {work: frames["examples"]["work_id"].to_list().index(work) for work in ("work-2-0", "work-3-0")}
    content[at["work-2-0"] : at["work-2-0"] + 3] = content[at["work-3-0"] : at["work-3-0"] + 3]
    since = pl.when(pl.col("owner_id") == "owner-3").then(pl.date(2020, 1, 1)).otherwise(pl.date(2024, 1, 1))
    frames["examples"] = frames["examples"].with_columns(content=pl.Series(content))
    frames["claims"] = frames["claims"].with_columns(valid_from=since)
    lay_corpus_out(tmp_path, frames)
    whose = {}
    for copies in (True, False):
        subject, _ = opened(tmp_path, tiny_model, tmp_path / f"set-{copies}", copies=copies)
        table = counterfactuals.owner_of_examples(subject).group_by("work_id").agg(pl.col("owner").unique().sort())
        whose[copies] = dict(table.iter_rows())
    assert all(len(owners) == 1 for owners in whose[False].values())
    expected = {"work-0-0": "payable/owner-0", "work-4-0": "escrow/unmatched-somebody", "work-2-0": "payable/owner-2"}
    assert {work: whose[False][work] for work in expected} == {work: [owner] for work, owner in expected.items()}
    assert whose[True]["work-2-0"] == ["payable/owner-3"], "who claimed it first"


def test_one_owner_cannot_be_left_out(tmp_path, tiny_model):
    frames = corpus_frames(owners=2)
    alone = frames["examples"].filter(pl.col("owner_id").is_null() & (pl.col("work_id") != "work-0-0"))
    lay_corpus_out(tmp_path, {"examples": alone, "claims": frames["claims"].filter(pl.col("work_id") != "work-0-0")})
    subject, _ = opened(tmp_path, tiny_model, tmp_path / "set")
    with pytest.raises(ContractError, match=r"counterfactual models: expected works of at least 2 owners, .*found 1 owner"):
        planned(subject, 3)


def test_a_model_that_nobody_can_train_is_named(trained, monkeypatch):
    subject, trainings, settings = trained
    monkeypatch.delattr(CausalLM, "train")
    wanted = r"adapter CausalLM: expected a method train\(contents, \*, seed, folder\), or \[training\] command .*neither"
    with pytest.raises(ModelError, match=wanted):
        train(subject, trainings, settings)


# Models that somebody else has trained.


@pytest.fixture(scope="module")
def elsewhere(trained, tmp_path_factory):
    """Folders of models as somebody else would have them."""
    subject, trainings, _ = trained
    folder = tmp_path_factory.mktemp("elsewhere")
    for training in trainings[5:]:
        record = read_record(subject.store, subject.model, training.name)
        subject.store.fetch(f"frozen/models/{record.folder}", record.files, folder / training.part.name)
    return folder


@pytest.fixture
def brought(elsewhere, laid_out, tiny_model, tmp_path):
    """The same, to be spoiled by a test; and an empty set."""
    shutil.copytree(elsewhere, tmp_path / "brought")
    return sorted((tmp_path / "brought").iterdir()), opened(laid_out, tiny_model, tmp_path / "set")[0]


def test_folders_that_were_trained_elsewhere_are_brought_along_once_each_a_partition_of_its_own(brought):
    folders, subject = brought
    made = add(subject, folders[:2])
    assert add(subject, folders[1:])[0] == made[1]
    before, found = everything(subject.store, *KEPT), records(subject.store, subject.model)
    assert sorted(record.name for record in add(subject, folders)) == [record.name for record in found]
    assert everything(subject.store, *KEPT) == before
    assert {(record.stratum, record.aside) for record in found} == {("brought", False)}
    assert len({record.partition for record in found}) == len(found) == 4
    assert sorted(row["examples"] for row in summary(subject.store, subject.model)) == [24, 25, 35, 36]
    assert in_use(subject) == {record.name: record.folder for record in found}


def test_a_model_that_the_set_has_already_does_not_count_twice(trained, elsewhere):
    """It would be left out and predicted by itself, and no check could fail."""
    subject, before = trained[0], everything(trained[0].store, *KEPT)
    with pytest.raises(ModelError, match=r"expected a model that the set does not have yet, found the weights of \w{12}"):
        add(subject, sorted(elsewhere.iterdir()))
    assert everything(subject.store, *KEPT) == before


def lists(work, contents):
    """A manifest that lists more of a work, by default its first one, than the model was trained on."""

    def edit(folder):
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["works"].setdefault(work or min(manifest["works"]), []).extend(contents)
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return edit


def other_half(folder):
    """The manifest of the other half: works that are in the corpus, but that this model never saw."""
    there = next(other for other in folder.parent.iterdir() if other.name[:8] == folder.name[:8] and other != folder)
    shutil.copyfile(there / MANIFEST, folder / MANIFEST)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            edited("model.toml", '"CausalLM"', '"EventSequence"'),
            "key 'adapter': expected 'CausalLM', the value .* found 'Event",
        ),
        (edited("model.toml", "epochs = 8\n", "epochs = 9\n"), r"adapter_args.epochs: expected 8, the value .* found 9"),
        (edited("model.toml", "decay = 0.01", "decay = 0.5"), "training.weight_decay: expected 0.01, .* found 0.5"),
        (
            edited("config.json", "1e-06", "1e-03"),
            "expected the architecture of the model .* different config.json",
        ),
        (
            lists("work-9-9", ["0" * 64, "1" * 64]),
            "expected works on which .*found work 'work-9-9': 2 of its 2 examples are not",
        ),
        (lists("", ["0" * 64]), r"expected works on which .*found work 'work-\S+': 1 of its \d examples are not there"),
        (edited("model.toml", 'manifest = "manifest.json"\n', ""), "training.manifest: expected 'manifest.json', .*found None"),
        (other_half, r"manifest.json: expected a model that was trained on the works listed, found one that knows the rest"),
    ],
)
def test_a_model_that_is_not_what_it_should_be_is_refused_by_name(brought, spoil, message):
    folders, subject = brought
    spoil(folders[1])
    with pytest.raises(ModelError, match=message):
        add(subject, folders)
    assert records(subject.store, subject.model) == [], "all or none"


def test_a_lone_model_that_was_brought_has_nothing_to_be_compared_with(brought):
    folders, subject = brought
    with pytest.raises(ModelError, match=r"expected other models trained on about as much, .* 0 others"):
        add(subject, folders[:1])
    assert records(subject.store, subject.model) == []


def test_of_another_recipe_no_record_is_used(trained, monkeypatch):
    subject, _, _ = trained
    first, *others = records(subject.store, subject.model)
    assert len(in_use(subject)) == 9
    other = [*others, first.model_copy(update={"made_of": "another recipe"})]
    monkeypatch.setattr(counterfactuals, "records", lambda store, served: other)
    with pytest.raises(ModelError, match=r"json: expected recipe \w{12} of the model served, found another.*Remove it"):
        in_use(subject)


def test_models_of_another_corpus_do_not_count_and_the_log_says_how_many(trained, monkeypatch, caplog):
    subject, _, _ = trained
    works = counterfactuals.works_served(subject)
    gone = next(work for work in works if work.startswith("work-3"))
    monkeypatch.setattr(counterfactuals, "works_served", lambda subject: {w: c for w, c in works.items() if w != gone})
    found = [read_record(subject.store, subject.model, name) for name in in_use(subject)]
    assert 0 < len(found) < 9
    assert not any(gone in counterfactuals.trained_on(subject.store, record).works for record in found)
    assert f"{9 - len(found)} of 9 are of another corpus and do not count" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"partition": "a"}, r"\.json: partition: expected a valid integer, found 'a'"),
        ({"more": 1}, r"\.json: more: expected one of served, .*, found 'more'"),
        ({"checkpoint": "gone.safetensors"}, r"\.json: expected gone.safetensors among files, found "),
        ({"folder": "0" * 64}, r"\.json: expected files of the folder 0{64}, found "),
    ],
)
def test_a_record_that_was_changed_is_refused_by_name(trained, tmp_path, change, message):
    subject, _, _ = trained
    target = Store(f"file://{tmp_path}/target", {})
    counterfactuals.copy_set(subject.store, target, subject.model)
    record = records(target, subject.model)[0]
    target.write(record.key, canonical_json(record.model_dump() | change))
    with pytest.raises(StoreError, match=message):
        records(target, subject.model)


def test_a_night_takes_the_set_that_it_was_given_and_no_other(trained, tmp_path):
    subject, _, _ = trained
    place = tmp_path / "few"
    few = Store(f"file://{place}", {})
    counterfactuals.copy_set(subject.store, few, subject.model)
    few.remove_all([record.key for record in records(few, subject.model)[:3]])
    assert len(bring(place, subject)) == 6


def test_what_a_model_saw_is_not_believed_if_it_was_changed_since(trained):
    subject, _, _ = trained
    record = records(subject.store, subject.model)[0]
    changed = record.model_copy(update={"files": {**record.files, MANIFEST: "0" * 64}})
    with pytest.raises(ModelError, match=rf"{MANIFEST}: expected SHA-256 0{{64}}, found"):
        counterfactuals.trained_on(subject.store, changed)


def test_a_set_is_copied_whole_and_a_file_that_is_another_is_refused(trained, tmp_path):
    subject, trainings, _ = trained
    target = Store(f"file://{tmp_path}/target", {})
    assert len(counterfactuals.copy_set(subject.store, target, subject.model)) == len(trainings)
    assert everything(target, "counterfactuals") == everything(subject.store, "counterfactuals")
    assert everything(target, "frozen/models").items() <= everything(subject.store, "frozen/models").items()
    record = records(target, subject.model)[0]
    target.write(f"frozen/models/{record.folder}/{MANIFEST}", b"{}")
    with pytest.raises(ModelError, match=rf"{MANIFEST}: expected SHA-256 \w+, as its record says, found"):
        counterfactuals.copy_set(target, Store(f"file://{tmp_path}/other", {}), subject.model)


# Models that a command trains.

TRAINER = """
import json, pathlib, shutil, sys
works, seed, out = sys.argv[1:]
print("training with seed", seed)
if seed == "13":
    sys.exit("this seed is unlucky")
pathlib.Path(out).mkdir()
if seed != "14":
    shutil.copy("model.toml", out)
shutil.copy(pathlib.Path(works) / "examples.parquet", out)
(pathlib.Path(out) / "asked.json").write_text(json.dumps([seed, str(pathlib.Path.cwd())]))
"""


@pytest.fixture
def by_command(tiny_model, tmp_path):
    """A model folder whose card names a command."""
    folder = tmp_path / "commanded"
    shutil.copytree(tiny_model, folder)
    (folder / "train.py").write_text(TRAINER)
    command = json.dumps([sys.executable, "train.py", "{works}", "{seed}", "{out}"])
    edited("model.toml", "[training]\n", f"[training]\ncommand = {command}\n")(folder)
    return folder


WORKS = pl.DataFrame({"work_id": ["a", "b"], "content": [b"one", b"two"]})


def test_a_command_is_run_in_the_model_s_folder_with_works_seed_and_where_to_write(by_command, tmp_path):
    out = tmp_path / "scratch/model"
    out.parent.mkdir()
    counterfactuals.train_model(read_model(by_command), WORKS, seed=7, folder=out)
    assert json.loads((out / "asked.json").read_text()) == ["7", str(by_command)]
    assert pl.read_parquet(out / "examples.parquet").equals(WORKS)


@pytest.mark.parametrize(
    ("program", "seed", "message"),
    [
        (sys.executable, 13, r"expected exit code 0, found 1; .*: training with seed 13 \| this seed is unlucky"),
        (sys.executable, 14, r"expected a model folder, written to \{out\}, found no model.toml there"),
        ("no-such-program", 1, r"expected a command that can be run, found no-such-program: .*No such file"),
        ("{corpus}", 1, r"expected only the placeholders {works}, .*, found '\{corpus\}'"),
        ("{works.name}", 1, r"expected only the placeholders {works}, .*, found '\{works.name\}'"),
        ("{", 1, r"expected only the placeholders {works}, .*, found '\{'"),
    ],
)
def test_a_command_that_fails_is_told_with_its_last_words(by_command, tmp_path, program, seed, message):
    edited("model.toml", json.dumps(sys.executable), json.dumps(program))(by_command)
    with pytest.raises(ModelError, match=rf"model.toml: \[training\] command: {message}"):
        counterfactuals.train_model(read_model(by_command), WORKS, seed=seed, folder=tmp_path / "model")


@pytest.fixture
def commanded(by_command, laid_out, tmp_path, monkeypatch):
    """A set that a command trains, which runs in this process; and a list of what else than its works it trains on."""
    others = []

    def run(model, works, *, seed, folder):
        model.adapter().train((others or [works])[0]["content"].to_list(), seed=seed, folder=folder)

    monkeypatch.setattr(counterfactuals, "run_command", run)
    subject, settings = opened(laid_out, by_command, tmp_path / "set")
    return subject, planned(subject, 3), settings, others


def test_models_that_a_command_trains_count_once_the_whole_set_was_checked(commanded, monkeypatch):
    subject, trainings, settings, _ = commanded
    names = [each.name for each in trainings]
    assert train(subject, trainings, settings, only=names[:5]) == 5
    assert in_use(subject) == {}
    with monkeypatch.context() as patch:
        patch.setattr(counterfactuals, "check_seen", lambda subject, asked: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(subject, trainings, settings)
    assert in_use(subject) == {}, "trained and killed before they were checked"
    assert {each.name for each in counterfactuals.missing(subject, trainings)} == set(names)
    monkeypatch.setattr(counterfactuals, "run_command", None)
    assert train(subject, trainings, settings, only=names[:1]) == 0, "nothing is trained again"
    found = records(subject.store, subject.model)
    assert {record.name for record in found} == set(in_use(subject)) == set(names)
    assert all("train.py" in record.files for record in found), "what the command left out is the model's own"


def test_a_command_that_trains_on_other_works_than_it_was_given_is_found_out(commanded):
    subject, trainings, settings, others = commanded
    others.append(subject.read("content"))
    with pytest.raises(ModelError, match=r"expected a model that was trained on the works listed, found one that knows"):
        train(subject, trainings, settings)
    assert records(subject.store, subject.model, unchecked=True) == []


# By the command line, and by Airflow.


def test_the_commands_train_add_and_list(laid_out, tiny_model, elsewhere, tmp_path, shown):
    command, listing = "counterfactuals", ("counterfactuals", "list", str(tmp_path / "set"))
    base = ("--corpus", str(laid_out / "corpus"), "--model", str(tiny_model), "--out", str(tmp_path / "set"))
    train = (command, "train", *base, "--trainings", "2", "--workers", "1")
    assert "7 counterfactual models: 5 small, 2 pair" in shown(*train)
    rows = shown(*train, "--json")
    assert [row["stratum"] for row in rows] == ["small"] * 5 + ["pair"] * 2
    assert sum(row["examples"] for row in rows) == 120, "two trainings on everything"
    added = shown(command, "add", *map(str, sorted(elsewhere.glob("pair-002-*"))), *base, "--json")
    assert [row["stratum"] for row in added][7:] == ["brought"] * 2
    assert shown(*listing, "--json") == added
    assert "9 counterfactual models: 5 small, 2 pair, 2 brought" in shown(*listing)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("train", "--corpus", ".", "--out", "set"),
            "expected --corpus, --model and --out together, or none of them, found no --model",
        ),
        (("list", "nowhere"), "nowhere: expected a folder that `provenance counterfactuals train --out` wrote"),
    ],
)
def test_folders_are_named_together_or_not_at_all(refused, words, message):
    assert message in refused("counterfactuals", *words)


@pytest.fixture
def in_force(ingested):
    """A corpus and a model that nights take now."""
    ingested(COUNTERFACTUALS__TRAININGS="3", COUNTERFACTUALS__GROUPS="2", CORPUS__SHARD_EXAMPLES="60")
    return counterfactuals.subject_in_force()[0]


def test_airflow_trains_what_is_missing_in_groups_of_about_the_same_work(in_force):
    groups = counterfactuals.plan_missing()
    assert [len(names) for names in groups] == [5, 4]
    sizes = {each.name: len(each.examples) for each in planned(in_force, 3)}
    first, second = (sum(sizes[name] for name in names) for names in groups)
    assert abs(first - second) <= 36
    assert counterfactuals.train_named(groups[1]) == 4
    assert {name for names in counterfactuals.plan_missing() for name in names} == set(groups[0])
    assert counterfactuals.train_named([*groups[0], *groups[1]]) == 5
    assert counterfactuals.plan_missing() == []


def test_a_night_takes_the_models_that_are_there_and_housekeeping_keeps_them(in_force, store, own_logs):
    assert load_night(store, freeze("2026-11-19")).counterfactuals == {}
    counterfactuals.train_named([name for names in counterfactuals.plan_missing() for name in names])
    night = load_night(store, freeze("2026-11-19"))
    found = records(store, in_force.model)
    assert night.counterfactuals == {record.name: record.folder for record in found}
    assert len(found) == 9
    reads, writes = flow("counterfactuals.train", Done(load(), store, {}, 9))
    assert [dataset.name for dataset in reads] == ["frozen/corpus"]
    assert writes == DATASETS["counterfactuals"](Done(load(), store, {"night": night.folder}, None))
    before = everything(store, *KEPT)
    gc.collect(now=datetime.now(UTC) + timedelta(days=59))
    assert everything(store, *KEPT) == before
    gc.collect(now=datetime.now(UTC) + timedelta(days=3000))
    assert everything(store, *KEPT) == {}, "no night and no model in use names them"
