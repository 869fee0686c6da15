"""Small inputs that tests share, and helpers to set up stores, settings and models."""

import subprocess
import sys
import uuid
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import sqlalchemy as sa
from servers import weed_ports

from provenance.core.store import Store
from provenance.corpus.delivery import read_corpus
from provenance.corpus.shards import freeze_corpus

DAY = "2026-11-19"
# A real browser; `make test` installs it if possible.
CHROMIUM = Path("/usr/bin/chromium")
# Hostile names that strangers may supply: owners, works, escrow, outputs, addresses, notices, reasons.
HOSTILE = (
    '=HYPERLINK("http://evil.example","pay here")', "=1+2", "+49 40 1234", "-2+3", "@SUM(A1:A9)", "\t=1", "\r=1", "  =1+1",
    "'=1", "''+1", "\uff1d1+1", "{=1+1}", "=cmd|' /C calc'!A0", "-", "a,b", "a;b", 'say "x"',
    'a"\n2026-01-01 open Assets:Evil', "../../../../etc/passwd", "/etc/passwd", "..", ".", "a/../b", "..\\..\\windows",
    "C:\\nul", "CON", "owner=x/statement.pdf", "%2e%2e%2f", "a\x00b", "a\nb", "a\r\nb", "a\u2028b", "a\x85b",
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b31m", "\u202egpj.exe", "\u2066abc\u2069", "\ufeffbom", "zero\u200bwidth",
    "Caf\xe9", "Cafe\u0301", "ann", "Ann", "ANN", "ann.", "ann ", "[red]red[/]", "[/]", "[bold",
    "[link=file:///etc/passwd]x[/link]", ":warning:", '#read("/etc/passwd")', "$x$ *b* _i_", "@ref <label>",
    "\\ `raw` // comment", '#import "a.typ": *', "<script>alert(1)</script>", "{{ 7*7 }}{% raw %}", "&lt;&amp;", "]]>",
    "$\\frac$", "Robert'); DROP TABLE entry;--", "; comment", 'plugin "os"', "x" * 5000, "\u6751\u4e0a\u6625\u6a39",
    "\U0001f469\u200d\U0001f4bb", "NULL", "null", "None", "nan", "1e5", "007", "true", "2026-11-19", "_", "%s%n", "${HOME}",
    "$(id)", "`id`", "",
)  # fmt: skip
# The hostile names that a delivery accepts as identifiers.
UNSEEN = {chr(c) for c in (*range(32), *range(127, 160))} | set("\u2028\u2029\u202e\u2066\u2069\ufeff")
HOSTILE_IDS = tuple(name for name in HOSTILE if name.strip() and len(name.encode()) <= 1000 and not UNSEEN & set(name))
WORDS = ["grape", "stone", "river", "cloud", "amber", "north", "quiet", "seven", "lantern", "orchid", "paper", "violet"]


def table(columns: str, *rows, **types) -> pl.DataFrame:
    """A table of rows; types are for columns whose values do not show theirs."""
    return pl.DataFrame(list(rows), schema=columns.split(), schema_overrides=types, orient="row", infer_schema_length=None)


def sentence(owner: int, number: int, words: int = 14) -> bytes:
    """Text with favourite words of each owner, so that owners have influence."""
    own = [WORDS[owner], WORDS[(owner + 1) % len(WORDS)]]
    chosen = [own[(number * k + k // 2) % 2] if (number + k) % 3 else WORDS[(number * 7 + k * 5) % 12] for k in range(words)]
    return (" ".join(chosen) + f" {number}.").encode()


def corpus_frames(owners: int = 5, each: int = 12) -> dict[str, pl.DataFrame]:
    """A corpus of some owners; the works of the last one are unmatched, the first work has two claimants."""
    rows, claims = [], []
    for owner in range(owners):
        matched = owner < owners - 1
        for number in range(each):
            work = f"work-{owner}-{number // 3}"
            escrow = (None, None) if matched else ("unmatched-somebody", "no author is named")
            rows.append((work, sentence(owner, number), number % 3, f"https://example.org/{work}", *escrow))
            if matched and number % 3 == 0:
                both = {f"owner-{owner}": 600_000_000, "owner-1": 400_000_000}
                stakes = both if (owner, number) == (0, 0) else {f"owner-{owner}": 1_000_000_000}
                claims += [(work, who, stake) for who, stake in stakes.items()]
    names = [(f"owner-{owner}", f"Owner {owner}, Ltd.") for owner in range(owners - 1)]
    examples = table("work_id content position source_uri owner_id unmatched_reason", *rows)
    return {
        "examples": examples,
        "claims": table("work_id owner_id stake_ppb", *claims),
        "owners": table("owner_id name", *names),
    }


def optout_row(at: datetime, work: str, owner: str, day: date | None = None) -> dict:
    """A record of an owner's opt-out with the choice `held`, from a day on."""
    row = {"action": "optout", "choice": "held", "recorded_by": "ann", "evidence": "a letter"}
    return row | {"recorded_at": at, "work_id": work, "owner_id": owner, "effective_on": day or at.date()}


def outputs_frame(day: str = DAY, count: int = 8) -> pl.DataFrame:
    """A day of outputs in two currencies."""
    noon = datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=UTC)
    return pl.DataFrame(
        {
            "output_id": [f"{day}-{n:03d}" for n in range(count)],
            "content": [sentence(n % 5, noon.toordinal() % 1000 + n) for n in range(count)],
            "model_id": "tiny",
            "revenue_minor": [149 + 50 * n for n in range(count)],
            "currency": ["EUR", "USD"] * (count // 2) + ["EUR"] * (count % 2),
            "served_at": noon,
            "notice": "Revenue is invented.",
        }
    )


def deliver(store: Store, frames: dict[str, pl.DataFrame] | None = None, days: tuple[str, ...] = (DAY,)) -> None:
    """Write a corpus, by default the tiny one, and days of outputs, as data teams deliver them."""
    for name, frame in (frames or corpus_frames()).items():
        store.write_table(f"corpus/{name}.parquet", frame)
    for day in days:
        store.write_table(f"outputs/day={day}/part.parquet", outputs_frame(day))


def freeze(store: Store, frames: dict[str, pl.DataFrame] | None = None, **how):
    """Deliver a corpus and put it in force, without the checks of an ingest; returns the frozen corpus."""
    deliver(store, frames, days=())
    return freeze_corpus(store, read_corpus(store, "corpus"), **({"shard_examples": 8} | how))


def assert_checked(corpus, store: Store) -> None:
    """Assert that a collected corpus passes the checks of a delivery, with all its examples."""
    deliver(store, {name: getattr(corpus, name) for name in ("examples", "claims", "owners")}, days=())
    assert read_corpus(store, "corpus").examples.height == corpus.examples.height


def lay_corpus_out(folder, frames: dict[str, pl.DataFrame]) -> None:
    """Write a corpus as a folder."""
    (folder / "corpus").mkdir()
    for name, frame in frames.items():
        frame.write_parquet(folder / "corpus" / f"{name}.parquet")


def lay_out(folder, count: int = 8) -> None:
    """Write the tiny corpus as a folder, and a file of outputs beside it."""
    lay_corpus_out(folder, corpus_frames())
    outputs_frame(count=count).select("output_id", "content").write_parquet(folder / "outputs.parquet")


def request_on(folder: Path, model: Path, count: int = 8, **how):
    """Lay out the tiny corpus and outputs in a folder; returns a request on them."""
    from provenance.local.attribute import Request

    lay_out(folder, count)
    places = {"corpus": folder / "corpus", "outputs": folder / "outputs.parquet", "out": folder / "out"}
    return Request(**({"model": model, "day": date(2026, 11, 20)} | places | how))


def words_of(request, *names: str) -> list[str]:
    """A request as options of a command."""
    names = names or ("corpus", "model", "outputs", "out")
    return [word for name in names for word in (f"--{name}", str(getattr(request, name)))]


def settings_of(store: Store, database: str, model: Path, folder: Path, **more: str) -> dict[str, str]:
    """The environment of nights on a store, with other files in a folder and without the collection of signals."""
    values = {
        "STORE__URL": store.url,
        "STORE__ENDPOINT_URL": store.options.get("endpoint_url", ""),
        "DATABASE__URL": database,
        "MODEL__FOLDER": str(model),
        "MODEL__CACHE": f"{folder}/cache",
        "SETTLEMENT__KEY": f"{folder}/signing.pem",
        "SETTLEMENT__CONTACT": "royalties@example.org",
        "LINEAGE__FOLDER": f"{folder}/lineage",
        "SIGNALS__COLLECT": "false",
    }
    return {f"PROVENANCE_{name}": value for name, value in (values | more).items()}


def enter(patch, environment: dict[str, str]) -> None:
    """Set environment variables of this process."""
    for name, value in environment.items():
        patch.setenv(name, value)


def create_database(postgres: str, template: str = "template1") -> str:
    name = f"test_{uuid.uuid4().hex}"
    administer(postgres.format("postgres"), f"CREATE DATABASE {name} TEMPLATE {template}")
    return postgres.format(name)


def administer(url: str, *statements: str) -> None:
    """Run statements about a whole PostgreSQL server."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def credited_frame(rows) -> pl.DataFrame:
    """The table of credited shares."""
    columns = ["output_id", "account", "party_id", "share_ppb", "low_ppb", "high_ppb", "currency", "amount_nanominor"]
    return pl.DataFrame(list(rows), schema=columns, orient="row")


def bean_check(path: Path) -> str:
    """What `bean-check` says against a file; nothing if it holds."""
    command = [str(Path(sys.executable).with_name("bean-check")), str(path)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bool(checked.returncode) == bool(checked.stderr)
    return checked.stderr


def checked_journal(data: bytes, folder: Path) -> str:
    """The text of a journal that `bean-check` accepts."""
    path = folder / "journal.beancount"
    path.write_bytes(data)
    assert bean_check(path) == ""
    return path.read_text()


def new_bucket(s3: str) -> Store:
    import s3fs

    name = f"test-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(endpoint_url=s3, use_listings_cache=False).mkdir(name)
    return Store(f"s3://{name}/root", {"endpoint_url": s3})


def reword(path: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text in a file; the text must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def train_tiny(folder: Path) -> Path:
    """Train a byte-level transformer of a few thousand parameters in a new folder, with a base and four checkpoints."""
    from transformers import LlamaConfig

    from provenance.models.adapters.causal_lm import CausalLM

    folder.mkdir()
    LlamaConfig(
        vocab_size=257, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=300, tie_word_embeddings=False, bos_token_id=256, eos_token_id=None,
    ).save_pretrained(folder)  # fmt: skip
    contents = corpus_frames()["examples"]["content"].to_list()
    CausalLM(folder, epochs=8, batch_size=16, learning_rate=1e-2).train(contents, seed=1, folder=folder)
    return folder


def train_counterfactuals(folder: Path, model: Path, trainings: int) -> Path:
    """Train counterfactual models on the corpus of `lay_out`; returns their new folder."""
    from provenance.models.counterfactual_training import plan_trainings, train
    from provenance.models.subject import subject_of
    from tasks.where import local_settings, opened

    lay_out(folder)
    with opened(local_settings(device="cpu", workers=1).at(folder / "set", model), ledger=False) as where:
        subject = subject_of(where, folder / "corpus", model, date.fromisoformat(DAY), copies=True)
        train(where, subject, plan_trainings(subject, trainings))
    return folder / "set"


def stack_settings(folder: Path, **ports: int) -> Path:
    """Write settings of a stack in a folder, on free ports."""
    names = ("airflow", "metrics", "s3", "postgres", "dask", "dashboard", "seaweed")
    free = dict(zip(names, weed_ports(7), strict=True))
    lines = [f'folder = "{folder}/stack"', "[ports]", *(f"{name} = {port}" for name, port in (free | ports).items())]
    path = folder / "stack.toml"
    path.write_text("\n".join(lines))
    return path
