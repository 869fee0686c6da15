"""Settings: one TOML file, overridden by the environment, checked to the last key.

`PROVENANCE_SETTINGS` names the file (default `infra/settings/local.toml` of the checkout); `PROVENANCE_<SECTION>__<KEY>`
overrides one key. An unknown key is an error that names the nearest known one. Import-light, since DAGs ask while they are
parsed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator

from provenance.core.errors import SettingsError
from provenance.core.money import currencies
from provenance.core.toml import explained, read_toml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provenance.core.store import Store
    from provenance.features.projection import Projection

CHECKOUT = Path(__file__).resolve().parent.parent
# A path that is relative to the checkout where it does not say from where.
Located = Annotated[Path, AfterValidator(lambda path: CHECKOUT / path)]
PREFIX = "PROVENANCE_"
# The one secret of ours: it comes from the environment alone.
KEY_VARIABLE = f"{PREFIX}PAYEES__KEY"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _from_json(value: Any) -> Any:
    """The environment has text alone."""
    return json.loads(value) if isinstance(value, str) else value


def _known_currency(code: str) -> str:
    if code not in currencies():
        raise ValueError("a currency of ISO 4217")
    return code


class StoreSettings(_Section):
    url: str = "file://var/store"
    endpoint_url: str = ""

    def open(self) -> Store:
        """The store; local paths are relative to the checkout."""
        from provenance.core.store import Store

        scheme, _, path = self.url.partition("://")
        if scheme == "file":
            return Store(f"file://{(CHECKOUT / path).resolve()}", {})
        if scheme != "s3":
            raise SettingsError("settings: store.url", expected="file://... or s3://...", found=repr(self.url))
        return Store(self.url, {"endpoint_url": self.endpoint_url} if self.endpoint_url else {})


class DatabaseSettings(_Section):
    url: str = ""
    folder: str = "var/postgres"
    payees_url: str = ""


class ClusterSettings(_Section):
    address: str = ""
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    processes: bool = False
    device: Annotated[str, Field(pattern="^(cpu|cuda)$")] = "cpu"


class CorpusSettings(_Section):
    folder: str = "corpus"
    shard_examples: Annotated[int, Field(ge=1)] = 384
    quality: Located = Path("infra/settings/quality.toml")


def _listed(value: Any) -> Any:
    """The environment has text alone: names parted by commas."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


class SignalsSettings(_Section):
    collect: bool = True
    agents: Annotated[tuple[str, ...], BeforeValidator(_listed)] = (
        "AI2Bot",
        "Amazonbot",
        "anthropic-ai",
        "Applebot-Extended",
        "Bytespider",
        "CCBot",
        "ClaudeBot",
        "cohere-training-data-crawler",
        "Diffbot",
        "Google-Extended",
        "GPTBot",
        "Meta-ExternalAgent",
        "omgili",
        "PanguBot",
    )
    user_agent: Annotated[str, Field(min_length=1, pattern=r"^[\x20-\x7e]+$")] = "ProvenanceSignals/0.1"
    days: Annotated[int, Field(ge=1)] = 90
    timeout: Annotated[float, Field(gt=0, le=600)] = 20.0


class ModelSettings(_Section):
    folder: Located = Path("var/models/demo-code")
    cache: str = "var/cache/models"


class FeatureSettings(_Section):
    dense: Annotated[int, Field(ge=1, le=8192)] = 1536
    dense_alone: Annotated[int, Field(ge=1, le=8192)] = 4096
    token_rank: Annotated[int, Field(ge=1)] = 32
    dense_bits: Annotated[Literal[4, 8, 32], BeforeValidator(int)] = 8
    sparse_bits: Annotated[Literal[4, 8, 32], BeforeValidator(int)] = 4
    seed: int = 20_261_120
    batch_size: Annotated[int, Field(ge=1)] = 32

    @property
    def projection(self) -> Projection:
        """The projection that these settings name."""
        from provenance.features.projection import Projection

        return Projection(seed=self.seed, dense=self.dense, dense_alone=self.dense_alone, token_rank=self.token_rank)


class InfluenceSettings(_Section):
    method: str = "fitted"
    checkpoints: Annotated[int, Field(ge=1)] = 3
    sample: Annotated[int, Field(ge=2, le=4096)] = 768
    draws: Annotated[int, Field(ge=1)] = 4
    evidence: Annotated[int, Field(ge=1)] = 3


class AuditSettings(_Section):
    subsets: Annotated[int, Field(ge=4)] = 16
    tune: Annotated[int, Field(ge=0)] = 8
    seeds: Annotated[int, Field(ge=2)] = 2
    methods: tuple[str, ...] = ("factored", "tfidf")


class RoyaltySettings(_Section):
    contracts: Located = Path("infra/settings/contracts.toml")


class CounterfactualSettings(_Section):
    trainings: Annotated[int, Field(ge=0, le=256)] = 16
    groups: Annotated[int, Field(ge=1, le=64)] = 8


class RightsSettings(_Section):
    policy: Located = Path("infra/settings/rights.toml")


class ReviewSettings(_Section):
    nights: Annotated[int, Field(ge=1)] = 28
    least: Annotated[int, Field(ge=1)] = 7
    deviations: Annotated[float, Field(gt=0)] = 6.0
    newcomer: Annotated[float, Field(ge=0, le=1)] = 0.05
    moved: Annotated[float, Field(ge=0)] = 0.25


class NotifySettings(_Section):
    mail_to: str = ""
    mail_from: str = "provenance@localhost"
    smtp_conn_id: str = "smtp_default"
    webhook_conn_id: str = ""
    webhook_endpoint: str = ""
    night_hours: Annotated[float, Field(gt=0)] = 6.0


class RetentionSettings(_Section):
    nights: Annotated[int, Field(ge=1)] = 60
    features: Annotated[int, Field(ge=1)] = 30
    replay: Annotated[int, Field(ge=0)] = 1096
    logs: Annotated[int, Field(ge=1)] = 90
    grace: Annotated[int, Field(ge=1)] = 48

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        """What a night rests on is kept for as long as it is known to rest on it."""
        if self.features > self.nights:
            raise ValueError(f"features to be at most nights ({self.nights} days), whose plans say what they rest on")
        if 0 < self.replay < self.nights:
            raise ValueError(f"replay to be at least nights ({self.nights} days), or 0 for ever")
        if self.grace > 24 * self.features:
            raise ValueError(f"grace to be at most features ({24 * self.features} hours)")
        return self


class SettlementSettings(_Section):
    key: Located = Path("var/keys/signing.pem")
    retired: Located = Path("var/keys/retired")
    minimum: Annotated[dict[str, Annotated[int, Field(ge=0)]], BeforeValidator(_from_json)] = {"EUR": 1000, "USD": 1000}
    withholding: Located = Path("infra/settings/withholding.toml")
    bank_format: Literal["pain.001.001.09", "pain.001.001.11"] = "pain.001.001.09"
    contact: str = "the operator of this pipeline"


class PayerSettings(_Section):
    name: str = ""
    street: str = ""
    building: str = ""
    post_code: str = ""
    town: str = ""
    country: str = ""
    iban: str = ""
    bic: str = ""
    nacha_origin: str = ""
    nacha_company: str = ""
    nacha_bank: str = ""


class PayeesSettings(_Section):
    key: SecretStr = SecretStr("")

    @property
    def keys(self) -> list[str]:
        """The keys that open payees' details; the first seals."""
        return [key.strip() for key in self.key.get_secret_value().split(",") if key.strip()]


class MonitoringSettings(_Section):
    hourly_cost: Annotated[int, Field(ge=0)] = 0
    currency: Annotated[str, AfterValidator(_known_currency)] = "EUR"


class LineageSettings(_Section):
    url: str = ""
    folder: str = "var/logs/lineage"
    namespace: Annotated[str, Field(min_length=1)] = "provenance"

    @property
    def path(self) -> Path | None:
        """The folder of events, a file for each day; None where none are kept."""
        return CHECKOUT / self.folder if self.folder else None


class Settings(_Section):
    """All settings, by section."""

    store: StoreSettings = StoreSettings()
    database: DatabaseSettings = DatabaseSettings()
    cluster: ClusterSettings = ClusterSettings()
    corpus: CorpusSettings = CorpusSettings()
    signals: SignalsSettings = SignalsSettings()
    model: ModelSettings = ModelSettings()
    features: FeatureSettings = FeatureSettings()
    influence: InfluenceSettings = InfluenceSettings()
    audit: AuditSettings = AuditSettings()
    royalty: RoyaltySettings = RoyaltySettings()
    counterfactuals: CounterfactualSettings = CounterfactualSettings()
    rights: RightsSettings = RightsSettings()
    review: ReviewSettings = ReviewSettings()
    notify: NotifySettings = NotifySettings()
    retention: RetentionSettings = RetentionSettings()
    settlement: SettlementSettings = SettlementSettings()
    payer: PayerSettings = PayerSettings()
    payees: PayeesSettings = PayeesSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    lineage: LineageSettings = LineageSettings()

    def at(self, work: Path, model: Path | None = None) -> Settings:
        """The same with a store of their own in a folder, and perhaps another model."""
        work = work.resolve()
        where = {"cache": str(work / "cache")} | ({"folder": CHECKOUT / model} if model else {})
        return self.model_copy(
            update={
                "store": self.store.model_copy(update={"url": f"file://{work}", "endpoint_url": ""}),
                "model": self.model.model_copy(update=where),
            }
        )


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings in force; an error names the file or variable."""
    environment = os.environ if environment is None else environment
    path = CHECKOUT / environment.get(f"{PREFIX}SETTINGS", "infra/settings/local.toml")
    values = read_toml(path, "a settings file", SettingsError)
    if "key" in values.get("payees", {}):
        hint = f"Set {KEY_VARIABLE}, from wherever secrets are kept."
        raise SettingsError(f"{path}: payees.key", expected="no secret in a file", found="a key", hint=hint)
    for name in sorted(environment):
        if name.startswith(PREFIX) and "__" not in name and name != f"{PREFIX}SETTINGS":
            expected = f"{PREFIX}SETTINGS or {PREFIX}<SECTION>__<KEY>"
            raise SettingsError(
                f"environment: {name}", expected=expected, found=name, hint="Two underscores part section and key."
            )
    origin: dict[tuple[str, str], str] = {}
    for name, value in sorted(environment.items()):
        if name.startswith(PREFIX) and "__" in name:
            section, _, key = name.removeprefix(PREFIX).lower().partition("__")
            values[section] = {**values.get(section, {}), key: value}
            origin[section, key] = f"environment: {name}"
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        at, *of_it = (str(part) for part in error.errors()[0]["loc"][:2])
        # A section that is not known has no key by which to find who named it.
        named = (said for (name, key), said in origin.items() if name == at and of_it in ([], [key]))
        source = next(named, str(path))
        raise explained(error, Settings, source, SettingsError) from error


def with_store(settings: Settings | None = None) -> tuple[Settings, Store]:
    """Some settings, by default those in force, and the store that they name: how a stage begins."""
    settings = settings or load()
    return settings, settings.store.open()
