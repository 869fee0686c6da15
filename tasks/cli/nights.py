"""Commands for published nights: read, verify, compare, compute again, clear away."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text
from typer import Argument, Option

from provenance.core.errors import CheckFailed, InputError, parse_day
from provenance.core.money import PPB, format_minor
from provenance.core.where import Where
from tasks.cli.help import DECIDE, LOOK, UPKEEP, Command
from tasks.cli.shared import OwnerId, PaidDay, Shown, command, day_argument, print_json, watched
from tasks.cli.tables import Grid, add_up, lines, money, more, number, range_of, short, whole
from tasks.terminal import line
from tasks.where import log_folders, opened

if TYPE_CHECKING:
    import polars as pl

    from provenance.core.store import Store
    from provenance.settlement.exports.day_diff import DayDiff
    from provenance.settlement.exports.verification import Check
    from provenance.validation.retention import Removal

app = typer.Typer()


@command(app, group=LOOK)
def payouts(where: Where, day: PaidDay, most: Annotated[int, Option(min=1, help="Owners listed by name.")] = 20) -> Shown:
    """Show each owner's earnings of a day, the amounts in escrow with reasons, and the control totals.

    Example: `provenance payouts 2026-11-20 --most 50`
    """
    from provenance.settlement.exports.export import read_export

    manifest, table = read_export(where.store, day_argument(day))
    data = {"manifest": manifest, "payouts": table.to_dicts()}
    yield data, owners_screen(where.store, day_argument(day), most=most)


def owners_screen(store: Store, day: str, *, most: int = 20) -> Iterator[RenderableType]:
    """A published day: each owner's share and earnings, escrow, control totals, terms."""
    from provenance.core.tables import ESCROW, PAYABLE
    from provenance.settlement.accounts import HELD
    from provenance.settlement.exports.day_diff import ENDS
    from provenance.settlement.exports.export import read_credits, read_export
    from provenance.settlement.exports.trust import in_words

    manifest, payouts = read_export(store, day)
    credits = read_credits(store, manifest["folder"], "output_id", "account", "owner_id", "escrow_id", *ENDS)
    yield _owners_table(day, manifest, payouts, credits, most)
    yield _escrow_table(manifest)
    yield _totals_table(manifest)
    owed = ", ".join(
        f"{format_minor(accounts[PAYABLE] + accounts[HELD], c)} to owners and {format_minor(accounts[ESCROW], c)} in escrow"
        for c, accounts in manifest.get("trial_balance", {}).items()
    )
    yield line(f"Owed after this booking (number {manifest['booking_id']}): {owed or 'nothing'}.")
    if manifest["revision"] > 1:
        yield line("A later revision takes back the earlier bookings of the day: adjustment_minor in payouts.csv.")
    weights = manifest["contract"]["weights"]
    for contract in manifest["contract"]["contracts"]:
        if (weight := weights.get(contract["name"])) is not None:
            fidelity = manifest.get("fidelity", {}).get(contract["name"])
            yield line(f"{terms_of(contract | {'weight': weight}, fidelity)}.", "bold yellow" if weight < 1 else "")
    if credits.height:
        yield line(in_words([manifest.get("fidelity")]))
    yield line("Shares are means over the day's outputs, not weighted by revenue; escrow has the rest.", "dim")
    if manifest["notice"]:
        yield line(manifest["notice"], "bold yellow")


def _owners_table(day: str, manifest: Mapping[str, Any], payouts: pl.DataFrame, credits: pl.DataFrame, most: int) -> Grid:
    import polars as pl

    from provenance.core.tables import PAYABLE
    from provenance.settlement.exports.day_diff import mean_shares

    currencies = list(manifest["totals"])
    payable = credits.filter(pl.col("account") == PAYABLE)
    counts = payable.group_by("owner_id").agg(outputs=pl.len())
    shares = pl.col("share_ppb", "low_ppb", "high_ppb") / PPB
    means = [
        (owner, share.share_ppb, share.low_ppb, share.high_ppb) for (_, owner), share in mean_shares(credits, PAYABLE).items()
    ]
    table_of_means = pl.DataFrame(means, schema=["owner_id", "share_ppb", "low_ppb", "high_ppb"], orient="row")
    owners = counts.join(table_of_means, on="owner_id").select("owner_id", shares, "outputs")
    owners = owners.sort("share_ppb", "owner_id", descending=[True, False])
    names = dict(payouts.select("owner_id", "owner_name").iter_rows())
    figures = ("earned_minor", "closing_balance_minor")
    amounts = {row[:2]: row[2:] for row in payouts.select("owner_id", "currency", *figures).iter_rows()}

    def amounts_of(ids: Sequence[str]) -> list[str]:
        """Earnings in each currency, then balances, of some owners together."""
        sums = [[sum(amounts.get((owner, c), (0, 0))[figure] for owner in ids) for c in currencies] for figure in (0, 1)]
        return [format_minor(amount, c, symbol=False) for row in sums for c, amount in zip(currencies, row, strict=True)]

    headings = [
        "mean\nshare\nof an\noutput",
        "90 %\nrange",
        "out-\nputs",
        *(f"{c}\n{figure}" for figure in ("earned", "balance\nafter\nbooking") for c in currencies),
    ]
    outputs = credits["output_id"].n_unique()
    title = f"Payouts for {day}, revision {manifest['revision']}: {outputs} outputs of {manifest['inputs']['model_id']}"
    # On a narrow screen only the owner's name wraps, since a broken number cannot be read.
    table = Grid(title, "owner", *(number(heading, no_wrap=True) for heading in headings))
    for owner, share, low, high, count in owners.head(most).iter_rows():
        table.add_row(short(names.get(owner, owner)), f"{share:.2%}", range_of(low, high), count, *amounts_of([owner]))
    rest = owners.slice(most)
    if rest.height:
        amounts_together = amounts_of(rest["owner_id"].to_list())
        table.add_row(f"and {rest.height} others", f"{rest['share_ppb'].sum():.2%}", "", "", *amounts_together, style="dim")
    return table


def _escrow_table(manifest: Mapping[str, Any]) -> Grid:
    amounts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in manifest["escrow"]:
        amounts[row["escrow_id"], row["reason"]].append(format_minor(row["amount_minor"], row["currency"]))
    rows = ((*place, ", ".join(texts)) for place, texts in amounts.items())
    return Grid("In escrow, until somebody claims it", "kept for", "because", "amount", rows=rows)


def _totals_table(manifest: Mapping[str, Any]) -> Grid:
    from provenance.settlement.accounts import TOTALS

    names = list(TOTALS.values())
    headings = (number(name.removesuffix("_minor")) for name in (*names, "difference"))
    table = Grid("It adds up: revenue = developer + earned + escrowed + unattributed", "currency", *headings)
    for currency, totals in manifest["totals"].items():
        difference = totals["revenue_minor"] - sum(totals[name] for name in names[1:])
        table.add_row(currency, *(format_minor(totals[name], currency, symbol=False) for name in names), difference)
    return table


def terms_of(contract: Mapping[str, Any], fidelity: Mapping[str, Any] | None) -> str:
    """The rule by which a contract pays; if its fallback pays a part, the reason, from the night's check of fidelity."""
    name, rule, weight = contract["name"], contract["rule"], contract["weight"]
    if weight == 1:
        return f"Contract {name!r} pays by {rule}"
    reason = "; ".join(fidelity["failed"]) if fidelity else ""
    parts = f"{weight:.0%} by {rule}, {1 - weight:.0%} by {contract['fallback']}"
    return f"Contract {name!r} pays {parts} ({reason or 'see signal_to_noise'})"


@command(app, group=LOOK)
def verify(
    what: Annotated[str, Argument(metavar="DAY|PERIOD|MANIFEST", help="A day, a month, or a file.")],
    public_key: Annotated[Path | None, Option("--key", help="The signer's public key, as PEM.")] = None,
) -> Shown:
    """Re-check a published export: checksums, signature, row identities, totals, the chain and, for a day, the ledger.

    A closed month and the files for banks are checked against the ledger.

    A manifest, or the report on an appeal, is checked from the files beside it alone, so anybody can check a copy. A store has
    the public key under exports/keys; for a copy of one folder name it with --key. A file of `provenance proof` is checked by
    itself.

    Example: `provenance verify 2026-11-20`
    """
    from provenance.core.published import MANIFEST
    from provenance.core.store import Store
    from provenance.settlement.exports.export import APPEALS, REPORT
    from provenance.settlement.exports.keys import public_key_of
    from provenance.settlement.exports.verification import check_proof, read_json
    from provenance.settlement.exports.verification import verify as verify_files

    named = Path(what)
    path = named / (REPORT if (named / REPORT).is_file() else MANIFEST) if named.is_dir() else named
    appeal = re.fullmatch(f"({APPEALS}/[0-9a-f]+)(/{REPORT})?", what)
    dated = re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", what)  # also where a folder has this name
    if (named.is_dir() or "/" in what) and not (path.is_file() or appeal or dated):
        found = f"a folder with neither {MANIFEST} nor {REPORT}" if named.is_dir() else "no such file"
        raise InputError(what, expected=f"a {MANIFEST}, its folder, or a day as YYYY-MM-DD", found=found)
    if public_key and not path.is_file():
        expected = "a file or a folder to check by it; what the settings' store has is checked by the keys that they trust"
        raise InputError("--key", expected=expected, found=what)
    keys = [public_key_of(public_key)] if public_key else []
    if path.is_file():
        document = read_json(path)
        if isinstance(document, list):
            yield from _report([check_proof(proof) for proof in document], str(path))
            return
        if path.name not in (MANIFEST, REPORT):
            raise InputError(str(path), expected=f"{MANIFEST}, {REPORT} or proofs", found="a file of another name")
        root = path.resolve().parent
        whole_store = root.match("exports/payouts/day=*/rev=*")  # not a copy of one folder
        beside_keys = root.match(f"{APPEALS}/*") and (root.parents[1] / "exports/keys").is_dir()
        top = root.parents[3] if whole_store else root.parents[1] if beside_keys else root
        checks = verify_files(
            Store(f"file://{top}", {}), str(root.relative_to(top)), keys=keys, chain=whole_store, name=path.name
        )
        folder = str(root.relative_to(top) if root != top else root)
    elif appeal:
        from provenance.validation.appeals.experiment import check_report

        folder = appeal[1]
        with opened() as where:
            checks = check_report(where, folder)
    elif dated and not dated[1]:
        from provenance.settlement.months.stage import check_period

        with opened() as where:
            folder, checks = check_period(where, what)
    else:
        day = parse_day("argument DAY|PERIOD|MANIFEST", what).isoformat()
        from provenance.settlement.exports.nights import check_day

        with opened() as where:
            folder, checks = check_day(where, day)
    yield from _report(checks, folder)


def _report(checks: Sequence[Check], place: str) -> Shown:
    """Show the outcome of checks; raises CheckFailed if one failed."""
    failed = [check.name for check in checks if not check.passed]
    good = "The one check holds." if len(checks) == 1 else f"All {len(checks)} checks hold."
    verdict = line(f"{len(failed)} of {len(checks)} checks failed.", "bold red") if failed else line(good, "bold green")
    outcome = {"folder": place, "checks": {check.name: list(check.problems) for check in checks}}
    yield outcome, [place, checks_table(checks), verdict]
    if failed:
        raise CheckFailed(f"{place}: {', '.join(failed)} {'does' if len(failed) == 1 else 'do'} not hold")


def checks_table(checks: Sequence[Check]) -> Grid:
    """Checks with their problems."""
    rows = ((c.name, Text("holds", "green") if c.passed else lines(c.problems, "bold red")) for c in checks)
    return Grid("", whole("check"), "outcome", rows=rows)


@app.command(cls=Command, rich_help_panel=LOOK)
def proof(day: PaidDay, owner_id: OwnerId) -> None:
    """Prove to an owner that its lines are in a day's published file, without showing any other.

    Prints JSON: each line, and the hashes that lead from it to the root in the manifest. `provenance verify FILE` checks it; so
    does anybody with SHA-256 (RFC 6962, section 2.1).

    Example: `provenance proof 2026-11-20 tom-christie > proof.json`
    """
    from provenance.core.published import in_force
    from provenance.settlement.exports.verification import prove_line

    with opened() as where:
        print_json(prove_line(where.store, in_force(where.store, day_argument(day))["folder"], owner_id))


@command(app, group=LOOK)
def diff(
    where: Where,
    day: PaidDay,
    before: Annotated[
        str, Argument(metavar="DAY|REVISION", help="Another day, or a revision of DAY; by default the published day before.")
    ] = "",
    after: Annotated[int | None, Argument(metavar="REVISION", min=1, help="Another revision, after the first.")] = None,
    most: Annotated[int, Option(min=1, help="Owners listed.")] = 20,
) -> Shown:
    """Compare two days, or two revisions of a day: what changed for whom, and why.

    Two days: the inputs that differ (model, corpus, claims, outputs, counterfactual models, contract), the owners whose mean
    shares moved most, with the works that moved them, and whether the intervals explain the change. Two revisions: inputs that
    differ, control totals, owners' earnings.

    Example: `provenance diff 2026-11-19 2026-11-20`, or `provenance diff 2026-11-20 1 2`
    """
    if before.isdigit() and len(before) < len("20261120"):
        from provenance.settlement.exports import diff as revisions

        if after is None:
            raise InputError("REVISION", expected="two revisions, such as 1 2", found=before)
        if not int(before):
            raise InputError("REVISION", expected="1 or more", found=before)
        report = revisions.diff(where.store, day_argument(day), int(before), after)
        yield report, diff_screen(report, most=most)
        return
    if after is not None:
        raise InputError("REVISION", expected="nothing after two days", found=str(after))
    from provenance.settlement.exports.day_diff import diff_days

    first, second = _days_to_compare(where.store, day_argument(day), before)
    found = diff_days(where.store, first, second)
    yield asdict(found), day_diff_screen(found, most=most)


def _days_to_compare(store: Store, day: str, other: str) -> tuple[str, str]:
    """The two days that `diff` names; one alone is compared with the published day before it."""
    from provenance.core.published import in_force, published_days

    if other:
        return day, parse_day("argument DAY|REVISION", other).isoformat()
    in_force(store, day)
    earlier = [each for each in published_days(store) if each < day]
    if not earlier:
        raise InputError("DAY", expected="a published day before it to compare with", found=f"{day}, which is the first")
    return earlier[-1], day


def day_diff_screen(found: DayDiff, *, most: int = 20) -> Iterator[RenderableType]:
    """Two days compared: inputs, then the largest movers and the works behind them."""
    from provenance.settlement.exports.day_diff import points

    (first, second), (old, new) = found.days, found.revisions
    yield line(f"{first} (revision {old}) -> {second} (revision {new})", "bold")
    for name, scores in found.fidelity.items():
        texts = ["not measured" if score is None else f"{score:.2f}" for score in scores]
        yield f"Fidelity of contract {name!r}: {texts[0]} -> {texts[1]} (1 is perfect, 0 is chance)"
    yield line("Inputs that differ", "bold")
    yield from (f"  {cause.what}: {cause.says}" for cause in found.causes)
    if found.same:
        yield line(f"  The same: {', '.join(found.same)}.", "dim")
    if not found.movers:
        yield "No share moved."
        return
    outside = sum(not mover.within for mover in found.movers)
    beyond = f"{outside} of them" if outside else "none of them"
    yield line(f"{len(found.movers)} shares moved, {beyond} by more than their intervals explain; the largest first", "bold")
    common = [reason for reason in found.movers[0].because if all(reason in mover.because for mover in found.movers)]
    if common and len(found.movers) > 1:
        yield line(f"  For all of them differs: {'; '.join(common)}.", "dim")
    for mover in found.movers[:most]:
        sides = [
            f"{side.share_ppb / PPB:.2%} ({range_of(side.low_ppb / PPB, side.high_ppb / PPB)})"
            for side in (mover.before, mover.after)
        ]
        name = mover.name if mover.name == mover.party_id else f"{mover.name} ({mover.party_id})"
        how = "explained by the intervals" if mover.within else "more than the intervals explain"
        yield line(f"{points(mover.change_ppb)} points  {name}", "" if mover.within else "bold")
        yield f"    {sides[0]} -> {sides[1]}, {how}"
        earned = (f"{format_minor(b, c)} -> {format_minor(a, c)}" for c, (b, a) in mover.earned.items())
        if text := "; ".join(earned):
            yield f"    earned {text}"
        if own := [reason for reason in mover.because if len(found.movers) == 1 or reason not in common]:
            yield line(f"    differs: {'; '.join(own)}", "dim")
        for work in mover.works:
            change = points(work.after_ppb - work.before_ppb)
            yield line(f"    {change}  {work.work_id}", "dim")
    if len(found.movers) > most:
        yield more(len(found.movers) - most, f" (--most {len(found.movers)} lists them)")
    yield line("Shares are means over outputs; a work's part is that of the works kept as evidence of each output.", "dim")


def diff_screen(report: Mapping[str, Any], *, most: int = 20) -> Iterator[RenderableType]:
    """Differences of two revisions: causes, totals, owners."""
    from provenance.settlement.accounts import TOTALS

    yield line(f"{report['day']}: revision {report['before']} -> {report['after']}", "bold")
    yield line("Inputs that differ", "bold")
    yield from (f"  {cause}" for cause in report["causes"])
    if len(report["causes"]) > 1:
        yield line("  Several differ; the effects of each alone are not computed.", "dim")
    before, after = report["totals"]
    changes = ("before", "after", "change")
    totals = Grid("Totals", "", *changes)
    for currency in sorted({*before, *after}):
        for name in TOTALS.values():
            old, new = (side.get(currency, {}).get(name, 0) for side in (before, after))
            totals.add_row(name.removesuffix("_minor"), *_change(old, new, currency))
    yield totals
    owners = report["owners"]
    rows = ((row["owner_id"], *_change(row["before_minor"], row["after_minor"], row["currency"])) for row in owners[:most])
    yield Grid("Owners", "owner", *changes, rows=rows) if owners else "No owner earned more or less."
    if len(owners) > most:
        yield more(len(owners) - most, " (--most lists them)")


def _change(before: int, after: int, currency: str) -> tuple[str, str, str]:
    change = after - before
    signed = f"{'+' if change > 0 else ''}{format_minor(change, currency, symbol=False)}" if change else ""
    return format_minor(before, currency), format_minor(after, currency), signed


@command(app, group=DECIDE)
def preview(
    where: Where,
    first: Annotated[str, Argument(help="The first day, YYYY-MM-DD.")],
    last: Annotated[str, Argument(help="The last one; by default the first.")] = "",
    most: Annotated[int, Option(min=1, help="Owners listed.")] = 20,
) -> Shown:
    """Show what paying days, or paying them again, would change for each owner; nothing is booked.

    Computes as the nights would; the nights then reuse the results. Each day is compared with its present booking. Exit code 2:
    the night of a day would fail, and the table says why.

    Example: `provenance preview 2026-11-01 2026-11-07`
    """
    from provenance.validation.preview import preview as preview_days

    days = date.fromisoformat(day_argument(first)), date.fromisoformat(day_argument(last or first))
    with watched():
        previews = list(preview_days(where, *days))
    yield previews, preview_screen(previews, most=most)
    if any(day["problem"] for day in previews):
        raise typer.Exit(2)


def preview_screen(previews: Sequence[Mapping[str, Any]], *, most: int = 20) -> Iterator[RenderableType]:
    """Changes by paying days: by day, and by owner over all days."""
    columns = (whole("day"), number("owners"), number("change"), "why it would fail, or wait for a person")
    days = Grid("What would be booked; nothing is yet", *columns)
    by_owner: dict[tuple[str, str], int] = defaultdict(int)
    for day in previews:
        for owner, currency, booked, new in day["changes"]:
            by_owner[owner, currency] += new - booked
        changes = money(add_up((currency, new - booked) for _, currency, booked, new in day["changes"]))
        if day["problem"]:
            days.add_row(day["day"], "-", "-", line(f"fails: {day['problem']}", "bold red"))
        else:
            owners = {owner for owner, *_ in day["changes"]}  # an owner who earns in two currencies has two rows
            days.add_row(day["day"], len(owners), changes or "nothing", list(day["reasons"]))
    yield days
    changed = sorted(((key, amount) for key, amount in by_owner.items() if amount), key=lambda row: (-abs(row[1]), row[0]))
    if changed:
        title = f"Owners whose amounts change by these days together: {len({owner for (owner, _), _ in changed})}"
        rows = ((owner, format_minor(amount, currency)) for (owner, currency), amount in changed[:most])
        yield Grid(title, "owner", number("change"), rows=rows)
    if len(changed) > most:
        yield more(len(changed) - most)


@command(app, group=UPKEEP)
def replay(
    where: Where, day: PaidDay, revision: Annotated[int | None, Option(min=1, help="By default the one in force.")] = None
) -> Shown:
    """Compute a published night again, from the digests in its manifest, and compare it byte for byte.

    No result of the night is read. It takes as long as a first night, and as much disk (below `var/recompute`).

    Example: `provenance replay 2026-11-20`
    """
    from provenance.validation.replay import recompute

    with watched():
        folder, checks = recompute(where, day_argument(day), revision)
    yield from _report(checks, folder)


@command(app, "replace-key", group=UPKEEP)
def replace_signing_key(where: Where) -> Shown:
    """Make a new key that signs manifests from now on; signatures of the old one stay good.

    The old public key moves to the folder of retired keys (settlement.retired); the old private key is deleted. If it was
    stolen, delete its public key there, too: then none of its signatures verifies.

    Example: `provenance replace-key`
    """
    from provenance.settlement.exports.keys import replace_key

    settlement = where.settings.settlement
    retired = replace_key(settlement)
    data = {"key": str(settlement.key), "retired": str(retired)}
    yield data, [f"{settlement.key} signs from now on; {retired} is still trusted."]


@command(app, group=UPKEEP)
def gc(
    where: Where,
    dry_run: Annotated[bool, Option("--dry-run", help="List what would be removed, and remove nothing.")] = False,
) -> Shown:
    """Remove results of nights that the policy does not keep ([retention] in the settings); the ledger is not touched.

    Exports, closings, statements, files for banks, keys, audits, appeals, deliveries and the corpus in force always stay.
    A night run again computes removed results to the same bytes; inputs that its `removed.json` names can no longer be read.
    Stopped at any moment, the same command goes on from there. The DAG `housekeeping` does the same every week.

    Example: `provenance gc --dry-run`
    """
    from provenance.validation.retention import collect

    with watched():
        removals = collect(where, dry_run=dry_run, logs=log_folders())
    rows = [
        {"kind": r.kind, "policy": r.policy, "bytes": r.bytes, "objects": [stored.key for stored in r.objects]}
        for r in removals
    ]
    yield {"dry_run": dry_run, "removed": rows}, removals_screen(removals, dry_run=dry_run)


def removals_screen(removals: Sequence[Removal], *, dry_run: bool) -> Iterator[RenderableType]:
    """Objects removed, or to be removed, by kind."""
    from rich.filesize import decimal

    if not removals:
        yield "Nothing is older than the policy keeps it."
        return
    numbers = (number(heading, no_wrap=True) for heading in ("objects", "size"))
    table = Grid("What would be removed" if dry_run else "Removed", "what", *numbers, "because of")
    for removal in removals:
        kind = f"{removal.kind} (this machine)" if removal.local else removal.kind
        table.add_row(kind, f"{len(removal.objects):,}", decimal(removal.bytes), removal.policy)
    table.add_section()
    table.add_row("together", f"{sum(len(r.objects) for r in removals):,}", decimal(sum(r.bytes for r in removals)), "")
    yield table
