"""What a person looks at: one day's payouts, one output's credits, the outcome of checks. Tables for a terminal."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl
from rich import box
from rich.filesize import decimal
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from provenance.core.contracts import ESCROW, PAYABLE, UNATTRIBUTED
from provenance.core.errors import ContractError
from provenance.core.money import NANO, PPB, format_minor, minor_digits
from provenance.corpus.examples import held_since
from provenance.corpus.shards import corpus_in_force, read_examples
from provenance.inputs.contracts import Contract
from provenance.royalty.shares import over_night
from provenance.settlement.accounts import CHART, HELD, TOTALS
from provenance.settlement.exports.explain import explain
from provenance.settlement.exports.export import published_days, read_export
from provenance.settlement.exports.trust import in_words
from provenance.settlement.months.closings import ranges, unpaid
from provenance.settlement.months.periods import LACKING, NO_RATE, ON_HOLD
from provenance.settlement.months.settling import WAITING
from tasks.terminal import cell, line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from provenance.core.store import Store
    from provenance.local.attribute import Request
    from provenance.settlement.exports.verification import Check
    from provenance.validation.retention import Removal

BAR = 16
ENDS = pl.col("share_ppb", "low_ppb", "high_ppb")
NAME = 20


def owners_screen(store: Store, day: str, *, most: int = 20) -> Iterator[RenderableType]:
    """One day: what each owner earned, what went to escrow and why, and that it adds up."""
    manifest, payouts, credits = read_export(store, day)
    currencies = list(manifest["totals"])
    count = credits["output_id"].n_unique()
    owners = (
        credits.filter(pl.col("account") == PAYABLE)
        .group_by("owner_id")
        .agg(outputs=pl.len())
        .join(_means(credits), on="owner_id")
        .select("owner_id", ENDS / PPB, "outputs")
        .sort("share_ppb", "owner_id", descending=[True, False])
    )
    money = {
        (o, c): (e, b)
        for o, c, e, b in payouts.select("owner_id", "currency", "earned_minor", "closing_balance_minor").iter_rows()
    }
    names = dict(payouts.select("owner_id", "owner_name").iter_rows())

    headings = ["mean\nshare", "range", "out-\nputs", *(f"{c}\n{of}" for of in ("earned", "balance") for c in currencies)]
    title = f"Payouts for {day}, revision {manifest['revision']}: {count} outputs of {cell(manifest['inputs']['model_id'])}"
    # The owner alone gives way where the screen is narrow: a name that is broken can be read, a number cannot.
    table = titled(title, "owner", *(number(heading, no_wrap=True) for heading in headings))
    for owner, share, low, high, outputs in owners.head(most).iter_rows():
        amounts = [money.get((owner, c), (0, 0)) for c in currencies]
        table.add_row(
            _name(names.get(owner, owner)),
            f"{share:.2%}",
            _range(low, high),
            str(outputs),
            *(format_minor(of[i], c, symbol=False) for i in (0, 1) for of, c in zip(amounts, currencies, strict=True)),
        )
    rest = owners.slice(most)
    if rest.height:
        sums = [[sum(money.get((o, c), (0, 0))[i] for o in rest["owner_id"]) for c in currencies] for i in (0, 1)]
        told = (format_minor(a, c, symbol=False) for row in sums for a, c in zip(row, currencies, strict=True))
        table.add_row(f"and {rest.height} others", f"{rest['share_ppb'].sum():.2%}", "", "", *told, style="dim")
    yield table
    yield _escrow_table(manifest)
    yield _totals_table(manifest)
    owed = ", ".join(
        f"{format_minor(b[PAYABLE] + b[HELD], c)} to owners and {format_minor(b[ESCROW], c)} in escrow"
        for c, b in manifest.get("trial_balance", {}).items()
    )
    yield Text(f"Owed after this booking (number {manifest['booking_id']}): {owed or 'nothing'}.")
    if manifest["revision"] > 1:
        yield Text("A later revision takes back what earlier ones had booked for the day: adjustment_minor in payouts.csv.")
    for contract in manifest["contract"]["contracts"]:
        if contract["name"] in manifest["contract"]["weights"]:
            terms = contract | {"weight": manifest["contract"]["weights"][contract["name"]]}
            measured = manifest.get("fidelity", {}).get(contract["name"])
            yield line(f"{_terms(terms, measured)}.", style="bold yellow" if terms["weight"] < 1 else "")
    if credits.height:
        yield Text(in_words([manifest.get("fidelity")]))
    yield Text("Shares are means over the day's outputs, whatever each earned; escrow has the rest.", style="dim")
    if manifest["notice"]:
        yield line(manifest["notice"], style="bold yellow")


def output_screen(
    store: Store, output_id: str, day: str | None, *, most: int = 10
) -> tuple[dict[str, Any], list[RenderableType]]:
    """One output: its owners with shares, intervals and amounts, and the works behind each. Also as plain data."""
    published = published_days(store)
    data = explain(store, output_id, [day] if day else reversed(published))
    if data is None:
        known = read_export(store, published[-1])[2]["output_id"].unique().sort().head(3).to_list() if published else []
        raise ContractError(
            f"output {output_id!r}",
            expected=f"an output of {day}" if day else "an output of a published day",
            found="none",
            hint=f"For example: {', '.join(known)}." if known else "No day is published yet; try make demo.",
        )
    return data, list(_output_tables(data, most))


def _means(credits: pl.DataFrame) -> pl.DataFrame:
    """Owners' mean shares of the day's outputs, whatever each earned, with intervals."""
    shares = credits.select("output_id", "account", pl.coalesce("owner_id", "escrow_id", pl.lit("")).alias("party_id"), ENDS)
    pools = shares.select("output_id", currency=pl.lit(""), pool=1).unique()
    return over_night(shares, pools).filter(pl.col("account") == PAYABLE).select(pl.col("party_id").alias("owner_id"), ENDS)


def contracts_screen(contracts: Sequence[Contract]) -> Table:
    """What each contract says, a column for each."""
    said = [contract.model_dump(mode="json") for contract in contracts]
    title = "Royalty contracts: of several that cover an output, the first counts"
    rows = ((key, *(_said(key, contract[key]) for contract in said)) for key in said[0] if key != "name")
    return titled(title, "", *(cell(contract["name"]) for contract in said), rows=rows)


def _said(key: str, value: object) -> str:
    if key.endswith("_ppb"):
        return f"{Decimal(str(value)) / PPB:.9%}".rstrip("%").rstrip("0").rstrip(".") + " %"
    return cell(", ".join(value) if isinstance(value, list) else str(value))


def checks_screen(checks: Sequence[Check]) -> Table:
    """What was checked, and what was wrong."""
    table = titled("", whole("check"), "outcome")
    for check in checks:
        problems = "\n".join(map(cell, check.problems))
        table.add_row(check.name, "[green]holds[/]" if check.passed else f"[bold red]{problems}[/]")
    return table


def balance_screen(found: dict[str, Any]) -> Iterator[RenderableType]:
    """What `provenance balance` shows."""
    if "owner_id" in found:
        yield from _account_tables(found)
        return
    by_currency = found["trial_balance"]
    rows = [(name, *(format_minor(row[name], c, symbol=False) for c, row in by_currency.items())) for name in CHART]
    yield titled(f"Trial balance after booking {found['through']}", "account", *map(number, by_currency), rows=rows)
    yield Text("receivable = the sum of all others", style="dim")
    held = [(cell(owner), cell("; ".join(reasons))) for owner, reasons in found["holds"].items()]
    yield titled("Holds in force", "owner", "because", rows=held) if held else Text("No hold is in force.")
    kept = [(cell(r["escrow_id"]), r["since"], format_minor(r["amount_minor"], r["currency"])) for r in found["escrow"]]
    escrow = titled("In escrow, until somebody claims it", "kept for", "since", number("amount"), rows=kept)
    yield escrow if kept else Text("Nothing is in escrow.")


def _account_tables(found: dict[str, Any]) -> Iterator[RenderableType]:
    accounts = [(row["account"], format_minor(row["amount_minor"], row["currency"])) for row in found["accounts"]]
    yield titled(f"Accounts of {cell(found['owner_id'])}", "account", number("amount"), rows=accounts)
    for reason in found["holds"]:
        yield line(f"On hold: {reason}", style="bold yellow")
    booked = titled("Bookings", "number", "for", "booked", "kind", number("entries"), "says")
    for booking in found["bookings"]:
        entries = [f"{row['account']} {format_minor(row['amount_minor'], row['currency'])}" for row in booking["entries"]]
        said = ", ".join(f"{name} {_fact(value)}" for name, value in booking["facts"].items() if name != "owner_id")
        when = booking["booked_at"][:16].replace("T", " ")
        booked.add_row(str(booking["booking_id"]), booking["day"], when, booking["kind"], "\n".join(entries), cell(said))
    yield booked


def _fact(value: object) -> str:
    """What a booking says; a booking of many says how many, since the others are nobody else's affair."""
    return f"of {len(value)}" if isinstance(value, list) else str(value)


def _terms(contract: Mapping[str, Any], measured: Mapping[str, Any] | None) -> str:
    """By which rule a contract pays, in a few words, and, by what the night measured, why if it is not its own."""
    name, rule, weight = contract["name"], contract["rule"], contract["weight"]
    if weight == 1:
        return f"Contract {name!r} pays by {rule}"
    why = "; ".join(measured["failed"]) if measured else ""
    paid = f"{weight:.0%} by {rule}, {1 - weight:.0%} by {contract['fallback']}"
    return f"Contract {name!r} pays {paid} ({why or 'see signal_to_noise'})"


def _output_tables(data: dict[str, Any], most: int) -> Iterator[RenderableType]:
    currency = data["currency"]
    title = f"{data['output_id']} of {data['day']}, {format_minor(data['revenue_minor'], currency)}"
    contract = data["contract"]
    yield Panel(Text(data["content"]), title=line(title), expand=False)
    kept = f"{contract['developer_ppb'] / PPB:.2%}".replace(".00%", "%")
    yield line(f"{_terms(contract, data['fidelity'])}; the developer keeps {kept}, shares are of the rest.", style="dim")
    yield Text(data["trust"], style="dim")
    yield Text(f"Who made it possible: share, range, {currency}, and the works behind it, most influential first", style="bold")
    widest = max((credit["share_ppb"] for credit in data["credits"]), default=1)
    for credit in data["credits"][:most]:
        share, spread = f"{credit['share_ppb'] / PPB:.2%}", _range(credit["low_ppb"] / PPB, credit["high_ppb"] / PPB)
        bar = "█" * max(1, round(BAR * credit["share_ppb"] / widest))
        amount = _fractional(credit["amount_nanominor"], currency)
        yield line(f"{_who(credit):<34}{share:>7} {bar:<{BAR}} {spread:>10}{amount:>11}")
        if credit["rules"]:
            other = ", ".join(f"{ruled['rule']} {ruled['share_ppb'] / PPB:.1%}" for ruled in credit["rules"])
            yield line(f"    under each rule: {other}", style="dim")
        for work in dict.fromkeys(work["work_id"] for work in credit["top_works"]):
            yield line(f"    {work}", style="dim")
    rest = data["credits"][most:]
    if rest:
        share = sum(credit["share_ppb"] for credit in rest) / PPB
        yield Text(f"and {len(rest)} others with {share:.2%} together (--most {len(data['credits'])} lists them)", style="dim")
    if data["notice"]:
        yield line(data["notice"], style="bold yellow")


def titled(title: str, *columns: str | Column, rows: Iterable[Iterable[RenderableType]] = ()) -> Table:
    """A table that fits a terminal of 80 columns; text is broken where it lacks room and never cut: people match ids."""
    headings = (Column(column, overflow="fold") if isinstance(column, str) else column for column in columns)
    looks: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "box": box.SIMPLE_HEAD}
    table = Table(*headings, title=title, pad_edge=False, collapse_padding=True, **looks)
    for row in rows:
        table.add_row(*row)
    return table


def number(heading: str, *, no_wrap: bool = False) -> Column:
    """A column of numbers, which stand to the right."""
    return Column(heading, justify="right", no_wrap=no_wrap)


def whole(heading: str) -> Column:
    """A column that leaves it to the others to give way."""
    return Column(heading, no_wrap=True)


def _name(name: str) -> str:
    return cell(name if len(name) <= NAME else f"{name[: NAME - 1]}…")


def _who(credit: dict[str, Any]) -> str:
    if credit["escrow_id"]:
        return f"escrow: {credit['escrow_id']}"
    if not credit["owner_id"]:
        return "nobody (unattributed)"
    name = str(credit["owner_name"] or credit["owner_id"])
    return f"{name} (no money)" if credit["account"] == UNATTRIBUTED else name


def _range(low: float, high: float) -> str:
    return f"{low * 100:.1f}-{high:.1%}"


def _fractional(nanominor: int, currency: str) -> str:
    """An amount of one output, cut to a thousandth of a minor unit; payouts round once per owner and day."""
    minor, rest = divmod(nanominor, NANO)
    point = "" if minor_digits(currency) else "."
    return f"{format_minor(minor, currency, symbol=False)}{point}{rest // 1_000_000:03d}"


def _escrow_table(manifest: Mapping[str, Any]) -> Table:
    amounts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in manifest["escrow"]:
        amounts[row["escrow_id"], row["reason"]].append(format_minor(row["amount_minor"], row["currency"]))
    rows = ((cell(escrow_id), cell(reason), ", ".join(texts)) for (escrow_id, reason), texts in amounts.items())
    return titled("In escrow, until somebody claims it", "kept for", "because", "amount", rows=rows)


def _totals_table(manifest: Mapping[str, Any]) -> Table:
    names = list(TOTALS.values())
    headings = (number(name.removesuffix("_minor")) for name in (*names, "difference"))
    table = titled("It adds up: revenue = developer + earned + escrowed + unattributed", "currency", *headings)
    for currency, totals in manifest["totals"].items():
        difference = totals["revenue_minor"] - sum(totals[name] for name in names[1:])
        table.add_row(currency, *(format_minor(totals[name], currency, symbol=False) for name in names), str(difference))
    return table


def attribution_screen(request: Request, manifest: dict[str, Any], *, most: int = 12) -> Iterator[RenderableType]:
    """What `provenance attribute` found: the owners whose examples helped most, and where the tables are."""
    out, known = request.out, request.corpus / "owners.parquet"
    names = dict(pl.read_parquet(known, columns=["owner_id", "name"]).iter_rows()) if known.exists() else {}
    owners = pl.read_parquet(out / "owner_influence.parquet")
    helped = pl.col("influence").clip(lower_bound=0)
    part = helped / helped.sum().over("output_id")
    found = (
        owners.with_columns(part=pl.when(helped.sum().over("output_id") > 0).then(part).otherwise(0.0))
        .group_by("owner_id")
        .agg(pl.col("influence").mean(), pl.col("part").mean())
        .sort("part", "owner_id", descending=[True, False])
    )
    outputs, method = owners["output_id"].n_unique(), manifest["method"]["name"]
    rows = ((cell(names.get(owner, owner)), f"{of_all:.1%}", f"{mean:+.2f}") for owner, mean, of_all in found.head(most).rows())
    columns = (whole("owner"), number("of all that helped"), number("mean influence"))
    table = titled(f"Influence on {outputs} outputs, method {method}", *columns, rows=rows)
    if found.height > most:
        table.add_row(f"... and {found.height - most} more", "", "")
    yield table
    if covered := manifest["parameters_covered"]:
        left_out = covered["left_out"]
        yield Text(
            f"Gradients of {covered['share']:.2%} of the parameters were followed"
            + (f"; left out: {len(left_out)} biases and norms." if left_out else ".")
        )
    yield line(
        f"Tables: {out / 'scores.parquet'}, {out / 'owner_influence.parquet'}, and {out / 'examples.parquet'} with each "
        "example's work; manifest.json says what they rest on."
    )


def lds_screen(result: dict[str, Any]) -> Iterator[RenderableType]:
    """How well each method predicts retraining, beside what noise allows."""
    families = result["families"]
    title = "Linear datamodelling score: rank correlation of predicted and actual effects of training on halves"
    halves = (number(f"halves of {family} ({found['subsets']})") for family, found in families.items())
    table = titled(title, whole("method"), *halves)
    first = next(iter(families.values()))
    for name in sorted(first["methods"], key=lambda name: -first["methods"][name]["lds"]):
        cells = ["{lds:.2f} ({low:.2f} to {high:.2f})".format(**found["methods"][name]) for found in families.values()]
        table.add_row(name, *cells)
    table.add_section()
    table.add_row("another seed", *[f"{found['seed_agreement']:.2f}" for found in families.values()])
    table.add_row("noise ceiling", *[f"{found['ceiling']:.2f}" for found in families.values()])
    yield table
    yield Text("Intervals are 95 %, over subsets and outputs. A perfect prediction would reach the noise ceiling.")
    if "weights" in result:
        tuned = " and ".join(f"{count} other halves of {family}" for family, count in result["tuning_subsets"].items())
        yield Text(f"What each component of `fitted` counts was fitted on {tuned}.")


def read_duplicates(store: Store) -> pl.DataFrame:
    """The members of every cluster of copies in the corpus in force, the largest first, and since when they are claimed."""
    frozen = corpus_in_force(store)
    if frozen.duplicates is None:
        hint = "Ingest it again."
        raise ContractError(
            f"corpus {frozen.digest[:12]}", expected="one in which copies were looked for", found="none", hint=hint
        )
    examples = read_examples(store, frozen, "example_id", "work_id", "owner_id", "acquired_at", "source_uri")
    found = store.read_table(frozen.duplicates.key).join(examples, on="example_id", maintain_order="left")
    held = held_since(found, store.read_table(frozen.claims.key), datetime.now(UTC).date())
    owners = held.group_by("work_id").agg(owners=pl.col("party_id"), since=pl.col("since").min())
    sizes = found.group_by("cluster_id").len("size")
    shown = found.drop("owner_id", "acquired_at").join(owners, on="work_id", maintain_order="left").join(sizes, on="cluster_id")
    return shown.sort("size", "cluster_id", "example_id", descending=[True, False, False]).drop("size")


def duplicates_screen(table: pl.DataFrame, *, most: int) -> Iterator[RenderableType]:
    """Clusters of copies, in their order."""
    clusters = table["cluster_id"].unique(maintain_order=True)
    dated, decided = table["since"].null_count() < table.height, (table["decision"] != "").any()
    headings = ("cluster", "work", "owners") + ("since",) * dated + ("alike",) + ("decided by",) * bool(decided)
    shown = titled(f"{len(clusters)} works that there are copies of, {table.height} examples in all", *headings)
    for cluster in clusters.head(most):
        for number, row in enumerate(table.filter(pl.col("cluster_id") == cluster).iter_rows(named=True)):
            name = str(cluster)[:12] if not number else ""
            cells = [name, cell(row["work_id"]), cell(", ".join(row["owners"]))]
            since, alike = [str(row["since"] or "-")] * dated, [f"{row['similarity']:.2f}"]
            shown.add_row(*cells, *since, *alike, *[cell(row["decision"])] * bool(decided))
    yield shown
    if len(clusters) > most:
        yield Text(f"and {len(clusters) - most} more (--most {len(clusters)} lists them)", style="dim")
    yield Text(
        "A cluster counts as one work. The contract says for whom: by default for the earliest claim of a member; "
        "claims of one date, or of none, have equal parts.",
        style="dim",
    )


def royalty_screen(made: dict[str, Any], file: str) -> Iterator[RenderableType]:
    """Mean shares of owners over the outputs asked about, and how far they can be trusted."""
    rows = ((_name(owner), f"{share:.2%}") for owner, share in list(made["mean_share"].items())[:20])
    title = f"Mean shares of {made['outputs']} outputs, rule {made['paid_by']}"
    table = titled(title, whole("owner"), number("share"), rows=rows)
    if made["owners"] > 20:
        table.add_row(f"and {made['owners'] - 20} others", f"{sum(list(made['mean_share'].values())[20:]):.2%}", style="dim")
    yield table
    for reason in made["unsupported"]:
        yield Text(f"The rule {made['rule']} is not supported, and {made['paid_by']} decides: {reason}", style="yellow")
    yield from fidelity_lines(made["counterfactuals"])
    yield line(f"{file}: a row for each output and owner. Outputs that nobody is credited for: {made['unattributed']}.")


def fidelity_lines(report: dict[str, Any]) -> Iterator[RenderableType]:
    """What counterfactual models say of a night's fidelity, in one line for each figure."""
    if "lds" not in report:
        return
    scores = ", ".join(f"{name} {found['value']:.2f}" for name, found in report["lds"].items())
    held = ", ".join(f"{name.replace('_', ' ')} {part:.0%}" for name, part in report["intervals_hold"].items())
    yield Text(
        f"{report['models']} counterfactual models, each left out and predicted: rank correlation {scores}.", style="dim"
    )
    yield Text(f"90 % intervals hold, of what models say: {held}.", style="dim")


def counterfactuals_screen(rows: Sequence[dict[str, Any]], store: str) -> Iterator[RenderableType]:
    """The counterfactual models of a model."""
    strata = Counter(f"{row['stratum']}{', set aside' if row['aside'] else ''}" for row in rows)
    title = f"{len(rows)} counterfactual models: " + (", ".join(f"{n} {name}" for name, n in strata.items()) or "none yet")
    table = titled(title, whole("name"), whole("stratum"), *map(number, ("partition", "works", "examples", "seed")))
    for row in rows:
        stratum = f"{row['stratum']}{' (aside)' if row['aside'] else ''}"
        numbers = (f"{row[name]:,}" for name in ("partition", "works", "examples"))
        table.add_row(row["name"][:12], stratum, *numbers, str(row["seed"]))
    yield table
    yield line(f"Each is a model folder below {store}, with manifest.json: the works that it was trained on.", style="dim")


def attacks_screen(result: dict[str, Any]) -> Iterator[RenderableType]:
    """What each attack gains under every rule."""
    title = f"Attacks by {cell(result['attacker'])}: gain in mean share, and what is added earns, in points, by rule"
    table = titled(title, whole("attack"), *(number(name, no_wrap=True) for name in (*result["rules"], "retrained")))
    for row in result["attacks"]:
        honest = row is result["attacks"][0]
        cells = [
            f"{row['had'][rule]:.1%}" if honest else f"{row['gain'][rule] * 100:+.1f} {row['added'][rule] * 100:4.1f}"
            for rule in result["rules"]
        ]
        taught = row.get("retrained")
        table.add_row(row["attack"], *cells, f"{taught['part'] * 100:.1f} ± {taught['error'] * 100:.1f}" if taught else "")
    yield table
    yield Text("Retrained: the part of all that a model learns that the added works teach it, with its standard error.")
    yield Text("A model trained anew on another corpus pays everybody a little differently; `trained again` shows how much.")
    for row in result["attacks"][1:]:
        yield line(f"{row['attack']}: {row['says']}", style="dim")


def srs_screen(result: dict[str, Any]) -> Iterator[RenderableType]:
    """How far rules and baselines are from what retraining on coalitions gives."""
    truths = list(next(iter(result["methods"].values())))
    title = f"Shares of {len(result['owners'])} owners in {result['outputs']} outputs, against retraining"
    figures = (number(f"{truth}\n{heading}") for truth in truths for heading in ("L1 error", "Spearman", "Pearson"))
    table = titled(title, whole("estimate"), *figures)
    for name, found in sorted(result["methods"].items(), key=lambda item: item[1][truths[0]]["l1"]):
        table.add_row(name, *(f"{found[truth][key]:.2f}" for truth in truths for key in ("l1", "spearman", "pearson")))
    table.add_section()
    seeds = result["seeds_agree"]
    rest = [""] * 3 * (len(truths) - 1)
    table.add_row("one seed, against the others", *(f"{seeds[key]:.2f}" for key in ("l1", "spearman", "pearson")), *rest)
    yield table
    title = "Shares by counterfactual models, each rule against its own truth; intervals are meant to hold 90 %"
    figures = (number(f"{truth}\n{heading}") for truth in truths for heading in ("L1 error", "Spearman", "held"))
    table = titled(title, whole("worth in trainings"), *figures)
    for count, found in sorted(result["trainings"].items(), key=lambda item: int(item[0])):
        table.add_row(str(count), *(f"{found[truth][key]:.2f}" for truth in truths for key in ("l1", "spearman", "held")))
    yield table
    yield Text(
        "L1 is the sum over owners of how far shares are off; 2 would be all wrong. No estimate can beat the seeds' noise."
    )


def payments_screen(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What a closed period pays: sums by status, then every payment."""
    yield line(f"{found['period']} closed as booking {found['closed_as']}", style="bold")
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found["outcomes"].items()))
    yield line(f"Balances: {outcomes or 'none'}")
    sums: dict[tuple[str, str], list[int]] = defaultdict(list)
    for payment in found["payments"]:
        sums[payment["status"], payment["currency"]].append(payment["paid_minor"])
    for (status, currency), amounts in sorted(sums.items()):
        yield line(f"{status}: {len(amounts)} payments, {format_minor(sum(amounts), currency)}")
    if any(payment["status"] == WAITING for payment in found["payments"]):
        yield line("Closed; nothing is booked until two people have approved (Required Actions in Airflow).", style="yellow")
        yield line("If one of them rejected, nothing is paid: it stays owed, and the next month pays it.", style="dim")
    table = titled("", "owner", "payment", "status", number("amount"), "reason")
    for payment in found["payments"]:
        amount = format_minor(payment["paid_minor"], payment["currency"])
        table.add_row(cell(payment["owner_id"]), payment["payment_id"], payment["status"], amount, cell(payment["reason"]))
    if found["payments"]:
        yield table


def closing_screen(found: Mapping[str, Any], *, most: int = 20) -> Iterator[RenderableType]:
    """What closing a period now would find: every outcome, who is not paid and why, the rates and nights that are missing."""
    lines, holds = found["lines"], found["holds"]
    yield line(f"{found['period']}, if it were closed now; nothing is booked", style="bold")
    if not found["over"]:
        yield line("The month is not over: nights to come count, too.", style="yellow")
    balances = titled("Balances", "outcome", *map(number, ("balances", "owed", "to be paid")))
    for outcome in sorted({one.outcome for one in lines}):
        of_it = [one for one in lines if one.outcome == outcome]
        owed, paid = _sums((o.currency, o.owed) for o in of_it), _sums((o.pay_currency, o.paid) for o in of_it if o.paid)
        balances.add_row(outcome, str(len(of_it)), owed, paid)
    yield balances if lines else line("Nothing is owed.")
    held = [(cell(why), str(count), _sums(owed.items())) for why, (count, owed) in unpaid(lines, holds).items()]
    if held:
        yield titled("Not paid, since on hold", "because", number("owners"), number("owed"), rows=held)
    lacking = [(one, reason) for one in lines if one.outcome == ON_HOLD for reason in holds[one.owner_id] if reason in LACKING]
    if lacking:
        lacking.sort(key=lambda row: (-row[0].owed, row[0].owner_id))
        rows = ((cell(one.owner_id), reason, format_minor(one.owed, one.currency)) for one, reason in lacking[:most])
        yield titled("To be added with `provenance payee import`", "owner", number("has"), number("owed"), rows=rows)
    if len(lacking) > most:
        yield line(f"and {len(lacking) - most:,} more (--json lists them)", style="dim")
    waiting: dict[tuple[str, str], int] = defaultdict(int)
    for one in lines:
        if one.outcome == NO_RATE:
            waiting[one.currency, one.pay_currency] += one.owed
    for (source, target), amount in sorted(waiting.items()):
        said = f"No rate is noted for {source} to {target}, and {format_minor(amount, source)} waits for it"
        yield line(f"{said}: the month cannot be closed before `provenance rate`.", style="red")
    if found["missing"]:
        yield line(f"No night has paid {ranges(found['missing'])}.", style="yellow")


def _sums(amounts: Iterable[tuple[str, int]]) -> str:
    """Amounts as people write them, by currency."""
    found: dict[str, int] = defaultdict(int)
    for currency, amount in amounts:
        found[currency] += amount
    return ", ".join(format_minor(amount, currency) for currency, amount in sorted(found.items()))


def answers_screen(found: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """What was booked of the files of banks."""
    for said in found:
        told = ", ".join(f"{said[name]} {name}" for name in ("paid", "rejected", "returned", "pending", "others"))
        booked = f"{'booked before' if said['again'] else 'booked'} as {said['booking_id']}"
        yield line(f"{said['file']}: {said['kind']} {said['message_id']}, {booked}: {told}")


def payees_screen(found: Sequence[Mapping[str, Any]]) -> Table:
    """Who is registered, and how each is paid, masked."""
    table = titled("", "owner", "version", "currency", "paid by", "tax data", "changed", "by")
    for payee in found:
        tax = "there" if payee["tax_data"] else "[red]missing: held[/]"
        who = (cell(payee["owner_id"]), str(payee["version"]), payee["currency"], cell(payee["paid_by"]), tax)
        table.add_row(*who, payee["changed_at"], cell(payee["changed_by"]))
    return table


def preview_screen(previews: Sequence[Mapping[str, Any]], *, most: int = 20) -> Iterator[RenderableType]:
    """What paying days would change: day by day, and in all, owner by owner."""
    columns = (whole("day"), number("owners"), number("change"), "why it would fail, or wait for a person")
    days = titled("What would be booked; nothing is yet", *columns)
    total: dict[tuple[str, str], int] = defaultdict(int)
    for found in previews:
        sums: dict[str, int] = defaultdict(int)
        for owner, currency, was, will in found["changes"]:
            total[owner, currency] += will - was
            sums[currency] += will - was
        said = "\n".join(format_minor(amount, currency) for currency, amount in sorted(sums.items())) or "nothing"
        if found["problem"]:
            days.add_row(found["day"], "-", "-", f"[bold red]fails[/]: {cell(found['problem'])}")
        else:
            days.add_row(found["day"], str(len(found["changes"])), said, "\n".join(map(cell, found["reasons"])))
    yield days
    changed = sorted(((whose, amount) for whose, amount in total.items() if amount), key=lambda row: (-abs(row[1]), row[0]))
    if changed:
        title = f"Owners whose amounts change by these days together: {len(changed)}"
        rows = ((cell(owner), format_minor(amount, currency)) for (owner, currency), amount in changed[:most])
        yield titled(title, "owner", number("change"), rows=rows)
    if len(changed) > most:
        yield Text(f"and {len(changed) - most:,} more", style="dim")


def diff_screen(found: Mapping[str, Any], *, most: int = 20) -> Iterator[RenderableType]:
    """What changed from one revision to another: causes, totals, owners."""
    yield line(f"{found['day']}: revision {found['before']} -> {found['after']}", style="bold")
    yield line("Inputs that differ", style="bold")
    for cause in found["causes"]:
        yield line(f"  {cause}")
    if len(found["causes"]) > 1:
        yield line("  Several differ: what each of them alone would have changed is not told apart.", style="dim")
    was, now = found["totals"]
    changes = ("before", "after", "change")
    table = titled("Totals", "", *changes)
    for currency in sorted({*was, *now}):
        for name in TOTALS.values():
            old, new = (side.get(currency, {}).get(name, 0) for side in (was, now))
            table.add_row(name.removesuffix("_minor"), *_from_to(old, new, currency))
    yield table
    owners = found["owners"]
    rows = ((cell(r["owner_id"]), *_from_to(r["before_minor"], r["after_minor"], r["currency"])) for r in owners[:most])
    yield titled("Owners", "owner", *changes, rows=rows) if owners else "No owner earned more or less."
    if len(owners) > most:
        yield line(f"{len(owners) - most:,} more: --most lists them.", style="dim")


def removals_screen(removals: Sequence[Removal], *, dry_run: bool) -> Iterator[RenderableType]:
    """What housekeeping removed, or would remove."""
    if not removals:
        yield Text("Nothing is older than the policy keeps it.")
        return
    numbers = (number(heading, no_wrap=True) for heading in ("objects", "size"))
    table = titled("What would be removed" if dry_run else "Removed", "what", *numbers, "because of")
    for removal in removals:
        where = " (this machine)" if removal.local else ""
        table.add_row(f"{removal.kind}{where}", f"{len(removal.objects):,}", decimal(removal.bytes), removal.policy)
    table.add_section()
    table.add_row("together", f"{sum(len(r.objects) for r in removals):,}", decimal(sum(r.bytes for r in removals)), "")
    yield table


def _from_to(before: int, after: int, currency: str) -> tuple[str, str, str]:
    change = after - before
    sign = "+" if change > 0 else ""
    plain = format_minor(change, currency, symbol=False)
    return format_minor(before, currency), format_minor(after, currency), f"{sign}{plain}" if change else ""
