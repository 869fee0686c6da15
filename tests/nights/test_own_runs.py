"""A run by `transformers.Trainer` with `peft`, made without our code, pays a night (a full one: `test_integrate`)."""

import json
from datetime import date

import polars as pl
import pytest
from runs import lora, make_base, train
from samples import DAY, create_database, sentence

from provenance.core.store import Store
from provenance.local.setup import Setup, make
from provenance.models.importing.importing import Request

pytestmark = pytest.mark.night
OWNERS, EACH = 5, 12


@pytest.fixture(scope="module")
def paid(new_operator, postgres, tmp_path_factory):
    """A fine-tune, its set-up with a day of outputs, its counterfactual models, and the night; with what the night logged."""
    folder = tmp_path_factory.mktemp("lora")
    texts = [sentence(owner, number).decode() for owner in range(OWNERS) for number in range(EACH)]
    base = make_base(folder / "base", max_position_embeddings=256)
    adapter = lora(r=8, target_modules="all-linear")
    run = train(base, folder / "run", adapter=adapter, texts=texts, learning_rate=2e-2)
    owners = [f"Owner {owner}" for owner in range(OWNERS) for _ in range(EACH)]
    pl.DataFrame({"text": texts, "author": owners}).write_parquet(folder / "train.parquet")
    made = make(
        Setup(folder / "mine", run, folder / "train.parquet", {}, Request(run, folder, base=base), date.fromisoformat(DAY))
    )
    assert made.imported.refused == ""
    operator = new_operator(Store(f"file://{folder}/mine/store", {}), "lora")
    airflow = {name: value for name, value in operator.environment.items() if not name.startswith("PROVENANCE_")}
    operator.environment = airflow | {
        "PROVENANCE_SETTINGS": str(folder / "mine/settings.toml"),
        "PROVENANCE_DATABASE__URL": create_database(postgres),
        "PROVENANCE_SIGNALS__COLLECT": "false",
        "PROVENANCE_COUNTERFACTUALS__TRAININGS": "3",
    }
    operator.ingest()
    operator.succeeds("train_counterfactuals", DAY)
    operator.night(DAY)
    return operator, folder


def test_the_night_pays_the_owners_of_the_run_s_works(paid):
    operator, _ = paid
    export = operator.export(DAY)
    payouts = pl.read_csv(export["rev=0001/payouts.csv"])
    assert set(payouts["owner_id"]) <= {f"Owner {owner}" for owner in range(OWNERS)}
    manifest = json.loads(export["rev=0001/manifest.json"])
    (fidelity,) = manifest["fidelity"].values()
    assert fidelity["models"] == OWNERS + 4, "each owner alone, and two halves with their complements"
    credits_file = pl.read_parquet(export["rev=0001/credits.parquet"])
    assert credits_file["output_id"].n_unique() > 1
    assert (credits_file.group_by("output_id").agg(pl.col("share_ppb").sum())["share_ppb"] == 1_000_000_000).all()


def test_a_frozen_base_lies_once_in_the_store(paid):
    operator, _ = paid
    bases = [key for key in operator.store.list("frozen/models") if key.endswith("/model.safetensors")]
    trained = json.loads(operator.export(DAY)["rev=0001/manifest.json"])["inputs"]["counterfactuals"]
    assert len(trained) == OWNERS + 4
    assert len(bases) == 1, "shared by the model served and all others"
