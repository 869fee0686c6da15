"""The command line: `provenance`. Exit codes: 0 good, 1 a check failed, 2 bad input."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from provenance.core.errors import CheckFailed, InputError, parse_day

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Whose work a generative model's outputs rest on, and what each owner is paid for it.\n\n"
    "Settings come from `infra/settings/local.toml`, or the file that PROVENANCE_SETTINGS names; "
    "PROVENANCE_&lt;SECTION&gt;__&lt;KEY&gt; overrides one key. Exit codes: 0 good, 1 a check failed, 2 bad input.",
)
console = Console()
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@app.command()
def attribute(
    corpus: Annotated[Path, typer.Option(help="Folder with examples.parquet and, optionally, claims and owners.")],
    model: Annotated[Path, typer.Option(help="Folder with model.toml and its checkpoints.")],
    outputs: Annotated[Path, typer.Option(help="Parquet file with `output_id` and `content`.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    method: Annotated[str, typer.Option(help="factored, dense, cosine, tfidf, bm25 or hybrid.")] = "factored",
    hybrid_weight: Annotated[float | None, typer.Option(min=0, max=1, help="Part of tfidf in hybrid.")] = None,
    device: Annotated[Device, typer.Option(help="auto takes a GPU where there is one.")] = Device.auto,
    workers: Annotated[int | None, typer.Option(min=1, help="Dask workers; by default one for each core or GPU.")] = None,
    day: Annotated[str | None, typer.Option(help="Day on which claims must be valid; by default today (UTC).")] = None,
    as_json: AsJson = False,
) -> None:
    """Influence without money: which examples and owners each output rests on.

    Writes `scores.parquet` (`output_id, example_id, influence`), `owner_influence.parquet` (`output_id, owner_id,
    influence`) and a manifest. An influence is positive where the example made the output more likely; its unit is the root
    mean square over outputs and examples. What is computed on the way is kept in `work/` below the folder, so that the
    same command with other outputs computes only their features.

    Example: `provenance attribute --corpus corpus --model var/models/demo-code --outputs outputs.parquet --out result`
    """
    from tasks.attribute import Request, attribute_with
    from tasks.screens import attribution_screen
    from tasks.watch import watch

    today = datetime.now(UTC).date() if day is None else parse_day("--day", day)
    request = Request(corpus, model, outputs, out, today)
    with watch(Console(stderr=True)):
        manifest = attribute_with(request, method=method, hybrid_weight=hybrid_weight, device=device.value, workers=workers)
    if as_json:
        _print_json(manifest)
    else:
        console.print(*attribution_screen(out, manifest), sep="\n", soft_wrap=True)


@app.command()
def explain(
    output_id: Annotated[str, typer.Argument(help="The output, as the day's outputs name it.")],
    day: Annotated[str | None, typer.Option(help="Look at this day only; by default the latest with that output.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Owners listed.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Who made this output possible: owners with shares and intervals, and the works behind each.

    Example: `provenance explain 2026-11-20-007`
    """
    from tasks.screens import output_screen
    from tasks.settings import load

    data, tables = output_screen(load().store.open(), output_id, _day(day) if day else None, most=most)
    if as_json:
        _print_json(data)
    else:
        console.print(*tables, sep="\n", soft_wrap=True)


@app.command()
def payouts(
    day: Annotated[str, typer.Argument(help="The day paid for, YYYY-MM-DD.")],
    most: Annotated[int, typer.Option(min=1, help="Owners listed by name.")] = 20,
    as_json: AsJson = False,
) -> None:
    """What each owner earned on a day, what went to escrow and why, and that it adds up.

    Example: `provenance payouts 2026-11-20 --most 50`
    """
    from tasks.screens import owners_screen, read_export
    from tasks.settings import load

    store = load().store.open()
    if as_json:
        manifest, table, _ = read_export(store, _day(day))
        _print_json({"manifest": manifest, "payouts": table.to_dicts()})
    else:
        console.print(*owners_screen(store, _day(day), most=most), sep="\n")


@app.command()
def verify(
    what: Annotated[str, typer.Argument(metavar="DAY|MANIFEST", help="A day, or the path of a manifest.json.")],
    as_json: AsJson = False,
) -> None:
    """Re-check a published export: checksums, row identities, totals, the chain and, for a day, the ledger.

    A manifest is checked from the files beside it alone, so an accountant can check a copy.

    Example: `provenance verify 2026-11-20`
    """
    from provenance.core.store import Store
    from provenance.settlement.verification import verify as verify_files
    from tasks.reconcile import check_day
    from tasks.screens import checks_screen
    from tasks.settings import load

    path = Path(what) / "manifest.json" if Path(what).is_dir() else Path(what)
    if "/" in what and not path.is_file():
        raise InputError(what, expected="a manifest.json, its folder, or a day as YYYY-MM-DD", found="no such file")
    if path.is_file():
        root = path.resolve().parent
        whole = root.match("exports/payouts/day=*/rev=*")  # laid out as in the store, not a copy of one folder
        up = root.parents[3] if whole else root
        folder = str(root.relative_to(up))
        checks = verify_files(Store(f"file://{up}", {}), folder, chain=whole)
    else:
        folder, checks = check_day(load(), _day(what))
    if as_json:
        _print_json({"folder": folder, "checks": {check.name: list(check.problems) for check in checks}})
    else:
        console.print(folder, checks_screen(checks), sep="\n", soft_wrap=True)
    failed = [check.name for check in checks if not check.passed]
    if failed:
        raise CheckFailed(f"{folder}: {', '.join(failed)} do not hold")


def _day(text: str) -> str:
    return parse_day("argument DAY", text).isoformat()


def _print_json(data: object) -> None:
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")


def main() -> None:
    """Run the command line; errors become one message and an exit code."""
    try:
        app()
    except InputError as error:
        Console(stderr=True).print(f"[bold red]Bad input:[/] {escape(str(error))}", soft_wrap=True)
        raise SystemExit(2) from error
    except CheckFailed as error:
        Console(stderr=True).print(f"[bold red]Check failed:[/] {escape(str(error))}", soft_wrap=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
