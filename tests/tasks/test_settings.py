import pytest

from provenance.core.errors import SettingsError
from provenance.core.settings import CHECKOUT, Settings
from tasks.settings import load


def test_the_default_file_says_what_the_code_defaults_to():
    assert load({}) == Settings()


def test_the_environment_overrides_one_key():
    settings = load(
        {"PROVENANCE_STORE__URL": "s3://b/p", "PROVENANCE_FEATURES__DENSE": "3", "PROVENANCE_FEATURES__DENSE_BITS": "4"}
    )
    assert settings.store.url == "s3://b/p"
    assert (settings.features.dense, settings.features.dense_bits) == (3, 4)
    assert settings.features.token_rank == Settings().features.token_rank


def test_another_file_can_be_named(tmp_path):
    (tmp_path / "s.toml").write_text("[influence]\nsample = 25\n")
    assert load({"PROVENANCE_SETTINGS": str(tmp_path / "s.toml")}).influence.sample == 25


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("[store]\nurrl = 'x'", {}, r"s.toml: store.urrl: expected one of url, endpoint_url, found 'urrl'. Did you mean 'url'"),
        ("[stroe]\nurl = 'x'", {}, r"s.toml: stroe: expected one of store, .*, found 'stroe'. Did you mean 'store'\?"),
        ("", {"PROVENANCE_FEATURES__DNESE": "3"}, r"environment: PROVENANCE_FEATURES__DNESE: .*Did you mean 'dense'"),
        ("", {"PROVENANCE_FEATRES__RANK": "3"}, r"environment: PROVENANCE_FEATRES__RANK: .*Did you mean 'features'"),
        ("[features]\ndense = 0", {}, r"s.toml: features.dense: expected greater than or equal to 1, found 0"),
        ("[features]\ndense = 'many'", {}, r"features.dense: expected .*integer.*, found 'many'"),
        (
            "",
            {"PROVENANCE_STORE_URL": "x"},
            r"environment: PROVENANCE_STORE_URL: expected PROVENANCE_SETTINGS or .*Two underscores",
        ),
        ("[features\n", {}, r"s.toml: expected TOML"),
        ("[royalty]\nrows = 1", {}, r"s.toml: royalty.rows: expected one of contracts, found 'rows'"),
        ("[counterfactuals]\ngroups = 0", {}, r"counterfactuals.groups: expected .*greater than or equal to 1"),
    ],
)
def test_a_wrong_key_is_named_with_the_nearest_known_one(tmp_path, text, environment, message):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        load({"PROVENANCE_SETTINGS": str(tmp_path / "s.toml"), **environment})


def test_a_missing_file_is_named():
    with pytest.raises(SettingsError, match=r"nowhere.toml: expected a settings file, found no such file"):
        load({"PROVENANCE_SETTINGS": "nowhere.toml"})


def test_the_store_is_opened_by_its_url():
    assert load({}).store.open().url == f"file://{CHECKOUT}/var/store"
    s3 = load({"PROVENANCE_STORE__URL": "s3://b/p", "PROVENANCE_STORE__ENDPOINT_URL": "http://x"}).store.open()
    assert (s3.url, s3.options) == ("s3://b/p", {"endpoint_url": "http://x"})
    with pytest.raises(SettingsError, match=r"store.url: expected file://... or s3://..., found 'ftp://x'"):
        load({"PROVENANCE_STORE__URL": "ftp://x"}).store.open()
