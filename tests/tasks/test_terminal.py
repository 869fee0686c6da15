"""Names chosen by strangers, as a terminal shows them."""

import io
import logging
import re
from datetime import date

import polars as pl
import pytest
from rich.progress import Progress
from samples import HOSTILE

from provenance.core.errors import InputError, InputErrors
from provenance.core.progress import PROGRESS
from provenance.inputs.contracts import Contract
from provenance.settlement.exports.day_diff import Cause, DayDiff, Mover, Share, WorkMoved
from provenance.settlement.exports.verification import Check
from provenance.settlement.months.periods import NO_PAYEE, NO_RATE, ON_HOLD, Line
from provenance.settlement.owner_list import OwnerLine
from provenance.validation.model_card import CardNight, Fidelity, ModelCard, Score
from provenance.validation.status import LastNight, Status, Waits
from tasks.cli import accounts, attribution, audit, counterfactuals, model, nights, optout, payee, standing
from tasks.terminal import Bars, Terminal, as_text, exit_codes


def shown(*renderables, width=4000):
    file = io.StringIO()
    terminal = Terminal(file=file, force_terminal=True, color_system="truecolor", width=width, legacy_windows=False)
    terminal.print(*as_text(renderables), sep="\n")
    return file.getvalue()


def without_styles(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def balance(name):
    return {"through": 1, "trial_balance": {}, "holds": {name: [name]},
            "escrow": [{"escrow_id": name, "currency": "EUR", "amount_minor": 1, "since": "2026-11-01"}]}  # fmt: skip


def account(name):
    booked = {"booking_id": 1, "day": "2026-11-01", "kind": "hold", "booked_at": "2026-11-01T00:00:00", "facts": {name: name},
              "entries": []}  # fmt: skip
    return {"owner_id": name, "accounts": [], "holds": [name], "bookings": [booked]}


def payments(name):
    line = {
        "payment_id": "p",
        "owner_id": name,
        "currency": "EUR",
        "paid_minor": 1,
        "status": "sent",
        "reason": name,
        "owner_name": name,
    }
    approvals = {"prepared_by": name, "prepared_at": "2026-12-01T00:00:00Z"}
    approvals |= {"approved_by": name, "approved_at": "2026-12-01T00:00:00Z"}
    return {"period": "2026-11", "closed_as": 1, "outcomes": {}, "payments": [line], "approvals": approvals}


def difference(name):
    owner = {"owner_id": name, "owner_name": name, "currency": "EUR", "before_minor": 1, "after_minor": 2}
    return {"day": "2026-11-01", "before": 1, "after": 2, "causes": [name], "totals": [{}, {}], "owners": [owner]}


def closing(name):
    lines = [Line(name, "EUR", 1, outcome=ON_HOLD), Line(name, "USD", 1, pay_currency="EUR", outcome=NO_RATE)]
    return {"period": "2026-11", "over": True, "lines": lines, "holds": {name: (name, NO_PAYEE)}, "missing": []}


SCREENS = {
    "balance": lambda name: accounts.balance_screen(balance(name)),
    "account": lambda name: accounts.balance_screen(account(name)),
    "closing": lambda name: accounts.closing_screen(closing(name)),
    "payments": lambda name: accounts.payments_screen(payments(name)),
    "diff": lambda name: nights.diff_screen(difference(name)),
    "checks": lambda name: [nights.checks_table([Check("c", (name,))])],
    "royalty": lambda name: attribution.royalty_screen(
        {"outputs": 1, "rule": "srs", "paid_by": "flat", "unsupported": ["too few models"], "counterfactuals": {},
         "mean_share": {name: 1.0}, "owners": 1, "unattributed": 0}, name
    ),
    "counterfactuals": lambda name: counterfactuals.counterfactuals_screen(
        [{"name": "0" * 32, "stratum": "pair", "aside": True, "partition": 1, "works": 1, "examples": 1, "seed": 1}], name
    ),
    "attacks": lambda name: audit.attacks_screen({"attacker": name, "rules": [], "attacks": [{"attack": "a", "says": name}]}),
    "contracts": lambda name: [attribution.contracts_table([Contract(name=name or "x", developer_ppb=0)])],
    "payees": lambda name: [
        payee.payees_table(
            [{"owner_id": name, "version": 1, "currency": "EUR", "paid_by": name, "tax_data": True, "changed_at": "x",
              "changed_by": name}]
        )
    ],
}  # fmt: skip


def optouts_in_force(name):
    when = {"choice": "held", "effective_on": date(2026, 11, 20), "action": "optout", "state": "in force", "in_corpus": True}
    rows = pl.DataFrame([{"work_id": name, "owner_id": name, "recorded_by": name, "evidence": name, **when}])
    return optout.optouts_screen(rows)


def optouts_of_models(name):
    model = {"model_id": name, "model": "0" * 64, "by": "corpus", "nights": 3}
    night = {"day": "2026-11-20", "currency": "EUR", "share_ppb": 12_000_000, "influence_ppb": 3_000_000}
    row = {"work_id": name, "owner_id": name, "choice": "held", "since": date(2026, 11, 20)}
    reports = [{**row, "models": [model], "nights": [night]}, {**row, "models": [], "nights": []}]
    return optout.optout_report_screen(reports)


def how_things_stand(name):
    night = LastNight(name, 1, name, 1, 1, {"EUR": 1}, {}, {name: 0.5, f"{name}2": None}, {}, name, name)
    return standing.status_screen(Status(name, last_night=night, waits=(Waits(name, name),)))


def two_days(name):
    mover = Mover(
        name,
        "payable",
        f"the {name}",
        Share(1, 1, 1),
        Share(2, 2, 2),
        False,
        {"EUR": (1, 2)},
        (name,),
        (WorkMoved(name, 1, 2),),
    )
    return nights.day_diff_screen(
        DayDiff(("2026-11-19", "2026-11-20"), (1, 1), (1, 1), {name: (0.5, None)}, (Cause("corpus", name),), (), (mover,))
    )


def a_model(name):
    facts = Fidelity(name, "srs", {"srs": 1.0}, 9, {"estimate": Score(0.5, 0.4, 0.6)}, 0.9, None, (name,))
    card = ModelCard(
        model_id=name, model="0" * 64, adapter=name, adapter_args={name: name}, architecture=name, base=name,
        recipe={name: name}, checkpoints=(1,), read=(name,),
        corpus={"digest": "0" * 64, "examples": 1, "owners": 1, "held_out": 0, "works_without_owner": 0},
        method={"name": name}, components={name: {name: 1.0}}, counterfactuals={name: 1}, set_aside=0, followed=None, stored={},
        nights=(CardNight("2026-11-20", 1, 1, (facts,), {"EUR": 1.0}),), published=1, audit=(), cost_currency="EUR", trust=name,
        warnings=(name,),
    )  # fmt: skip
    return model.card_screen(card)


SCREENS |= {"opt-outs": optouts_in_force, "opt-outs of models": optouts_of_models}
SCREENS |= {"status": how_things_stand, "two days": two_days, "model card": a_model}
SCREENS["owners"] = lambda name: standing.owners_found_screen([OwnerLine(name, name, 1, {"EUR": 1}, (name,))], most=9)


@pytest.mark.parametrize("screen", [optouts_in_force, optouts_of_models])
def test_an_id_of_an_opt_out_stands_whole_on_a_narrow_terminal(screen):
    name = "a-name-of-forty-letters/httpx/_client.py"
    rows = without_styles(shown(*screen(name), width=80)).splitlines()
    assert name in rows, "a line of its own, to be copied"
    assert [row for row in rows if row.startswith(f"  {name}: held")]


@pytest.mark.parametrize("screen", SCREENS)
def test_no_name_is_markup_or_moves_the_cursor(screen):
    for name in HOSTILE:
        text = without_styles(shown(*SCREENS[screen](name)))
        assert not {c for c in text if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160)}
        assert "\u202e" not in text
        if name.startswith("["):
            assert "".join(name.split()) in "".join(text.split()), "a tag stays text"


@pytest.mark.parametrize("screen", SCREENS)
def test_no_name_begins_a_line_of_its_own(screen):
    text = without_styles(shown(*SCREENS[screen]("ann\nowner of all")))
    assert not [row for row in text.splitlines() if row.strip().startswith("owner of all")]


def test_progress_and_warnings_show_names_as_text():
    file = io.StringIO()
    with Progress(console=Terminal(file=file, width=200)) as progress:
        bars = Bars(progress)
        for name in HOSTILE:
            bars.emit(logging.LogRecord("p", logging.WARNING, "f", 1, "%s", (name,), None))
            bars.emit(logging.LogRecord("p", logging.INFO, "f", 1, PROGRESS, (name, 1, 2), None))
    assert "\x1b]0;" not in file.getvalue()
    assert file.getvalue().count("[red]red[/]") == 2, "a warning, and a bar"


def test_the_panel_of_an_output_shows_its_id_as_text():
    credit = {"account": "payable", "owner_id": "[/]", "owner_name": "[red]x[/]", "escrow_id": None, "share_ppb": 10**9,
              "low_ppb": 0, "high_ppb": 10**9, "amount_nanominor": 1, "rules": [],
              "top_works": [{"work_id": "[/]"}], "number": 1, "sure": "unsure", "leading": True}  # fmt: skip
    pieces = {"picture": "", "notes": [], "pieces": [{"text": "[/]\x1b[2J", "word_for_word": None}]}
    work = {"title": "[/]\x1b[2J", "licence": "[/]", "link": "[/]", "passages": [pieces]}
    contract = {"name": "[/]", "rule": "srs", "weight": 0, "developer_ppb": 0, "fallback": "flat"}
    data = {"output_id": "[/]\x1b[2J", "day": "2026-11-01", "revenue_minor": 1, "currency": "EUR", "content": "\x1b[2J[/]",
            "contract": contract, "fidelity": {"failed": ["[/]\x1b[2J"]}, "trust": "The check failed.", "notice": "[/]",
            "credits": [credit | {"works": [work]}, credit | {"number": 2, "works": []}],
            "prompt": "\x1b[2J[/]", "prompt_notes": [], "text": "\x1b[2J[/]", "picture": "", "notes": [],
            "spans": [{"text": "\x1b[2J[/]", "party": 1, "word_for_word": 1}],
            "word_for_word": [{"text": "\x1b[2J[/]", "works_in_all": 1, "works": [work]}]}  # fmt: skip
    text = without_styles(shown(*attribution.output_screen(data, 10), width=200))
    assert "\x1b" not in text
    assert "[/]\\x1b[2J of 2026-11-01" in text


def mistakes(*errors):
    file = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.terminal.Terminal", lambda **_: Terminal(file=file, width=4000))
        with pytest.raises(SystemExit) as exit_, exit_codes():
            raise InputErrors(errors)
    assert exit_.value.code == 2
    return file.getvalue().splitlines()


def test_one_mistake_in_forty_lines_is_one_error():
    rows = mistakes(*(InputError(f"p.csv: line {n}: iban", expected="an IBAN", found="none") for n in range(2, 42)))
    assert rows == [
        "Bad input: p.csv: line 2: iban: expected an IBAN, found none. The same mistake 39 more times (lines 3 to 41)."
    ]


def test_a_mistake_with_several_values_shows_two_of_them():
    rows = mistakes(*(InputError(f"line {n}: owner", expected=f"one of 'w{n}'", found=f"'x{n}'") for n in range(2, 42)))
    assert [row.split(", found ")[1].split(".")[0] for row in rows] == ["'x2'", "'x3'"]
    assert rows[1].endswith("The same mistake 38 more times (lines 4 to 41).")


def test_other_mistakes_are_all_shown():
    rows = mistakes(*(InputError(f"line {n}: {name}", expected=name, found="none") for n in (2, 3) for name in ("iban", "bic")))
    assert len(rows) == 4
