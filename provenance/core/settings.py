"""Settings by section; an unknown key is an error. [tasks/settings.py](../../tasks/settings.py) reads file and environment.

Import-light: DAGs read settings while Airflow parses them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from provenance.core.errors import SettingsError
from provenance.core.money import currencies

if TYPE_CHECKING:
    from provenance.core.store import Store

CHECKOUT = Path(__file__).resolve().parents[2]
PREFIX = "PROVENANCE_"
# Our only secret; read from the environment alone.
KEY_VARIABLE = f"{PREFIX}PAYEES__KEY"
# A path; a relative one starts at the checkout.
Located = Annotated[Path, AfterValidator(lambda path: CHECKOUT / path)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _from_json(value: Any) -> Any:
    """Parse JSON, since environment variables are text."""
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
    start_seconds: Annotated[float, Field(gt=0)] = 120.0


class CorpusSettings(_Section):
    folder: str = "corpus"
    shard_examples: Annotated[int, Field(ge=1)] = 384
    quality: Located = Path("infra/settings/quality.toml")


def _listed(value: Any) -> Any:
    """Split names at commas, since environment variables are text."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


class SignalsSettings(_Section):
    collect: bool = True
    agents: Annotated[tuple[str, ...], BeforeValidator(_listed)] = (
        "AI2Bot",
        "Ai2Bot-Dolma",
        "Amazonbot",
        "anthropic-ai",
        "Applebot-Extended",
        "Bytespider",
        "CCBot",
        "Claude-Web",
        "ClaudeBot",
        "cohere-training-data-crawler",
        "Cotoyogi",
        "DeepSeekBot",
        "Diffbot",
        "FacebookBot",
        "FriendlyCrawler",
        "Google-Extended",
        "GPTBot",
        "ICC-Crawler",
        "img2dataset",
        "Kangaroo Bot",
        "LAIONDownloader",
        "laion-huggingface-processor",
        "Meta-ExternalAgent",
        "omgili",
        "omgilibot",
        "PanguBot",
        "SBIntuitionsBot",
        "TikTokSpider",
        "Timpibot",
        "Webzio-Extended",
    )
    user_agent: Annotated[str, Field(min_length=1, pattern=r"^[\x20-\x7e]+$")] = "ProvenanceSignals/0.1"
    days: Annotated[int, Field(ge=1)] = 90
    timeout: Annotated[float, Field(gt=0, le=600)] = 20.0


class ModelSettings(_Section):
    folder: Located = Path("var/models/demo-answers")
    cache: Located = Path("var/cache/models")


class FeatureSettings(_Section):
    dense: Annotated[int, Field(ge=1, le=8192)] = 1536
    dense_alone: Annotated[int, Field(ge=1, le=8192)] = 4096
    dense_most: Annotated[int, Field(ge=1, le=32_768)] = 8192
    least_rank: Annotated[int, Field(ge=1, le=64)] = 8
    token_rank: Annotated[int, Field(ge=1)] = 32
    dense_bits: Annotated[Literal[4, 8, 32], BeforeValidator(int)] = 8
    sparse_bits: Annotated[Literal[4, 8, 32], BeforeValidator(int)] = 4
    seed: int = 20_261_120
    batch_size: Annotated[int, Field(ge=1)] = 32
    memory_gb: Annotated[float, Field(gt=0)] = 8.0
    precision: Literal["float32", "bfloat16"] = "float32"
    unfollowed: Literal["refuse", "leave_out"] = "refuse"

    @property
    def projection(self) -> dict[str, int]:
        """The fields of the `Projection`."""
        return self.model_dump(include={"seed", "dense", "dense_alone", "dense_most", "least_rank", "token_rank"})


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
    at_once: Annotated[int, Field(ge=1, le=64)] = 2
    in_task: bool = False
    queue: str = ""
    pool: str = ""
    executor_config: Annotated[dict[str, Any], BeforeValidator(_from_json)] = {}


class CreditsSettings(_Section):
    outputs: Annotated[int, Field(ge=0)] = 16
    spans: Annotated[int, Field(ge=1, le=256)] = 16


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
        """Keep a night's files at least as long as the plan that names them."""
        if self.features > self.nights:
            raise ValueError(f"features to be at most nights ({self.nights} days), whose plans say what they rest on")
        if 0 < self.replay < self.nights:
            raise ValueError(f"replay to be at least nights ({self.nights} days), or 0 for ever")
        if self.grace > 24 * self.features:
            raise ValueError(f"grace to be at most features ({24 * self.features} hours)")
        return self


# The contact of a fresh installation: no address that an owner could write to.
NO_CONTACT = "the operator of this pipeline"


class SettlementSettings(_Section):
    key: Located = Path("var/keys/signing.pem")
    retired: Located = Path("var/keys/retired")
    minimum: Annotated[dict[str, Annotated[int, Field(ge=0)]], BeforeValidator(_from_json)] = {"EUR": 1000, "USD": 1000}
    withholding: Located = Path("infra/settings/withholding.toml")
    escrow: Located = Path("infra/settings/escrow.toml")
    bank_format: Literal["pain.001.001.09", "pain.001.001.11"] = "pain.001.001.09"
    contact: str = NO_CONTACT
    quote_outputs: bool = False


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


class TaxSettings(_Section):
    invoices: Annotated[str, Field(pattern=r"^[A-Za-z0-9/_-]{0,12}$")] = ""
    vat_id: str = ""
    tax_id: str = ""


class PayeesSettings(_Section):
    key: SecretStr = SecretStr("")

    @property
    def keys(self) -> list[str]:
        """The keys that decrypt payees' details; the first one encrypts."""
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
        """The folder of lineage events, one file a day; None if events are not kept."""
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
    credits: CreditsSettings = CreditsSettings()
    rights: RightsSettings = RightsSettings()
    review: ReviewSettings = ReviewSettings()
    notify: NotifySettings = NotifySettings()
    retention: RetentionSettings = RetentionSettings()
    settlement: SettlementSettings = SettlementSettings()
    payer: PayerSettings = PayerSettings()
    tax: TaxSettings = TaxSettings()
    payees: PayeesSettings = PayeesSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    lineage: LineageSettings = LineageSettings()

    def at(self, work: Path, model: Path | None = None) -> Settings:
        """A copy with its own store in the folder `work`, and optionally another model."""
        work = work.resolve()
        where: dict[str, Any] = {"cache": work / "cache"} | ({"folder": CHECKOUT / model} if model else {})
        return self.model_copy(
            update={
                "store": self.store.model_copy(update={"url": f"file://{work}", "endpoint_url": ""}),
                "model": self.model.model_copy(update=where),
            }
        )
