"""Commands for influence and shares, without money."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from itertools import pairwise
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text
from typer import Argument, Option

from provenance.core.errors import ContractError, InputError, did_you_mean
from provenance.core.money import NANO, PPB, format_minor, minor_digits
from provenance.core.text import on_screen
from provenance.core.where import Where
from tasks.cli.help import ATTRIBUTION, DECIDE, LOOK, RIGHTS, Command
from tasks.cli.nights import terms_of
from tasks.cli.shared import (
    ClaimsDay,
    CorpusFolder,
    Counterfactuals,
    Duplicates,
    ModelFolder,
    OnDevice,
    OutFolder,
    OutputFile,
    Shown,
    Workers,
    claims_day,
    command,
    day_argument,
    print_json,
    watched,
)  # fmt: skip
from tasks.cli.tables import Grid, more, number, range_of, short, whole
from tasks.settings import load
from tasks.terminal import line
from tasks.where import local_settings, opened

if TYPE_CHECKING:
    import polars as pl

    from provenance.core.store import Store
    from provenance.inputs.contracts import Contract
    from provenance.local.attribute import Request

app = typer.Typer()
# Width of the longest bar of a share.
BAR = 16
# Colours of the parties whose works are shown, the longest excerpt in letters, and the widest picture in columns.
COLOURS = ("cyan", "yellow", "magenta", "green", "red", "blue", "bright_cyan", "bright_magenta")
EXCERPT, PICTURE = 160, 32
Rule = Literal["faithful", "srs", "banzhaf", "proportional", "flat"]


@command(app, group=ATTRIBUTION)
def attribute(
    corpus: CorpusFolder,
    model: ModelFolder,
    outputs: OutputFile,
    out: OutFolder,
    method: Annotated[str, Option(help="fitted, factored or tfidf.")] = "fitted",
    counterfactuals: Counterfactuals = None,
    device: OnDevice = "auto",
    workers: Workers = None,
    day: ClaimsDay = None,
) -> Shown:
    """Measure influence without money: the examples and owners that each output rests on.

    Writes `scores.parquet` (`output_id, example_id, influence`), `owner_influence.parquet` (`output_id, owner_id, influence,
    escrow`), `examples.parquet` (the work of each `example_id`) and a manifest. An influence is positive where the example made
    the output more likely. The weights of its components (rows of the head and of the embedding, inner layers, each checkpoint,
    words) are fitted to a folder of counterfactual models; without one, all gradients have the same weight. Intermediate
    results stay in `work/` below the folder, so that the same command with other outputs computes only their features.

    Example: `provenance attribute --corpus corpus --model var/models/demo-answers --outputs outputs.parquet --out result`
    """
    valid_on = claims_day(day)

    from provenance.local import attribute as influence

    request = influence.Request(corpus, model, outputs, out, valid_on, counterfactuals)
    with watched(), opened(local_settings(method=method, device=device, workers=workers), ledger=False) as where:
        manifest = influence.attribute(where, request)
    yield manifest, attribution_screen(request, manifest)


def attribution_screen(request: Request, manifest: Mapping[str, Any], *, most: int = 12) -> Iterator[RenderableType]:
    """The owners with the most influence, and the tables written."""
    import polars as pl

    out, owners_file = request.out, request.corpus / "owners.parquet"
    names = dict(pl.read_parquet(owners_file, columns=["owner_id", "name"]).iter_rows()) if owners_file.exists() else {}
    influence = pl.read_parquet(out / "owner_influence.parquet")
    positive = pl.col("influence").clip(lower_bound=0)
    total = positive.sum().over("output_id")
    owners = (
        influence.with_columns(part=pl.when(total > 0).then(positive / total).otherwise(0.0))
        .group_by("owner_id")
        .agg(pl.col("influence").mean(), pl.col("part").mean())
        .sort("part", "owner_id", descending=[True, False])
    )
    rows = ((names.get(owner, owner), f"{part:.1%}", f"{mean:+.2f}") for owner, mean, part in owners.head(most).rows())
    columns = (whole("owner"), number("of all positive"), number("mean influence"))
    title = f"Influence on {influence['output_id'].n_unique()} outputs, method {manifest['method']['name']}"
    table = Grid(title, *columns, rows=rows)
    if owners.height > most:
        table.add_row(f"... and {owners.height - most} more", "", "")
    yield table
    if covered := manifest["parameters_covered"]:
        check, left_out = covered["check"], covered["left_out"]
        small = len(left_out) - len(check["not_followed"])
        end = f"; left out: {small} biases and norms" if small else ""
        end += f"; not followed: {', '.join(check['not_followed'])}" if check["not_followed"] else ""
        yield (
            f"Gradients of {covered['share']:.2%} of what is trained were followed, within {check['largest_deviation']:.1g} of "
            f"autograd{end}."
        )
    yield (
        f"Tables: {out / 'scores.parquet'}, {out / 'owner_influence.parquet'}, and {out / 'examples.parquet'} with each "
        "example's work; manifest.json lists their inputs."
    )


@command(app, group=ATTRIBUTION)
def royalty(
    influence: Annotated[Path, Option("--influence", help="Folder that `provenance attribute` wrote.")],
    out: Annotated[Path, Option("--out", help="Parquet file to write.")],
    counterfactuals: Counterfactuals = None,
    rule: Annotated[Rule, Option(help="How an output's pool is divided.")] = "faithful",
    duplicates: Annotated[Duplicates, Option(help="cluster: copies count once.")] = "cluster",
    device: OnDevice = "auto",
    workers: Workers = None,
) -> Shown:
    """Compute owner shares by a royalty rule, for outputs whose influences `provenance attribute` measured.

    `faithful`: what each owner's works add as all owners' works enter together (Aumann-Shapley). `srs`: the Shapley Royalty
    Share of owners. `banzhaf`: what an owner adds to a random half of the others. These three rest on counterfactual models
    (`provenance counterfactuals train`); if there are none, or they do not support the rule, shares are `proportional`, and
    the command reports it. `proportional`: by positive summed influence. `flat`: by tokens, the same for every output. Writes
    `output_id, owner_id, account, share_ppb, low_ppb, high_ppb`; shares are integers that sum to 1,000,000,000 for every
    output, intervals are 90 %.

    Example: `provenance royalty --influence result --counterfactuals models --rule srs --out shares.parquet`
    """
    from provenance.local.royalty import royalty as divide

    copies = duplicates == "cluster"
    with watched(), opened(local_settings(device=device, workers=workers), ledger=False) as where:
        report = divide(where, influence, rule, duplicates=copies, out=out, counterfactuals=counterfactuals)
    yield report, royalty_screen(report, str(out))


def royalty_screen(report: Mapping[str, Any], file: str) -> Iterator[RenderableType]:
    """Mean shares of owners over the outputs, and how reliable they are."""
    shares = list(report["mean_share"].items())
    rows = ((short(owner), f"{share:.2%}") for owner, share in shares[:20])
    table = Grid(
        f"Mean shares of {report['outputs']} outputs, rule {report['paid_by']}", whole("owner"), number("share"), rows=rows
    )
    if report["owners"] > 20:
        table.add_row(f"and {report['owners'] - 20} others", f"{sum(share for _, share in shares[20:]):.2%}", style="dim")
    yield table
    for reason in report["unsupported"]:
        yield line(f"The rule {report['rule']} is not supported, and {report['paid_by']} decides: {reason}", "yellow")
    fidelity = report["counterfactuals"]
    if "lds" in fidelity:
        scores = ", ".join(f"{name} {score['value']:.2f}" for name, score in fidelity["lds"].items())
        covered = ", ".join(f"{name.replace('_', ' ')} {part:.0%}" for name, part in fidelity["intervals_hold"].items())
        models = f"{fidelity['models']} counterfactual models, each left out and predicted"
        yield line(f"{models}: rank correlation {scores}.", "dim")
        yield line(f"90 % intervals contain the models' results: {covered}.", "dim")
    yield f"{file}: a row for each output and owner. Outputs without a credited owner: {report['unattributed']}."


@command(app, group=LOOK)
def explain(
    where: Where,
    output_id: Annotated[str, Argument(help="The output, as the day's outputs name it.")],
    day: Annotated[str | None, Option(help="Look at this day only; by default the latest with that output.")] = None,
    most: Annotated[int, Option(min=1, help="Owners listed, besides those whose works a span rests on most.")] = 5,
    rules: Annotated[bool, Option("--rules", help="Show each owner's share under every royalty rule.")] = False,
) -> Shown:
    """Show who made an output possible: owners with shares and intervals, and the passages of their works.

    The answer's words have the number of the owner whose works they rest on most, for as many outputs of a night as
    `credits.outputs` says. What stands word for word in works is underlined.

    Example: `provenance explain 2026-11-20-007`
    """
    report = _explained(where.store, output_id, day_argument(day) if day else None)
    yield report, output_screen(report, most, rules=rules)


def _explained(store: Store, output_id: str, day: str | None) -> dict[str, Any]:
    from provenance.core.published import published_days
    from provenance.settlement.exports.explain import explain as explain_output

    published = published_days(store)
    report = explain_output(store, output_id, [day] if day else reversed(published))
    if report is None:
        outputs = _outputs_near(store, output_id, day or next(reversed(published), None))
        near = did_you_mean(output_id, outputs)
        such = f"For example: {', '.join(outputs[:3])}." if outputs else "No day is published yet; try make demo."
        raise ContractError(
            f"output {output_id!r}",
            expected=f"an output of {day}" if day else "an output of a published day",
            found="none",
            hint=near or such,
        )
    return report


def output_screen(report: Mapping[str, Any], most: int, *, rules: bool = False) -> Iterator[RenderableType]:
    """One output: what was asked and answered, its owners with shares, intervals and amounts, and the works behind each."""
    currency, contract, credits = report["currency"], report["contract"], report["credits"]
    title = f"{report['output_id']} of {report['day']}, {format_minor(report['revenue_minor'], currency)}"
    if report["prompt"]:
        from provenance.settlement.exports.shown import melody

        asked = melody(report["prompt_notes"]) or report["prompt"]
        yield Panel(_wrapped(asked), title="asked", title_align="left", expand=False, border_style="dim")
    yield Panel(_answer(report), title=line(title), title_align="left", expand=False)
    if report["spans"] and any(span["party"] for span in report["spans"]):
        yield line("Numbers and colours: whose works the words before rest on most. It changes no amount.", "dim")
    elif report.get("without_colour"):
        yield line(report["without_colour"], "dim")
    if report["word_for_word"]:
        yield line("Underlined: stands word for word in works that the model was trained on, listed below.", "dim")
    developer = f"{contract['developer_ppb'] / PPB:.2%}".replace(".00%", "%")
    terms = terms_of(contract, report["fidelity"])
    yield line(f"{terms}; the developer keeps {developer}, shares are of the rest.", "dim")
    yield line(report["trust"], "dim")
    yield line(f"Who made it possible: share, range of 90 %, {currency}, and the works behind it", "bold")
    widest = max((credit["share_ppb"] for credit in credits), default=1)
    spanned = {span["party"] for span in report["spans"]}
    for credit in (credit for credit in credits if credit["number"] <= most or credit["number"] in spanned):
        share, interval = f"{credit['share_ppb'] / PPB:.2%}", range_of(credit["low_ppb"] / PPB, credit["high_ppb"] / PPB)
        bar = "█" * max(1, round(BAR * credit["share_ppb"] / widest))
        amount = _fractional(credit["amount_nanominor"], currency)
        name = f"{credit['number']:>2}  {short(_party(credit), 28)}"
        yield line(f"{name:<34}{share:>7} {bar:<{BAR}} {interval:>10}{amount:>11}", _colour(report, credit["number"]))
        if credit["sure"]:
            yield line(f"    {credit['sure']}", "dim")
        if credit["works"]:
            yield from (part for work in credit["works"] for part in _work_lines(work))
        else:
            yield from (line(f"    {work}", "dim") for work in dict.fromkeys(work["work_id"] for work in credit["top_works"]))
        if credit["rules"] and rules:
            shares = ", ".join(f"{row['rule']} {row['share_ppb'] / PPB:.1%}" for row in credit["rules"])
            yield line(f"    under each rule: {shares}", "dim")
    rest = [credit for credit in credits if credit["number"] > most and credit["number"] not in spanned]
    if rest:
        others = f"{len(rest)} {'other' if len(rest) == 1 else 'others'}"
        share = f"{sum(credit['share_ppb'] for credit in rest) / PPB:.2%}"
        yield line(f"and {others} with {share} together (--most {len(credits)} lists them)", "dim")
    for match in report["word_for_word"]:
        more_works = match["works_in_all"] - len(match["works"])
        titles = "; ".join(work["title"] for work in match["works"]) + (f"; and {more_works} more" if more_works > 0 else "")
        yield line(f"Word for word: {_excerpt(match['text'])!r} stands in {titles}")
    if report["notice"]:
        yield line(report["notice"], "bold yellow")


def _answer(report: Mapping[str, Any]) -> Text:
    """The output: text with the numbers of those whose works its spans rest on, notes, or a picture."""
    if report["picture"]:
        return picture(report["picture"])
    if report["notes"]:
        from provenance.settlement.exports.shown import melody

        return _wrapped(melody(report["notes"]))
    if not report["spans"]:
        return _wrapped(report["text"] or report["content"])
    text, spans = _wrapped(), [*report["spans"], {"party": None}]
    for span, following in pairwise(spans):
        style = f"{_colour(report, span['party'])} {'underline' if span['word_for_word'] else ''}".strip()
        text.append(span["text"], style)
        if span["party"] and span["party"] != following["party"]:
            text.append(f"[{span['party']}]", "dim")
    return text


def _wrapped(text: str = "") -> Text:
    """Text that is broken where its panel ends, also where lines of a screen are not."""
    return Text(on_screen(text), no_wrap=False, overflow="fold")


def _colour(report: Mapping[str, Any], number: int | None) -> str:
    """The colour of a party among those whose works are shown; empty for others."""
    leading = [credit["number"] for credit in report["credits"] if credit["leading"]]
    return COLOURS[leading.index(number) % len(COLOURS)] if number in leading else ""


def _work_lines(work: Mapping[str, Any]) -> Iterator[RenderableType]:
    """A work: title, licence, address, and a passage of it."""
    from provenance.settlement.exports.shown import melody

    yield line(f"    {work['title']}" + (f", {work['licence']}" if work["licence"] else ""))
    if work["link"]:
        yield line(f"    {work['link']}", "dim")
    for passage in work["passages"]:
        if passage["picture"]:
            yield Padding(picture(passage["picture"]), (0, 0, 0, 6))
        elif passage["notes"]:
            yield line(f"      {melody(passage['notes'])}", "italic")
        elif passage["pieces"]:
            yield line(f"      “{_excerpt(''.join(piece['text'] for piece in passage['pieces']))}”", "italic")


def _excerpt(text: str) -> str:
    """The beginning of a text, on one line."""
    return shorten(text, EXCERPT, placeholder=" …")


def picture(png: str) -> Text:
    """A picture (base64 of a PNG file) in blocks of two shades, each two pixels high."""
    from base64 import b64decode

    from provenance.core.images import shades

    light = shades(b64decode(png), PICTURE)
    rows = [*light, [False] * len(light[0])] if len(light) % 2 else light
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return Text("\n".join("".join(" ▀▄█"[up + 2 * down] for up, down in zip(*pair, strict=True)) for pair in pairs))


def _party(credit: Mapping[str, Any]) -> str:
    from provenance.core.tables import UNATTRIBUTED

    if credit["escrow_id"]:
        return f"escrow: {credit['escrow_id']}"
    if not credit["owner_id"]:
        return "nobody (unattributed)"
    name = str(credit["owner_name"] or credit["owner_id"])
    return f"{name} (no money)" if credit["account"] == UNATTRIBUTED else name


def _fractional(nanominor: int, currency: str) -> str:
    """An amount of one output, cut to a thousandth of a minor unit; payouts round once per owner and day."""
    minor, rest = divmod(nanominor, NANO)
    point = "" if minor_digits(currency) else "."
    return f"{format_minor(minor, currency, symbol=False)}{point}{rest // 1_000_000:03d}"


def _outputs_near(store: Store, output_id: str, day: str | None) -> list[str]:
    """The outputs of a published day: the one that the id begins with, or else another."""
    from provenance.core.published import in_force, published_days
    from provenance.settlement.exports.export import read_credits

    days = published_days(store)
    named = next((each for each in days if output_id.startswith(each)), day)
    if not named:
        return []
    return read_credits(store, in_force(store, named)["folder"], "output_id")["output_id"].unique().sort().to_list()


@command(app, group=RIGHTS)
def duplicates(where: Where, most: Annotated[int, Option(min=1, help="Clusters listed.")] = 20) -> Shown:
    """List copies among the works of the corpus in force, exact and near, and their claimants.

    A cluster counts as one work, for the earliest claim; claims of one date, or of none, have equal parts. To contest one,
    deliver `decisions.parquet` with the corpus (`example_id, same_as, decided_by, reason`): without `same_as` the example
    stands alone, with it the example is a copy of the named one.

    Example: `provenance duplicates --most 50`
    """
    table = read_duplicates(where.store)
    listed = table["cluster_id"].unique(maintain_order=True).head(most).implode()
    rows = table.filter(table["cluster_id"].is_in(listed)).to_dicts()
    yield rows, duplicates_screen(table, most=most)


def read_duplicates(store: Store) -> pl.DataFrame:
    """The members of all clusters of copies in the corpus in force, largest cluster first, with claimants and `since`."""
    import polars as pl

    from provenance.corpus.ownership import held_since
    from provenance.corpus.shards import corpus_in_force, read_examples

    frozen = corpus_in_force(store)
    if frozen.duplicates is None:
        expected = "one in which copies were looked for"
        raise ContractError(f"corpus {frozen.digest[:12]}", expected=expected, found="none", hint="Ingest it again.")
    examples = read_examples(store, frozen, "example_id", "work_id", "owner_id", "acquired_at", "source_uri")
    members = store.read_table(frozen.duplicates.key).join(examples, on="example_id", maintain_order="left")
    holders = held_since(members, store.read_table(frozen.claims.key), datetime.now(UTC).date())
    owners = holders.group_by("work_id").agg(owners=pl.col("party_id"), since=pl.col("since").min())
    sizes = members.group_by("cluster_id").len("size")
    rows = (
        members.drop("owner_id", "acquired_at").join(owners, on="work_id", maintain_order="left").join(sizes, on="cluster_id")
    )
    return rows.sort("size", "cluster_id", "example_id", descending=[True, False, False]).drop("size")


def duplicates_screen(table: pl.DataFrame, *, most: int) -> Iterator[RenderableType]:
    """Clusters of copies, in the table's order."""
    clusters = table["cluster_id"].unique(maintain_order=True)
    dated, decided = table["since"].null_count() < table.height, bool((table["decision"] != "").any())
    headings = ("cluster", "work", "owners", *["since"] * dated, "alike", *["decided by"] * decided)
    grid = Grid(f"{len(clusters)} works that there are copies of, {table.height} examples in all", *headings)
    for cluster in clusters.head(most):
        for position, row in enumerate(table.filter(table["cluster_id"] == cluster).iter_rows(named=True)):
            cells = ["" if position else str(cluster)[:12], row["work_id"], ", ".join(row["owners"])]
            cells += [str(row["since"] or "-")] * dated + [f"{row['similarity']:.2f}"] + [row["decision"]] * decided
            grid.add_row(*cells)
    yield grid
    if len(clusters) > most:
        yield more(len(clusters) - most, f" (--most {len(clusters)} lists them)")
    yield line(
        "A cluster counts as one work. The contract says for whom: by default for the earliest claim of a member; "
        "claims of one date, or of none, have equal parts.",
        "dim",
    )


@command(app, group=DECIDE)
def contracts(
    file: Annotated[Path | None, Argument(help="A TOML file; by default that of the settings.")] = None,
    name: Annotated[str, Option("--contract", metavar="NAME", help="Show this contract only.")] = "",
) -> Shown:
    """Check a file of royalty contracts and show the terms of each, without running a night.

    Example: `provenance contracts infra/settings/contracts.toml`
    """
    from provenance.inputs.contracts import read_contracts

    path = file or load().royalty.contracts
    terms = read_contracts(path)
    if name:
        names = [contract.name for contract in terms]
        if name not in names:
            hint = did_you_mean(name, names) or f"There are: {', '.join(names)}."
            raise InputError("--contract", expected=f"a contract of {path}", found=repr(name), hint=hint)
        terms = tuple(contract for contract in terms if contract.name == name)
    yield [contract.model_dump(mode="json") for contract in terms], [contracts_table(terms)]


def contracts_table(contracts: Sequence[Contract]) -> Grid:
    """The terms of contracts, one in a column."""
    terms = [contract.model_dump(mode="json") for contract in contracts]
    rows = ((key, *(_term(key, contract[key]) for contract in terms)) for key in terms[0] if key != "name")
    title = "Royalty contracts: of several that cover an output, the first counts"
    return Grid(title, "", *(contract["name"] for contract in terms), rows=rows)


def _term(key: str, value: object) -> str:
    if key.endswith("_ppb"):
        return f"{Decimal(str(value)) / PPB:.9%}".rstrip("%").rstrip("0").rstrip(".") + " %"
    return ", ".join(value) if isinstance(value, list) else str(value)


NOWHERE = Path()
ALL_PARTS = "features,scoring,memory,workers,night,likelihoods,royalty"
MADE_UP = ("royalty", "ingest", "scale")  # parts that need no folders
WorkloadName = Literal[
    "code", "subwords", "large", "glyphs", "music", "languages", "eight", "designers", "composers", "facts", "styles", "smollm"
]


@command(app, group=ATTRIBUTION)
def workload(
    name: Annotated[WorkloadName, Argument(help="One of those above.")],
    out: Annotated[Path, Argument(help="Folder to write corpus/, model/ and outputs.parquet to.")],
) -> Shown:
    """Make a workload for audits: a corpus with real owners, a small model trained on it, and outputs.

    `code`: Python sources by their authors, a byte-level transformer. `subwords`, `large`: the same with subword tokens, and
    with a larger model trained longer. `glyphs`: letters by their typefaces' designers, a diffusion model. `music`: melodies
    by their composers. With few owners, so that every coalition of them can be trained: `languages` (seven, of various kinds
    of files in installed packages, one a copyist; bytes), `eight` (the same without the copyist; subwords), `designers` and
    `composers` (eight of each); made up: `facts`, which a transformer remembers and is asked for by prompts, and `styles` of
    drawing, by a UNet of the library diffusers. `smollm`: answers about classes and functions of ten packages by SmolLM2, a
    pretrained language model, with LoRA. Letters, melodies and styles need `make workloads`, SmolLM2 needs `make smollm`.

    Example: `provenance workload music var/workloads/music`, then `provenance audit lds --corpus var/workloads/music/corpus
    --model var/workloads/music/model --outputs var/workloads/music/outputs.parquet --out var/workloads/music/audit`
    """
    from provenance.validation.workload import make

    with watched():
        facts = make(name, out)
    model = f"a model of {facts['parameters']:,} parameters with {len(facts['checkpoints'])} checkpoints"
    yield facts, [f"{out}: {facts['examples']} examples by {facts['owners']} owners, {facts['outputs']} outputs, {model}"]


@app.command(cls=Command, rich_help_panel=ATTRIBUTION)
def bench(
    corpus: CorpusFolder = NOWHERE,
    model: ModelFolder = NOWHERE,
    outputs: OutputFile = NOWHERE,
    parts: Annotated[str, Option(help="Parts to run, with commas between.")] = ALL_PARTS,
    examples: Annotated[int, Option(min=1000, help="Works in the deliveries that ingest and scale make up.")] = 100_000,
    device: OnDevice = "auto",
) -> None:
    """Measure the cost of attribution on this machine, as JSON: ratios of two times, measured alternately.

    `features`: CPU time of gradient features against a bare forward and backward pass on the same batches, without and with
    normalisers and writing; bytes per example. `scoring`: against a dense matrix product of as many numbers. `memory`: peak
    for a corpus ten times larger against that for a small one. `workers`: one against two. `night`: one without new inputs
    against one with all inputs new. `likelihoods`: the cost of a counterfactual model each night against a forward and backward
    pass. `royalty`: the estimate of shares on synthetic counterfactual models. Run it on an otherwise idle machine.

    Two parts are not run unless they are named; they need no folders, and neither does `royalty`. `ingest`: a made-up delivery
    of `--examples` texts of 500 bytes with one worker and with two, against reading, hashing and sketching them in one loop.
    `scale`: a whole night on such a delivery, with 10,000 owners, 1,000 outputs and 32 counterfactual models; seconds,
    processor time, peak memory and bytes of every stage. Its models are tiny and learn from 64 texts each; features have one
    checkpoint and 128 numbers. A million works take 40 minutes of two cores, and 8 GB for temporary files (TMPDIR).

    Example: `provenance workload code var/workloads/code`, then `provenance bench --corpus var/workloads/code/corpus
    --model var/workloads/code/model --outputs var/workloads/code/outputs.parquet`
    """
    from provenance.local.attribute import Request
    from provenance.validation import cost

    names = parts.split(",")
    if unknown := [name for name in names if name not in cost.PARTS]:
        raise InputError("--parts", expected=f"some of {', '.join(cost.PARTS)}", found=repr(unknown[0]))
    if not set(names) <= set(MADE_UP):
        for option, given in (("--corpus", corpus), ("--model", model), ("--outputs", outputs)):
            if given == NOWHERE:
                hint = "Make the folders: provenance workload code var/workloads/code. `make bench` does, and runs all parts."
                raise InputError(option, expected=f"a path, for parts other than {', '.join(MADE_UP)}", found="none", hint=hint)
    request = Request(corpus, model, outputs, Path(), claims_day(None))
    settings = local_settings(method="factored", device=device, workers=None)
    with watched():
        print_json(cost.bench(request, settings, names, partial(opened, ledger=False), examples=examples))
