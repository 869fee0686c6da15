"""Small inputs that tests share, and the servers that they need."""

import uuid
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import sqlalchemy as sa
from servers import weed_ports

from provenance.core.store import Store

DAY = "2026-11-19"
# A real browser, where there is one: `make test` installs it where it may.
CHROMIUM = Path("/usr/bin/chromium")
# Names as strangers may supply them: owners, works, escrow, outputs, addresses, notices, reasons.
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
# Those of them that a delivery may name something by: the others are refused before they name anything.
UNSEEN = {chr(c) for c in (*range(32), *range(127, 160))} | set("\u2028\u2029\u202e\u2066\u2069\ufeff")
HOSTILE_IDS = tuple(name for name in HOSTILE if name.strip() and len(name.encode()) <= 1000 and not UNSEEN & set(name))
WORDS = ["grape", "stone", "river", "cloud", "amber", "north", "quiet", "seven", "lantern", "orchid", "paper", "violet"]


def sentence(owner: int, number: int, words: int = 14) -> bytes:
    """Text in which each owner has favourite words, so that influence has something to find."""
    own = [WORDS[owner], WORDS[(owner + 1) % len(WORDS)]]
    chosen = [own[(number * k + k // 2) % 2] if (number + k) % 3 else WORDS[(number * 7 + k * 5) % 12] for k in range(words)]
    return (" ".join(chosen) + f" {number}.").encode()


def corpus_frames(owners: int = 5, each: int = 12) -> dict[str, pl.DataFrame]:
    """Examples of `owners` owners; the last one's works are unmatched, the first work has two claimants."""
    rows, claims = [], []
    for owner in range(owners):
        matched = owner < owners - 1
        for number in range(each):
            work = f"work-{owner}-{number // 3}"
            rows.append(
                {
                    "work_id": work,
                    "content": sentence(owner, number),
                    "position": number % 3,
                    "source_uri": f"https://example.org/{work}",
                    "owner_id": None if matched else "unmatched-somebody",
                    "unmatched_reason": None if matched else "no author is named",
                }
            )
            if matched and number % 3 == 0:
                stakes = {f"owner-{owner}": 600_000_000, "owner-1": 400_000_000} if (owner, number) == (0, 0) else None
                for who, stake in (stakes or {f"owner-{owner}": 1_000_000_000}).items():
                    claims.append({"work_id": work, "owner_id": who, "stake_ppb": stake})
    names = [{"owner_id": f"owner-{owner}", "name": f"Owner {owner}, Ltd."} for owner in range(owners - 1)]
    return {
        "examples": pl.DataFrame(rows, infer_schema_length=None),
        "claims": pl.DataFrame(claims),
        "owners": pl.DataFrame(names),
    }


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


def deliver(store: Store, frames: dict[str, pl.DataFrame], days: tuple[str, ...] = (DAY,)) -> None:
    """Lay a corpus and days of outputs where data teams would."""
    for name, frame in frames.items():
        store.write_table(f"corpus/{name}.parquet", frame)
    for day in days:
        store.write_table(f"outputs/day={day}/part.parquet", outputs_frame(day))


def lay_out(folder, count: int = 8) -> None:
    """The corpus as a folder, and a file of outputs beside it."""
    (folder / "corpus").mkdir()
    for name, frame in corpus_frames().items():
        frame.write_parquet(folder / "corpus" / f"{name}.parquet")
    outputs_frame(count=count).select("output_id", "content").write_parquet(folder / "outputs.parquet")


def settings_of(store: Store, database: str, model: Path, folder: Path, **more: str) -> dict[str, str]:
    """The environment of nights on a store; what they keep besides lies in a folder, and nobody is asked for signals."""
    values = {
        "STORE__URL": store.url,
        "STORE__ENDPOINT_URL": store.options.get("endpoint_url", ""),
        "DATABASE__URL": database,
        "MODEL__FOLDER": str(model),
        "MODEL__CACHE": f"{folder}/cache",
        "SETTLEMENT__KEY": f"{folder}/signing.pem",
        "LINEAGE__FOLDER": f"{folder}/lineage",
        "SIGNALS__COLLECT": "false",
    }
    return {f"PROVENANCE_{name}": value for name, value in (values | more).items()}


def enter(patch, environment: dict[str, str]) -> None:
    """Make an environment that of this process."""
    for name, value in environment.items():
        patch.setenv(name, value)


def create_database(postgres: str, template: str = "template1") -> str:
    name = f"test_{uuid.uuid4().hex}"
    engine = sa.create_engine(postgres.format("postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    return postgres.format(name)


def new_bucket(s3: str) -> Store:
    import s3fs

    name = f"test-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(endpoint_url=s3, use_listings_cache=False).mkdir(name)
    return Store(f"s3://{name}/root", {"endpoint_url": s3})


def train_tiny(folder: Path) -> Path:
    """A byte-level transformer of a few thousand parameters in a new folder, with a base and four checkpoints."""
    from transformers import LlamaConfig

    from provenance.features.adapters.causal_lm import CausalLM

    folder.mkdir()
    LlamaConfig(
        vocab_size=257, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=300, tie_word_embeddings=False, bos_token_id=256, eos_token_id=None,
    ).save_pretrained(folder)  # fmt: skip
    contents = corpus_frames()["examples"]["content"].to_list()
    CausalLM(folder, epochs=8, batch_size=16, learning_rate=1e-2).train(contents, seed=1, folder=folder)
    return folder


def train_counterfactuals(folder: Path, model: Path, trainings: int) -> Path:
    """Counterfactual models on the corpus that `lay_out` lays out, in a new folder below one."""
    from tasks.attribute import local_settings
    from tasks.counterfactuals import planned, subject_of, train

    lay_out(folder)
    settings = local_settings(device="cpu", workers=1).at(folder / "set", model)
    subject = subject_of(settings, folder / "corpus", model, date.fromisoformat(DAY), copies=True)
    train(subject, planned(subject, trainings), settings)
    return folder / "set"


def stack_settings(folder: Path, **ports: int) -> Path:
    """Settings of a stack in a folder, on free ports."""
    names = ("airflow", "metrics", "s3", "postgres", "dask", "dashboard", "seaweed")
    free = dict(zip(names, weed_ports(7), strict=True))
    lines = [f'folder = "{folder}/stack"', "[ports]", *(f"{name} = {port}" for name, port in (free | ports).items())]
    path = folder / "stack.toml"
    path.write_text("\n".join(lines))
    return path
