"""Each counterfactual model is trained once, even after kills, and only checked models count."""

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from killing import Killed, dying
from polars.testing import assert_frame_equal
from safetensors.torch import load_file, save_file
from samples import corpus_frames, lay_corpus_out, reword
from trainers import corpus, tiny_llama, trainer

from provenance.core.errors import ContractError, ModelError, StoreError
from provenance.core.store import Store, canonical_json, sha256
from provenance.inputs.night import load_night
from provenance.inputs.stage import freeze
from provenance.local.attribute import copy_models
from provenance.models import counterfactual_checks, counterfactual_records, counterfactual_training
from provenance.models import trainer as commands
from provenance.models.adapters.causal_lm import CausalLM
from provenance.models.counterfactual_checks import check_works, usable_models
from provenance.models.counterfactual_records import read_record, records, summary
from provenance.models.counterfactual_training import add, missing_trainings, plan_trainings, train
from provenance.models.frozen import fetch_model
from provenance.models.model import read_model
from provenance.models.recording import Recorder
from provenance.models.stage import plan_missing, subject_in_force, train_named
from provenance.models.subject import owner_of_examples, subject_of, works_served
from provenance.models.trainer import train_model
from provenance.models.writing import MANIFEST
from provenance.validation import retention as gc
from tasks.lineage.io import DATASETS, StageRun, flow
from tasks.where import local_settings, opened

DAY = date(2026, 11, 20)
PREFIXES = ("counterfactuals", "frozen/models")


def open_subject(doors, folder, model, out, *, copies=True):
    """A subject of a model and a corpus folder in a new store, and its `Where`."""
    where = doors(local_settings(device="cpu", workers=1).at(out, model), ledger=False)
    return subject_of(where, folder / "corpus", model, DAY, copies=copies), where


def digests(store, *prefixes):
    return {key: sha256(store.read(key)) for prefix in prefixes for key in store.list(prefix)}


def edited(file, old, new):
    return lambda folder: reword(folder / file, old, new)


@pytest.fixture(scope="module")
def corpus_and_set(tiny_set):
    """A folder with a corpus, and the set of counterfactual models that was trained on it."""
    return tiny_set.parent


@pytest.fixture(scope="module")
def trained(corpus_and_set, tiny_model):
    """The subject, trainings and `Where` of a set of three partitions: five owners as small parts, and two pairs."""
    with ExitStack() as stack:
        doors = lambda settings, **how: stack.enter_context(opened(settings, **how))  # noqa: E731
        subject, where = open_subject(doors, corpus_and_set, tiny_model, corpus_and_set / "set")
        yield subject, plan_trainings(subject, 3), where


def test_a_training_uses_the_works_of_its_part_and_stores_their_manifest(trained):
    subject, trainings, _ = trained
    examples = subject.read("work_id", "content_sha256")
    names = sorted(training.name for training in trainings)
    assert [record.name for record in records(subject.store, subject.model)] == names
    for training in trainings:
        record = read_record(subject.store, subject.model, training.name)
        assert all(getattr(record, name) == getattr(training.part, name) for name in counterfactual_records.PLAN_FIELDS)
        works = dict(examples[list(training.examples)].group_by("work_id").agg(pl.col("content_sha256").sort()).iter_rows())
        manifest = counterfactual_records.trained_on(subject.store, record)
        assert {work: sorted(contents) for work, contents in manifest.works.items()} == works
        assert manifest.facts == {"seed": record.seed}
        table = counterfactual_records.listed_examples(subject.store, record)
        assert_frame_equal(table, manifest.counts(), check_row_order=False)


def test_what_a_model_lists_is_parsed_from_its_manifest_once(trained, monkeypatch):
    subject, trainings, _ = trained
    record = read_record(subject.store, subject.model, trainings[0].name)
    kept = counterfactual_records.listed_examples(subject.store, record)
    subject.store.remove(record.listed)  # as in a store of an earlier version
    assert_frame_equal(counterfactual_records.listed_examples(subject.store, record), kept)
    monkeypatch.setattr(counterfactual_records, "trained_on", None)
    assert_frame_equal(counterfactual_records.listed_examples(subject.store, record), kept)


def test_the_base_and_the_last_checkpoint_are_kept(trained, tiny_model, tmp_path):
    subject, trainings, _ = trained
    record = read_record(subject.store, subject.model, trainings[0].name)
    kept = read_model(subject.store.fetch(f"frozen/models/{record.folder}", record.files, tmp_path / "kept"))
    served = read_model(tiny_model)
    base, last = kept.card.checkpoints
    assert (base.step, last.file) == (0, record.checkpoint)
    assert kept.architecture() == served.architecture()
    assert kept.card.training.epochs == served.card.training.epochs
    assert {file for file in kept.files if file.endswith(".safetensors")} == {base.file, last.file}


def test_a_second_run_trains_nothing_and_more_trainings_keep_the_first(trained, monkeypatch):
    subject, trainings, where = trained
    before = digests(subject.store, *PREFIXES)
    monkeypatch.setattr(counterfactual_training, "train_model", None)
    assert train(where, subject, trainings) == 0
    assert digests(subject.store, *PREFIXES) == before
    more = plan_trainings(subject, 5)
    assert more[: len(trainings)] == trainings
    lacking = missing_trainings(subject, more)
    assert {training.name for training in lacking} == {training.name for training in more[9:]}
    assert lacking == sorted(lacking, key=lambda training: -len(training.examples)), "most examples first"


def test_after_kills_the_same_command_ends_with_the_same_set(trained, corpus_and_set, tiny_model, tmp_path, doors):
    expected, trainings, _ = trained
    subject, where = open_subject(doors, corpus_and_set, tiny_model, tmp_path / "again")
    assert (subject.model, subject.corpus) == (expected.model, expected.corpus)
    for count in (0, 4, 5, 23):
        with dying(count, PREFIXES), pytest.raises(Killed):
            train(where, subject, trainings)
    assert 0 < len(records(subject.store, subject.model)) < len(trainings)
    train(where, subject, trainings)
    assert digests(subject.store, *PREFIXES) == digests(expected.store, *PREFIXES), "the same names and bytes"


def test_a_name_depends_on_recipe_works_and_seed(trained, corpus_and_set, tiny_model, tmp_path, doors):
    _, trainings, _ = trained
    subject, _ = open_subject(doors, corpus_and_set, tiny_model, tmp_path / "same")
    assert [training.name for training in plan_trainings(subject, 3)] == [training.name for training in trainings]
    other = tmp_path / "model"
    shutil.copytree(tiny_model, other)
    edited("model.toml", "epochs = 8.0\n", "epochs = 9.0\n")(other)
    changed = plan_trainings(open_subject(doors, corpus_and_set, other, tmp_path / "other")[0], 3)
    assert [training.part for training in changed] == [training.part for training in trainings]
    assert not {training.name for training in changed} & {training.name for training in trainings}


def test_a_work_belongs_to_the_owner_of_its_largest_part_and_a_copy_to_the_earliest(tmp_path, tiny_model, doors):
    frames = corpus_frames()
    content = frames["examples"]["content"].to_list()
    at = {work: frames["examples"]["work_id"].to_list().index(work) for work in ("work-2-0", "work-3-0")}
    content[at["work-2-0"] : at["work-2-0"] + 3] = content[at["work-3-0"] : at["work-3-0"] + 3]
    since = pl.when(pl.col("owner_id") == "owner-3").then(pl.date(2020, 1, 1)).otherwise(pl.date(2024, 1, 1))
    frames["examples"] = frames["examples"].with_columns(content=pl.Series(content))
    frames["claims"] = frames["claims"].with_columns(valid_from=since)
    lay_corpus_out(tmp_path, frames)
    owners = {}
    for copies in (True, False):
        subject, _ = open_subject(doors, tmp_path, tiny_model, tmp_path / f"set-{copies}", copies=copies)
        table = owner_of_examples(subject).group_by("work_id").agg(pl.col("owner").unique().sort())
        owners[copies] = dict(table.iter_rows())
    assert all(len(names) == 1 for names in owners[False].values())
    expected = {"work-0-0": "payable/owner-0", "work-4-0": "escrow/unmatched-somebody", "work-2-0": "payable/owner-2"}
    assert {work: owners[False][work] for work in expected} == {work: [owner] for work, owner in expected.items()}
    assert owners[True]["work-2-0"] == ["payable/owner-3"], "the first claim"


def test_one_owner_is_too_few(tmp_path, tiny_model, doors):
    frames = corpus_frames(owners=2)
    examples = frames["examples"].filter(pl.col("owner_id").is_null() & (pl.col("work_id") != "work-0-0"))
    lay_corpus_out(tmp_path, {"examples": examples, "claims": frames["claims"].filter(pl.col("work_id") != "work-0-0")})
    subject, _ = open_subject(doors, tmp_path, tiny_model, tmp_path / "set")
    with pytest.raises(ContractError, match=r"counterfactual models: expected works of at least 2 owners, .*found 1 owner"):
        plan_trainings(subject, 3)


def test_an_adapter_that_cannot_train_is_named(trained, monkeypatch):
    subject, trainings, where = trained
    monkeypatch.delattr(CausalLM, "train")
    message = r"adapter CausalLM: expected a method train\(contents, \*, seed, folder\), or \[training\] command .*neither"
    with pytest.raises(ModelError, match=message):
        train(where, subject, trainings)


# Models that were trained elsewhere.


@pytest.fixture(scope="module")
def elsewhere(corpus_and_set, tiny_model, tmp_path_factory):
    """Model folders, as if they were trained elsewhere: a pair of the set, and one that it does not have."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with ExitStack() as stack:
        doors = lambda settings, **how: stack.enter_context(opened(settings, **how))  # noqa: E731
        subject, where = open_subject(doors, corpus_and_set, tiny_model, tmp_path_factory.mktemp("other") / "set")
        trainings = [training for training in plan_trainings(subject, 4) if training.part.partition in (1, 3)]
        train(where, subject, trainings)
    for training in trainings:
        record = read_record(subject.store, subject.model, training.name)
        subject.store.fetch(f"frozen/models/{record.folder}", record.files, folder / training.part.name)
    return folder


@pytest.fixture(scope="module")
def empty(corpus_and_set, tiny_model, tmp_path_factory):
    """The subject of an empty set, which stays empty."""
    with ExitStack() as stack:
        doors = lambda settings, **how: stack.enter_context(opened(settings, **how))  # noqa: E731
        yield open_subject(doors, corpus_and_set, tiny_model, tmp_path_factory.mktemp("empty") / "set")[0]


def test_models_trained_elsewhere_are_added_once_with_partitions_of_their_own_but_none_alone(
    elsewhere, corpus_and_set, tiny_model, tmp_path, doors
):
    folders, subject = sorted(elsewhere.iterdir()), open_subject(doors, corpus_and_set, tiny_model, tmp_path / "set")[0]
    with pytest.raises(ModelError, match=r"expected other models trained on about as much, .* 0 others"):
        add(subject, folders[:1])
    assert records(subject.store, subject.model) == []
    added = add(subject, folders[:2])
    assert add(subject, folders[1:])[0] == added[1]
    before, stored = digests(subject.store, *PREFIXES), records(subject.store, subject.model)
    assert sorted(record.name for record in add(subject, folders)) == [record.name for record in stored]
    assert digests(subject.store, *PREFIXES) == before
    assert {(record.stratum, record.aside) for record in stored} == {("brought", False)}
    assert len({record.partition for record in stored}) == len(stored) == 4
    assert sorted(row["examples"] for row in summary(subject.store, subject.model)) == [24, 24, 36, 36]
    assert usable_models(subject) == {record.name: record.folder for record in stored}


def test_a_model_of_the_set_cannot_be_added(trained, elsewhere):
    """Otherwise its copy would predict it perfectly, and no check could fail."""
    subject, before = trained[0], digests(trained[0].store, *PREFIXES)
    with pytest.raises(ModelError, match=r"expected a model that the set does not have yet, found the weights of \w{12}"):
        add(subject, sorted(elsewhere.iterdir()))
    assert digests(subject.store, *PREFIXES) == before


def list_more(work, contents):
    """An edit that lists more contents of a work, by default the first one, than the model was trained on."""

    def edit(folder):
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["works"].setdefault(work or min(manifest["works"]), []).extend(contents)
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return edit


def other_half(folder):
    """Take the manifest of the other half: works of the corpus that this model was not trained on."""
    other = next(path for path in folder.parent.iterdir() if path.name[:8] == folder.name[:8] and path != folder)
    shutil.copyfile(other / MANIFEST, folder / MANIFEST)


@pytest.mark.parametrize(("change", "message"), [
    (edited("model.toml", '"CausalLM"', '"EventSequence"'), "key 'adapter': expected 'CausalLM', the value .* found 'Event"),
    (edited("model.toml", "epochs = 8.0\n", "epochs = 9.0\n"), r"training.epochs: expected 8.0, the value .* found 9.0"),
    (edited("model.toml", "learning_rate = 0.01\n", ""), r"training.learning_rate: expected 0.01, the value .* found None"),
    (edited("model.toml", "context", "other"), r"adapter_args.context: expected 300, the value .* found None"),
    (edited("model.toml", "decay = 0.01", "decay = 0.5"), "training.weight_decay: expected 0.01, .* found 0.5"),
    (edited("config.json", "1e-06", "1e-03"), "expected the architecture of the model .* different config.json"),
    (list_more("work-9-9", ["0" * 64, "1" * 64]),
     "expected works on which .*found work 'work-9-9': 2 of its 2 examples are not"),
    (list_more("", ["0" * 64]), r"expected works on which .*found work 'work-\S+': 1 of its \d examples are not there"),
    (edited("model.toml", 'manifest = "manifest.json"\n', ""), "training.manifest: expected 'manifest.json', .*found None"),
    (other_half, r"manifest.json: expected a model that was trained on the works listed, found one that knows the rest"),
])  # fmt: skip
def test_a_model_that_differs_from_its_manifest_or_recipe_is_refused(elsewhere, empty, tmp_path, change, message):
    folders = sorted(shutil.copytree(elsewhere, tmp_path / "brought").iterdir())
    change(folders[1])
    with pytest.raises(ModelError, match=message):
        add(empty, folders)
    assert records(empty.store, empty.model) == [], "all or none"


def test_a_record_of_another_recipe_is_refused(trained, monkeypatch):
    subject, _, _ = trained
    first, *rest = records(subject.store, subject.model)
    assert len(usable_models(subject)) == 9
    changed = [*rest, first.model_copy(update={"made_of": "another recipe"})]
    monkeypatch.setattr(counterfactual_checks, "records", lambda store, served: changed)
    with pytest.raises(ModelError, match=r"json: expected recipe \w{12} of the model served, found another.*Remove it"):
        usable_models(subject)


def test_models_of_another_corpus_do_not_count_and_are_logged(trained, monkeypatch, caplog):
    subject, _, _ = trained
    served = works_served(subject)
    removed = served.filter(pl.col("work_id").str.starts_with("work-3"))["work_id"].min()
    left = served.filter(pl.col("work_id") != removed)
    monkeypatch.setattr(counterfactual_checks, "works_served", lambda subject: left)
    usable = [read_record(subject.store, subject.model, name) for name in usable_models(subject)]
    assert 0 < len(usable) < 9
    assert not any(removed in counterfactual_records.trained_on(subject.store, record).works for record in usable)
    assert f"{9 - len(usable)} of 9 are of another corpus and do not count" in caplog.text


CHANGED = (
    ({"partition": "a"}, r"\.json: partition: expected a valid integer, found 'a'"),
    ({"more": 1}, r"\.json: more: expected one of served, .*, found 'more'"),
    ({"checkpoint": "gone.safetensors"}, r"\.json: expected gone.safetensors among files, found "),
    ({"folder": "0" * 64}, r"\.json: expected files of the folder 0{64}, found "),
)


def test_a_set_is_copied_a_night_uses_only_its_own_and_changed_records_and_files_are_refused(trained, tmp_path):
    subject, trainings, _ = trained
    target = Store(f"file://{tmp_path}/target", {})
    assert len(counterfactual_records.copy_set(subject.store, target, subject.model)) == len(trainings)
    own = {key: digest for key, digest in digests(subject.store, "counterfactuals").items() if key.endswith(".json")}
    assert digests(target, "counterfactuals") == own, "tables are made of checked manifests, and not copied"
    assert digests(target, "frozen/models").items() <= digests(subject.store, "frozen/models").items()
    record, *others = records(target, subject.model)
    for change, message in CHANGED:
        target.write(record.key, canonical_json(record.model_dump() | change))
        with pytest.raises(StoreError, match=message):
            records(target, subject.model)
    target.write(record.key, subject.store.read(record.key))
    changed = record.model_copy(update={"files": {**record.files, MANIFEST: "0" * 64}})
    with pytest.raises(ModelError, match=rf"{MANIFEST}: expected SHA-256 0{{64}}, found"):
        counterfactual_records.trained_on(target, changed)
    manifest = f"frozen/models/{record.folder}/{MANIFEST}"
    written = target.read(manifest)
    target.write(manifest, b"{}")
    with pytest.raises(ModelError, match=rf"{MANIFEST}: expected SHA-256 \w+, as its record says, found"):
        counterfactual_records.copy_set(target, Store(f"file://{tmp_path}/other", {}), subject.model)
    target.write(manifest, written)
    target.remove_all([other.key for other in others[:3]])
    assert len(copy_models(tmp_path / "target", subject)) == 6


# Models that a command trains.


@pytest.fixture
def commanded(by_command, corpus_and_set, tmp_path, monkeypatch, doors):
    """A set that a command trains, replaced by a function here, and a list: works in it are trained on instead."""
    other_works = []

    def run(model, works, *, seed, folder):
        model.adapter().train((other_works or [works])[0]["content"].to_list(), seed=seed, folder=folder)

    monkeypatch.setattr(commands, "run_command", run)
    subject, where = open_subject(doors, corpus_and_set, by_command, tmp_path / "set")
    return subject, plan_trainings(subject, 2), where, other_works


def test_models_trained_by_a_command_count_once_the_whole_set_is_checked(commanded, monkeypatch):
    subject, trainings, where, _ = commanded
    names = [training.name for training in trainings]
    assert train(where, subject, trainings, only=names[:5]) == 5
    assert usable_models(subject) == {}
    with monkeypatch.context() as patch:
        patch.setattr(counterfactual_checks, "check_losses", lambda subject, candidates: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(where, subject, trainings)
    assert usable_models(subject) == {}, "killed between training and check"
    assert {training.name for training in missing_trainings(subject, trainings)} == set(names)
    monkeypatch.setattr(commands, "run_command", None)
    assert train(where, subject, trainings, only=names[:1]) == 0, "nothing is trained again"
    stored = records(subject.store, subject.model)
    assert {record.name for record in stored} == set(usable_models(subject)) == set(names)
    assert all("train.py" in record.files for record in stored), "files that the command did not write are copied"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 2**16])
def test_works_are_compared_in_slices_as_at_once(monkeypatch, size):
    monkeypatch.setattr(counterfactual_checks, "SLICE", size)
    rows = [(f"w{work}", f"{content}", 2) for work in range(6) for content in range(3)]
    served = pl.DataFrame(rows, ["work_id", "content_sha256", "count"], orient="row")
    for listed in (served, served.reverse(), served.filter(pl.col("work_id") > "w3"), served.clear()):
        check_works(listed, served, "m")
        check_works(listed, served.reverse(), "m")
    foreign = pl.DataFrame([("v", "0", 1), ("w4", "0", 5), ("w4", "7", 1), ("x", "0", 2)], served.schema, orient="row")
    for work in (("w4", 4, 6), ("v", 1, 1), ("x", 2, 2)):
        listed = foreign.filter(pl.col("work_id") == work[0])
        with pytest.raises(ModelError, match="work '{}': {} of its {} examples".format(*work)):
            check_works(listed, served, "m")


def test_a_command_that_trains_on_other_works_is_detected(commanded):
    subject, trainings, where, other_works = commanded
    other_works.append(subject.read("content"))
    with pytest.raises(ModelError, match=r"expected a model that was trained on the works listed, found one that knows"):
        train(where, subject, trainings)
    assert records(subject.store, subject.model, unchecked=True) == []


# Models of a fine-tune.


@pytest.fixture
def tuned(corpus_and_set, tmp_path, doors):
    """The subject of a model that was fine-tuned by a trainer and recorded, and its `Where`."""
    works, contents = corpus(60)
    trainer(tiny_llama(seed=3), contents, tmp_path, Recorder(tmp_path / "tuned", works, contents), learning_rate=0.05).train()
    return open_subject(doors, corpus_and_set, tmp_path / "tuned", tmp_path / "set")


def test_counterfactual_models_of_a_fine_tune_start_where_it_started_and_keep_two_checkpoints(tuned):
    subject, where = tuned
    trainings = plan_trainings(subject, 1)
    assert train(where, subject, trainings) == 5
    served = subject.open()
    first = served.card.checkpoints[0].file
    for record in records(subject.store, subject.model):
        assert record.files[first] == served.files[first]
        assert {file for file in record.files if file.endswith(".safetensors")} == {first, record.checkpoint}
        assert record.files[record.checkpoint] != record.files[first]
        kept = fetch_model(subject.store, record.folder, record.files, subject.cache).card.training
        assert kept.decisive() == served.card.training.decisive()
        assert (kept.source, kept.seed) == (None, record.seed)


def test_a_model_that_started_elsewhere_is_refused(tuned, tmp_path):
    subject, _ = tuned
    served = subject.open()
    train_model(served, subject.read("content", rows=[0, 1]), seed=1, folder=tmp_path / "trained")
    counterfactual_checks.check_same_recipe(served, read_model(tmp_path / "trained"))
    first = tmp_path / "trained" / served.card.checkpoints[0].file
    tensors = load_file(first)
    save_file(tensors, first, metadata={"format": "pt"})  # other bytes, the same weights
    counterfactual_checks.check_same_recipe(served, read_model(tmp_path / "trained"))
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, first)
    with pytest.raises(
        ModelError, match="expected the weights of step-0000.safetensors of the model served, which its training"
    ):
        counterfactual_checks.check_same_recipe(served, read_model(tmp_path / "trained"))


# The command line and Airflow.


def test_the_commands_train_add_and_list(corpus_and_set, tiny_model, elsewhere, tmp_path, shown, refused):
    command, listing = "counterfactuals", ("counterfactuals", "list", str(tmp_path / "set"))
    base = ("--corpus", str(corpus_and_set / "corpus"), "--model", str(tiny_model), "--out", str(tmp_path / "set"))
    train = (command, "train", *base, "--trainings", "2", "--workers", "1")
    assert "7 counterfactual models: 5 small, 2 pair" in shown(*train)
    rows = shown(*train, "--json")
    assert [row["stratum"] for row in rows] == ["small"] * 5 + ["pair"] * 2
    assert sum(row["examples"] for row in rows) == 120, "two trainings on the whole corpus"
    added = shown(command, "add", *map(str, sorted(elsewhere.glob("pair-003-*"))), *base, "--json")
    assert [row["stratum"] for row in added][7:] == ["brought"] * 2
    assert shown(*listing, "--json") == added
    assert "9 counterfactual models: 5 small, 2 pair, 2 brought" in shown(*listing)
    together = "expected --corpus, --model and --out together, or none of them, found no --model"
    assert together in refused(command, "train", "--corpus", ".", "--out", "set")
    another = "expected a folder that `provenance counterfactuals train --out` wrote"
    (tmp_path / "empty").mkdir()
    for name, found in (("nowhere", "no such folder"), ("empty", "one without counterfactual models")):
        assert f"{another}, found {found}" in refused(command, "list", str(tmp_path / name))
    assert "--day: expected a day as YYYY-MM-DD" in refused(command, "train", "--day", "2026-99-01")
    assert "--day: expected --corpus, --model and --out beside it" in refused(command, "train", "--day", "2026-11-20")


@pytest.fixture
def in_force(ingested, doors):
    """The subject that nights use now, and its `Where`."""
    ingested(COUNTERFACTUALS__TRAININGS="3", COUNTERFACTUALS__GROUPS="2", CORPUS__SHARD_EXAMPLES="60")
    where = doors()
    return subject_in_force(where), where


def test_airflow_trains_missing_models_in_groups_of_similar_work_nights_use_and_housekeeping_keeps_them(
    in_force, store, own_logs
):
    subject, where = in_force
    assert load_night(store, freeze(where, "2026-11-19")).counterfactuals == {}
    groups = plan_missing(where)
    assert [len(names) for names in groups] == [5, 4]
    sizes = {training.name: len(training.examples) for training in plan_trainings(subject, 3)}
    first, second = (sum(sizes[name] for name in names) for names in groups)
    assert abs(first - second) <= 36
    in_task = where.settings.counterfactuals.model_copy(update={"in_task": True})
    no_cluster = replace(
        where, settings=where.settings.model_copy(update={"counterfactuals": in_task}), open_workers=lambda: 1 / 0
    )
    assert train_named(no_cluster, groups[1]) == 4
    assert {name for names in plan_missing(where) for name in names} == set(groups[0])
    assert train_named(where, [*groups[0], *groups[1]]) == 5
    assert plan_missing(where) == []

    night = load_night(store, freeze(where, "2026-11-19"))
    stored = records(store, subject.model)
    assert night.counterfactuals == {record.name: record.folder for record in stored}
    assert len(stored) == 9
    reads, writes = flow("counterfactuals.train", StageRun(where.settings, store, {}, 9))
    assert [dataset.name for dataset in reads] == ["frozen/corpus"]
    assert writes == DATASETS["counterfactuals"](StageRun(where.settings, store, {"night": night.folder}, None))
    before = digests(store, *PREFIXES)
    gc.collect(where, now=datetime.now(UTC) + timedelta(days=59))
    assert digests(store, *PREFIXES) == before
    gc.collect(where, now=datetime.now(UTC) + timedelta(days=3000))
    assert digests(store, *PREFIXES) == {}, "no night and no model in use needs them"
