"""Commands that stand alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from provenance.core.errors import CheckFailed, InputError, parse_day

if TYPE_CHECKING:
    from rich.text import Text

    from provenance.settlement.books import Booking
    from provenance.settlement.exports.verification import Check
    from tasks.settings import Settings

from tasks.cli.shared import (
    By,
    ClaimsDay,
    CorpusFolder,
    Counterfactuals,
    Duplicates,
    ModelFolder,
    OnDevice,
    OutFolder,
    OutputFile,
    OwnerId,
    Reason,
    Shown,
    Workers,
    claims_day,
    command,
    console,
    day_argument,
    print_json,
    settings_in_force,
    watched,
)  # fmt: skip
from tasks.terminal import line

app = typer.Typer()


@command(app)
def attribute(
    corpus: CorpusFolder,
    model: ModelFolder,
    outputs: OutputFile,
    out: OutFolder,
    method: Annotated[str, typer.Option(help="fitted, factored or tfidf.")] = "fitted",
    counterfactuals: Counterfactuals = None,
    device: OnDevice = "auto",
    workers: Workers = None,
    day: ClaimsDay = None,
) -> Shown:
    """Influence without money: which examples and owners each output rests on.

    Writes `scores.parquet` (`output_id, example_id, influence`), `owner_influence.parquet` (`output_id, owner_id, influence,
    escrow`), `examples.parquet` (which work each `example_id` is a piece of) and a manifest. An influence is positive where
    the example made the output more likely. What each component of it counts (rows of the head and of the embedding, inner
    layers, each checkpoint, words) is fitted to counterfactual models, where a folder of them is named; without, all of
    gradients count alike. What is computed on the way is kept in `work/` below the folder, so that the same command with other
    outputs computes only their features.

    Example: `provenance attribute --corpus corpus --model var/models/demo-code --outputs outputs.parquet --out result`
    """
    valid_on = claims_day(day)

    from provenance.local import attribute as task
    from tasks.cli.tables import attribution_screen

    request = task.Request(corpus, model, outputs, out, valid_on, counterfactuals)
    with watched():
        settings = task.local_settings(method=method, device=device, workers=workers)
        manifest = task.attribute(request, settings)
    yield manifest, attribution_screen(request, manifest)


@command(app)
def royalty(
    influence: Annotated[Path, typer.Option("--influence", help="Folder that `provenance attribute` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    counterfactuals: Counterfactuals = None,
    rule: Annotated[
        Literal["faithful", "srs", "banzhaf", "proportional", "flat"], typer.Option(help="How an output's pool is divided.")
    ] = "faithful",
    duplicates: Annotated[Duplicates, typer.Option(help="cluster: copies count once, for the earliest claim.")] = "cluster",
    device: OnDevice = "auto",
    workers: Workers = None,
) -> Shown:
    """Owner shares of outputs whose influences `provenance attribute` has found, by a royalty rule.

    `faithful`: what each owner's works add as everybody's come in together (Aumann-Shapley). `srs`: the Shapley Royalty Share
    of owners. `banzhaf`: what an owner adds to a random half of the others. These three rest on counterfactual models
    (`provenance counterfactuals train`); where there are none, or they do not support the rule, shares are `proportional`, and
    the command says so. `proportional`: by positive summed influence. `flat`: by tokens, the same for every output. Writes
    `output_id, owner_id, account, share_ppb, low_ppb, high_ppb`; shares are integers that sum to 1,000,000,000 for every
    output, intervals are 90 %.

    Example: `provenance royalty --influence result --counterfactuals models --rule srs --out shares.parquet`
    """
    from provenance.local import attribute as task
    from provenance.local.royalty import royalty as divide
    from tasks.cli.tables import royalty_screen

    with watched():
        settings = task.local_settings(device=device, workers=workers)
        copies = duplicates == "cluster"
        made = divide(influence, rule, duplicates=copies, out=out, settings=settings, counterfactuals=counterfactuals)
    yield made, royalty_screen(made, str(out))


@command(app)
def explain(
    output_id: Annotated[str, typer.Argument(help="The output, as the day's outputs name it.")],
    day: Annotated[str | None, typer.Option(help="Look at this day only; by default the latest with that output.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Owners listed.")] = 10,
) -> Shown:
    """Who made this output possible: owners with shares and intervals, and the works behind each.

    Example: `provenance explain 2026-11-20-007`
    """
    from tasks.cli.tables import output_screen

    data, tables = output_screen(settings_in_force().store.open(), output_id, day_argument(day) if day else None, most=most)
    yield data, tables


@command(app)
def duplicates(most: Annotated[int, typer.Option(min=1, help="Clusters listed.")] = 20) -> Shown:
    """Copies among the works of the corpus in force, exact and near, and who has a claim on them.

    A cluster counts as one work, for the earliest claim; claims of one date, or of none, have equal parts. To contest one,
    deliver `decisions.parquet` with the corpus (`example_id, same_as, decided_by,
    reason`): without `same_as` the example stands alone, with it it is a copy of the one named.

    Example: `provenance duplicates --most 50`
    """
    from tasks.cli.tables import duplicates_screen, read_duplicates

    table = read_duplicates(settings_in_force().store.open())
    shown = table["cluster_id"].unique(maintain_order=True).head(most).implode()
    rows = table.filter(table["cluster_id"].is_in(shown)).to_dicts()
    yield rows, duplicates_screen(table, most=most)


@command(app)
def contracts(
    file: Annotated[
        Path | None, typer.Argument(help="A TOML file; by default the one that the settings name (royalty.contracts).")
    ] = None,
) -> Shown:
    """Check a file of royalty contracts, and say what each says, without running a night.

    Example: `provenance contracts infra/settings/contracts.toml`
    """
    from provenance.inputs.contracts import read_contracts
    from tasks.cli.tables import contracts_screen

    found = read_contracts(file or settings_in_force().royalty.contracts)
    yield [contract.model_dump(mode="json") for contract in found], [contracts_screen(found)]


@command(app)
def payouts(
    day: Annotated[str, typer.Argument(help="The day paid for, YYYY-MM-DD.")],
    most: Annotated[int, typer.Option(min=1, help="Owners listed by name.")] = 20,
) -> Shown:
    """What each owner earned on a day, what went to escrow and why, and that it adds up.

    Example: `provenance payouts 2026-11-20 --most 50`
    """
    from provenance.settlement.exports.export import read_export
    from tasks.cli.tables import owners_screen

    store = settings_in_force().store.open()
    manifest, table, _ = read_export(store, day_argument(day))
    found = {"manifest": manifest, "payouts": table.to_dicts()}
    yield found, owners_screen(store, day_argument(day), most=most)


@command(app)
def verify(
    what: Annotated[
        str,
        typer.Argument(
            metavar="DAY|PERIOD|MANIFEST", help="A day, a closed month, or the path of a manifest, a proof or a report."
        ),
    ],
    public_key: Annotated[
        Path | None, typer.Option("--key", help="The public key, as PEM, that must have signed a manifest.")
    ] = None,
) -> Shown:
    """Re-check a published export: checksums, signature, row identities, totals, the chain and, for a day, the ledger.

    A closed month is checked against the ledger, and so are the files for banks.

    A manifest, or the report on an appeal, is checked from the files beside it alone, so anybody can check a copy; whole stores
    have the public key under exports/keys, of a lone copy name it with --key. What `provenance proof` wrote is checked by
    itself.

    Example: `provenance verify 2026-11-20`
    """
    from provenance.core.store import Store
    from provenance.settlement.exports.export import APPEALS, MANIFEST, REPORT
    from provenance.settlement.exports.verification import check_proof, read_json
    from provenance.settlement.exports.verification import verify as verify_files
    from provenance.settlement.reconcile import check_day

    path = Path(what)
    if path.is_dir():
        path /= REPORT if (path / REPORT).is_file() else MANIFEST
    appeal = re.fullmatch(f"({APPEALS}/[0-9a-f]+)(/{REPORT})?", what)
    if "/" in what and not path.is_file() and not appeal:
        raise InputError(what, expected="a manifest.json, its folder, or a day as YYYY-MM-DD", found="no such file")
    if path.is_file():
        root = path.resolve().parent
        said = read_json(path)
        if isinstance(said, list):
            yield from _report([check_proof(proof) for proof in said], str(path))
            return
        whole = root.match("exports/payouts/day=*/rev=*")  # laid out as in the store, not a copy of one folder
        up = root.parents[3] if whole else root
        folder = str(root.relative_to(up))
        keys = [public_key.read_bytes()] if public_key else []
        name = REPORT if path.name == REPORT else MANIFEST
        checks = verify_files(Store(f"file://{up}", {}), folder, keys=keys, chain=whole, name=name)
    elif appeal:
        from provenance.validation.appeals.experiment import check_report

        folder = appeal[1]
        checks = check_report(settings_in_force(), folder)
    elif re.fullmatch(r"\d{4}-\d{2}", what):
        from provenance.settlement.months.settle import check_period

        folder, checks = check_period(settings_in_force(), what)
    else:
        day = parse_day("argument DAY|PERIOD|MANIFEST", what).isoformat()
        folder, checks = check_day(settings_in_force(), day)
    yield from _report(checks, folder)


def _report(checks: Sequence[Check], what: str) -> Shown:
    """Show what was checked; raises CheckFailed unless all of it holds."""
    from tasks.cli.tables import checks_screen

    told = {"folder": what, "checks": {check.name: list(check.problems) for check in checks}}
    yield told, [escape(what), checks_screen(checks)]
    failed = [check.name for check in checks if not check.passed]
    if failed:
        raise CheckFailed(f"{what}: {', '.join(failed)} {'does' if len(failed) == 1 else 'do'} not hold")


@app.command()
def proof(day: Annotated[str, typer.Argument(help="The day paid for, YYYY-MM-DD.")], owner_id: OwnerId) -> None:
    """Prove to an owner that its lines are in a day's published file, without showing any other.

    Prints JSON: each line, and the hashes that lead from it to the root in the manifest. `provenance verify FILE` checks it; so
    does anybody with SHA-256 (RFC 6962, section 2.1).

    Example: `provenance proof 2026-11-20 tom-christie > proof.json`
    """
    from provenance.settlement.exports.export import in_force
    from provenance.settlement.exports.verification import prove_line

    store = settings_in_force().store.open()
    print_json(prove_line(store, in_force(store, day_argument(day))["folder"], owner_id))


@command(app)
def diff(
    day: Annotated[str, typer.Argument(help="The day paid for, YYYY-MM-DD.")],
    before: Annotated[int, typer.Argument(min=1, help="A revision.")],
    after: Annotated[int, typer.Argument(min=1, help="Another one.")],
    most: Annotated[int, typer.Option(min=1, help="Owners listed.")] = 20,
) -> Shown:
    """What changed from one revision of a day to another: for whom, by how much, and which inputs differ.

    Example: `provenance diff 2026-11-20 1 2`
    """
    from provenance.settlement.exports.diff import diff as found_in
    from tasks.cli.tables import diff_screen

    found = found_in(settings_in_force().store.open(), day_argument(day), before, after)
    yield found, diff_screen(found, most=most)


@command(app)
def preview(
    first: Annotated[str, typer.Argument(help="The first day, YYYY-MM-DD.")],
    last: Annotated[str, typer.Argument(help="The last one; by default the first.")] = "",
    most: Annotated[int, typer.Option(min=1, help="Owners listed.")] = 20,
) -> Shown:
    """What paying days, or paying them again, would change for whom; nothing is booked.

    Computes as the nights would, and the nights then find it done. Days are held against what is booked now, one by one. Exit
    code 2: some day's night would fail, and the table says why.

    Example: `provenance preview 2026-11-01 2026-11-07`
    """
    from provenance.validation.preview import preview as of_days
    from tasks.cli.tables import preview_screen

    days = date.fromisoformat(day_argument(first)), date.fromisoformat(day_argument(last or first))
    with watched():
        found = list(of_days(*days))
    yield found, preview_screen(found, most=most)
    if any(day["problem"] for day in found):
        raise typer.Exit(2)


@command(app)
def replay(
    day: Annotated[str, typer.Argument(help="The day paid for, YYYY-MM-DD.")],
    revision: Annotated[int | None, typer.Option(min=1, help="By default the one in force.")] = None,
) -> Shown:
    """Compute a published night again, from the digests in its manifest, and compare it byte for byte.

    Nothing that the night computed is read. It takes as long as a first night, and as much disk (below `var/recompute`).

    Example: `provenance replay 2026-11-20`
    """
    from provenance.validation.replay import recompute

    with watched():
        folder, checks = recompute(settings_in_force(), day_argument(day), revision)
    yield from _report(checks, folder)


@app.command("replace-key")
def replace_signing_key() -> None:
    """Have a new key sign manifests from now on; what the old one signed stays good.

    The old one's public key goes to the folder of retired keys (settlement.retired), its private key is deleted. If it was
    stolen, delete its public key there, too: whatever it signed then no longer verifies.

    Example: `provenance replace-key`
    """
    from provenance.settlement.exports.keys import replace_key

    settlement = settings_in_force().settlement
    retired = replace_key(settlement)
    console.print(f"{settlement.key} signs from now on; {retired} is still trusted.", soft_wrap=True, highlight=False)


@command(app)
def balance(
    owner_id: Annotated[str | None, typer.Argument(help="An owner; without one, all accounts together.")] = None,
) -> Shown:
    """What lies in the ledger: an owner's accounts and every booking behind them, or the trial balance, holds and escrow.

    Example: `provenance balance tom-christie`
    """
    from provenance.settlement.account_actions import balance as found_in
    from tasks.cli.tables import balance_screen

    found = found_in(settings_in_force(), owner_id)
    yield found, balance_screen(found)


@command(app)
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
) -> Shown:
    """Remove what nights have computed and the policy does not keep ([retention] in the settings); the ledger is not touched.

    Exports, closings, statements, files for banks, keys, audits, appeals, deliveries and the corpus in force always stay.
    A night run again computes what is gone, to the same bytes; what a night's `removed.json` names can no longer be read.
    Stopped at any moment, the same command goes on from there. The DAG `housekeeping` does the same every week.

    Example: `provenance gc --dry-run`
    """
    from provenance.validation.retention import collect
    from tasks.cli.tables import removals_screen

    with watched():
        removals = collect(settings_in_force(), dry_run=dry_run)
    facts = ("kind", "policy", "bytes")
    told = [{name: getattr(r, name) for name in facts} | {"objects": [o.key for o in r.objects]} for r in removals]
    yield {"dry_run": dry_run, "removed": told}, removals_screen(removals, dry_run=dry_run)


@command(app)
def hold(owner_id: OwnerId, reason: Reason, by: By) -> Shown:
    """Hold what an owner is owed, and what it will earn: a dispute, missing data, an opt-out under review.

    Nothing of it is paid until `provenance release`. The same hold twice is placed once.

    Example: `provenance hold tom-christie --reason "disputed by A. Smith" --by "J. Doe"`
    """
    from provenance.settlement import account_actions as accounts

    yield from _book(lambda settings: accounts.hold(settings, owner_id, reason=reason, by=by), owner_id)


@command(app)
def release(owner_id: OwnerId, reason: Reason, by: By) -> Shown:
    """End the hold that was placed for a reason; with an owner's last one, what was held is payable again.

    Example: `provenance release tom-christie --reason "disputed by A. Smith" --by "J. Doe"`
    """
    from provenance.settlement import account_actions as accounts

    yield from _book(lambda settings: accounts.release(settings, owner_id, reason=reason, by=by), owner_id)


@command(app)
def claim(
    escrow_id: Annotated[str, typer.Argument(help="The name that it lies under: see `provenance balance`.")],
    owner_id: OwnerId,
    evidence: Annotated[str, typer.Option(help="Why it is theirs; kept in the ledger.")],
    by: By,
) -> Shown:
    """Give an owner what lies in escrow under a name, and what will be put there; a name is claimed once.

    Example: `provenance claim unmatched-libcst tom-christie --evidence "letter of 2026-11-20" --by "J. Doe"`
    """
    from provenance.settlement import account_actions as accounts

    yield from _book(lambda settings: accounts.claim(settings, escrow_id, owner_id, evidence=evidence, by=by), owner_id)


@command(app)
def advance(
    owner_id: OwnerId,
    amount: Annotated[str, typer.Argument(help="What was paid in advance, such as 250.00.")],
    currency: Annotated[str, typer.Argument(help="ISO 4217, such as EUR.")],
    reason: Reason,
    by: By,
) -> Shown:
    """Note an advance that was paid to an owner; what the owner earns is set off against it before anything is paid.

    Example: `provenance advance tom-christie 250.00 EUR --reason "contract of 2026-11-01" --by "J. Doe"`
    """
    from provenance.settlement import account_actions as accounts

    said = {"reason": reason, "by": by}
    yield from _book(lambda settings: accounts.advance(settings, owner_id, currency, amount, **said), owner_id)


@command(app)
def rate(
    period: Annotated[str, typer.Argument(help="The period that it is for, YYYY-MM; before that is closed.")],
    source: Annotated[str, typer.Argument(help="The currency that is owed, such as USD.")],
    target: Annotated[str, typer.Argument(help="The currency that payees are paid in, such as EUR.")],
    value: Annotated[str, typer.Argument(metavar="RATE", help="Units of the second for one of the first, such as 0.8642.")],
    evidence: Annotated[str, typer.Option(help="Where it stands; kept in the ledger.")],
    by: By,
    unusual: Annotated[
        bool, typer.Option("--unusual", help="Take it, though it is more than twice the last rate, or less than half.")
    ] = False,
) -> Shown:
    """Note at which rate a period converts one currency into another; the last one noted counts.

    One that is more than twice the last rate noted for the two, of whichever period, or less than half of it, is refused.

    Example: `provenance rate 2026-11 USD EUR 0.8642 --evidence "ECB, 2026-11-30" --by "J. Doe"`
    """
    from provenance.settlement import account_actions as accounts

    pair, said = (source, target), {"evidence": evidence, "by": by}
    yield from _book(lambda settings: accounts.record_rate(settings, period, pair, value, unusual=unusual, **said))


@command(app)
def payments(
    period: Annotated[str | None, typer.Argument(help="A closed period, YYYY-MM; by default the last.")] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Say what closing an open period now would find; nothing is booked.")
    ] = False,
) -> Shown:
    """What a closed period pays, and what became of each payment: waiting, sent, paid, rejected, returned, or left out.

    With `--preview`, of a period that is not closed: what would be paid, who would be on hold and why, which rates are missing.
    What would stop the close stops it, too.

    Example: `provenance payments 2026-11`
    """
    from tasks.cli.tables import closing_screen, payments_screen

    if preview:
        from dataclasses import asdict

        from provenance.settlement.months.settle import preview as preview_of
        from provenance.settlement.months.settling import parse_period

        if period is None:
            raise InputError("PERIOD", expected="a period beside --preview, such as 2026-11", found="none")
        found = preview_of(settings_in_force(), parse_period("PERIOD", period))
        shown, screen = {**found, "lines": [asdict(line) for line in found["lines"]]}, closing_screen(found)
    else:
        from provenance.settlement.account_actions import payments_of

        shown = payments_of(settings_in_force(), period)
        screen = payments_screen(shown)
    yield shown, screen


@command(app)
def answer(files: Annotated[list[Path], typer.Argument(help="What a bank sent: pain.002 or camt.053.")]) -> Shown:
    """Book what banks answered: payments that were made, rejected, or came back; each file whole or not at all, and once.

    The DAG `bank_answers` does the same with all files below `bank/answers/` in the store.

    Example: `provenance answer status.xml statement.xml`
    """
    from provenance.settlement.bank.incoming import book_answer
    from tasks.cli.tables import answers_screen

    settings, found = settings_in_force(), []
    for file in files:
        if not file.is_file():
            raise InputError(str(file), expected="a file that a bank sent", found="no such file")
        found.append({"file": str(file), **book_answer(settings, file.read_bytes(), str(file))})
    yield found, answers_screen(found)


@command(app)
def statement(
    owner_id: OwnerId,
    period: Annotated[
        str | None, typer.Option(help="YYYY-MM; by default the last closed one. One that is open is stated so far.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write the web page and the PDF to.")] = Path(),
) -> Shown:
    """What an owner earned in a period, for which outputs, through which works, how sure that is, and what became of it.

    Writes `statement-PERIOD-OWNER.html` and `.pdf`. The DAG `settle_period` writes everybody's below `exports/statements/`.

    Example: `provenance statement tom-christie --period 2026-11 --out statements`
    """
    from dataclasses import asdict

    from provenance.settlement.account_actions import last_closed
    from provenance.settlement.months.settling import parse_period
    from provenance.settlement.months.write_statements import FORMS, file_name
    from provenance.settlement.months.write_statements import statement as stated

    settings = settings_in_force()
    found = stated(settings, owner_id, parse_period("--period", period) if period else last_closed(settings))

    def write() -> Iterator[Text]:
        out.mkdir(parents=True, exist_ok=True)
        for form, render in FORMS.items():
            path = out / f"statement-{found.period}-{file_name(owner_id)}.{form}"
            path.write_bytes(render(found))
            yield line(str(path))

    yield asdict(found), write()


def _book(make: Callable[[Settings], Booking], owner_id: str = "") -> Shown:
    """Book something, and say what was booked, or had been before, and what that moved for an owner."""
    from provenance.settlement import account_actions as accounts

    settings = settings_in_force()
    before = accounts.newest(settings)
    booking = make(settings)
    again = booking.booking_id <= before
    told = {"booking_id": booking.booking_id, "kind": booking.kind, "day": str(booking.day), "facts": booking.facts}
    what = f"{'Booked before: booking' if again else 'Booking'} {booking.booking_id} of {booking.day}, {booking.kind}"
    moved = (f"  {amount}" for amount in accounts.moved(settings, owner_id, booking)) if owner_id else ()
    yield {**told, "again": again}, map(line, (f"{what}: {booking.said}", *moved))


WorkloadName = Literal["code", "subwords", "large", "glyphs", "music", "languages", "eight", "designers", "composers"]


@command(app)
def workload(
    name: Annotated[WorkloadName, typer.Argument(help="One of those above.")],
    out: Annotated[Path, typer.Argument(help="Folder to write corpus/, model/ and outputs.parquet to.")],
) -> Shown:
    """Make something to audit: a corpus with real owners, a small model trained on it, and outputs to ask about.

    `code`: Python sources by their authors, a byte-level transformer. `subwords`, `large`: the same with subword tokens, and
    with a larger model trained longer. `glyphs`: letters by their typefaces' designers, a diffusion model. `music`: melodies
    by their composers. Of few owners, so that every coalition of them can be trained: `languages` (seven, of files as different
    as installed packages have them, one a copyist; bytes), `eight` (the same without the copyist; subwords), `designers`
    and `composers` (eight of each). Letters and melodies need `make workloads`.

    Example: `provenance workload music var/workloads/music`, then `provenance audit lds --corpus var/workloads/music/corpus
    --model var/workloads/music/model --outputs var/workloads/music/outputs.parquet --out var/workloads/music/audit`
    """
    from provenance.validation.workload import make

    with watched():
        made = make(name, out)
    model = f"a model of {made['parameters']:,} parameters with {len(made['checkpoints'])} checkpoints"
    said = f"{out}: {made['examples']} examples by {made['owners']} owners, {made['outputs']} outputs, {model}"
    yield made, [line(said)]


@app.command()
def bench(
    corpus: CorpusFolder,
    model: ModelFolder,
    outputs: OutputFile,
    parts: Annotated[
        str, typer.Option(help="Which of features, scoring, memory, workers, night, likelihoods, royalty, with commas between.")
    ] = "features,scoring,memory,workers,night,likelihoods,royalty",
    device: OnDevice = "auto",
) -> None:
    """What attribution costs on this machine, as JSON: ratios of two times that were taken turn by turn.

    `features`: CPU time of gradient features against a bare forward and backward pass on the same batches, without and with
    normalisers and writing; bytes per example. `scoring`: against a dense matrix product of as many numbers. `memory`: peak
    of a corpus ten times larger against that of a small one. `workers`: one against two. `night`: one on which nothing is
    new against one on which everything is. `likelihoods`: what a counterfactual model takes each night against a forward and
    backward pass. `royalty`: the estimate of shares on made-up counterfactual models. Run it on a machine that does nothing
    else.

    Example: `provenance workload code var/workloads/code`, then `provenance bench --corpus var/workloads/code/corpus
    --model var/workloads/code/model --outputs var/workloads/code/outputs.parquet`
    """
    from provenance.local import attribute as task
    from provenance.validation import cost as benchmark

    asked = parts.split(",")
    if unknown := [name for name in asked if name not in benchmark.PARTS]:
        raise InputError("--parts", expected=f"some of {', '.join(benchmark.PARTS)}", found=repr(unknown[0]))
    request = task.Request(corpus, model, outputs, Path(), claims_day(None))
    with watched():
        settings = task.local_settings(method="factored", device=device, workers=None)
        print_json(benchmark.bench(request, settings, asked))


Disclosure = Literal["eu", "us", "croissant", "spdx", "csv", "all"]


@command(app)
def disclose(
    out: OutFolder,
    what: Annotated[Disclosure, typer.Argument(help="One of them, or all with a page that links them.")] = "all",
    corpus: Annotated[str, typer.Option("--corpus", help="Digest of a frozen corpus.")] = "in force",
    facts: Annotated[
        Path | None, typer.Option("--model-facts", help="TOML file of what only you know; see infra/settings/disclosure.toml.")
    ] = None,
    on: Annotated[
        str | None, typer.Option("--on", metavar="YYYY-MM-DD", help="The day that the documents bear; by default today (UTC).")
    ] = None,
    complete: Annotated[bool, typer.Option("--complete", help="Exit with 1 if an answer is missing.")] = False,
) -> Shown:
    """Say what a model was trained on, as laws and catalogues ask for it: from the frozen corpus, the same for the same day.

    `eu`: the public summary of Article 53(1)(d) of the AI Act. `us`: copyrighted works, and transparency, as two bills have it.
    `croissant`: the corpus as a data set. `spdx`: a bill of materials. `csv`: every work. Each is held against its schema or
    validated by its standard's library before it is written. What only the provider knows comes from `--model-facts`; what is
    missing is marked, and listed.

    Example: `provenance disclose all --out disclosures --model-facts infra/settings/disclosure.toml --on 2026-11-20`
    """
    from provenance.corpus.disclosures.disclose import disclose as write
    from tasks.cli.rights_tables import disclosures_screen

    day = claims_day(on) if on is None else parse_day("--on", on)
    found = write(settings_in_force(), what, out, on=day, corpus=corpus, facts=facts)
    yield found, disclosures_screen(found, out)
    if complete and (missing := sum(map(len, found["missing"].values()))):
        raise CheckFailed(f"{out}: {missing} answers are to be completed by the provider")
