"""Routes of the page, as HTML and as JSON, for users that may read the DAG `nightly_payouts`.

    /payouts/                        how things stand; the last nights, audits, plots
    /payouts/nights/2026-11-20       one night: owners, outputs, fidelity, files
    /payouts/outputs/ID?day=...      one output's credits
    /payouts/months, .../2026-11     from the close to the answers of banks
    /payouts/owners, .../ID          balances, history, works, opt-outs
    /payouts/model                   the card of the model in use
    /payouts/docs/operators.md       the documents of the checkout
    /payouts/files/exports/...       published files
    /payouts/api/...json             the same as data

Before every route, also that of the style sheet, the dependency of Airflow's own API checks user and rights. The page writes
nothing and has no script.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from dataclasses import asdict
from datetime import UTC, date, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.configuration import conf
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from infra.monitor import owners, runs
from infra.monitor.flow import output
from infra.monitor.headline import Part, headline
from infra.monitor.nights import escrow
from infra.monitor.sources import Sources
from infra.page import documents, money_flow, plots, template_filters
from infra.page.downloads import published_file
from provenance.core.errors import ContractError, InputError, parse_day
from provenance.settlement.months.periods import parse_period
from provenance.settlement.months.unsettled import unsettled
from provenance.validation import model_card as cards

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from infra.monitor.months import Month
    from infra.monitor.nights import WatchedNight
    from provenance.influence.audits import Audit

log = logging.getLogger("provenance.page")

MOST_NIGHTS = 400
# Entries of the navigation: path, title, and the templates below it.
SECTIONS = (
    ("/", "Nights", ("nights.html", "night.html", "output.html")),
    ("/months", "Months", ("months.html", "month.html")),
    ("/owners", "Owners", ("owners.html", "owner.html")),
    ("/model", "Model", ("model.html",)),
    (f"/docs/{documents.INDEX}", "Documents", ("document.html",)),
)
HEADERS = {
    # No script; Airflow shows the page in a frame.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}

app = FastAPI(
    title="Payouts",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    dependencies=[Depends(requires_access_dag("GET", param_dag_id=runs.NIGHTLY))],
)
pages = Environment(
    loader=PackageLoader("infra.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
pages.filters.update(template_filters.FILTERS)
pages.globals["sections"] = SECTIONS
pages.globals["predictors"] = tuple(template_filters.PREDICTORS.items())


@cache
def sources() -> Sources:
    """The sources, opened once in each process."""
    return Sources.open(conf.get("database", "sql_alchemy_conn"))


Last = Annotated[int, Query(ge=1, le=MOST_NIGHTS)]
Start = Annotated[int, Query(ge=0, le=10_000_000)]


@app.get("/", response_class=HTMLResponse)
def nights_page(request: Request, last: Last = 60) -> HTMLResponse:
    """The last nights."""
    opened, nights, audits = _nights(last)
    return _page(
        request,
        "nights.html",
        headline=_headline(opened, nights),
        nights=nights[::-1],
        audits=audits[::-1],
        escrow=escrow(opened.ledger),
        paused=runs.paused(opened.airflow),
        asked=runs.open_questions(opened.airflow),
        plots=plots.of_nights(nights, audits),
        flows=money_flow.of_totals(_sum(night.totals for night in nights)),
        settings=opened.settings,
        last=last,
    )


@app.get("/api/nights.json")
def nights_json(last: Last = 60) -> Response:
    """The last nights and audits, oldest first."""
    opened, nights, audits = _nights(last)
    escrow_data = {c: {"amount_minor": amount, "oldest": oldest} for c, (amount, oldest) in escrow(opened.ledger).items()}
    return _json(
        {
            "headline": [asdict(part) for part in _headline(opened, nights)],
            "nights": [_night_data(opened, night) for night in nights],
            "audits": [asdict(audit) for audit in audits],
            "escrow": escrow_data,
            "paused": runs.paused(opened.airflow),
            "asked": {dag: asdict(questions) for dag, questions in runs.open_questions(opened.airflow).items()},
        }
    )


@app.get("/nights/{day}", response_class=HTMLResponse)
def night_page(request: Request, day: str) -> HTMLResponse:
    """One night in detail."""
    opened, date_of_night = sources(), parse_day("day", day)
    flow = opened.flow(date_of_night)
    flows = money_flow.of_totals(flow.night.totals, flow.owners)
    return _page(request, "night.html", flow=flow, night=flow.night, flows=flows)


@app.get("/api/nights/{day}.json")
def night_json(day: str) -> Response:
    """The data of one night."""
    opened, date_of_night = sources(), parse_day("day", day)
    flow = opened.flow(date_of_night)
    return _json({**asdict(flow), "night": _night_data(opened, flow.night)})


@app.get("/outputs", response_class=HTMLResponse)
def find_output(request: Request, output_id: str, day: str = "") -> RedirectResponse:
    """Redirect the form for an output's id to the output."""
    query = f"?day={parse_day('day', day)}" if day else ""
    return RedirectResponse(f"{request.scope['root_path']}/outputs/{quote(output_id, safe='')}{query}", status_code=303)


@app.get("/outputs/{output_id:path}", response_class=HTMLResponse)
def output_page(request: Request, output_id: str, day: str = "") -> HTMLResponse:
    """One output's credits."""
    return _page(request, "output.html", output=_output(output_id, day))


@app.get("/api/outputs/{output_id:path}.json")
def output_json(output_id: str, day: str = "") -> Response:
    """The data of one output's credits."""
    return _json(_output(output_id, day))


@app.get("/months", response_class=HTMLResponse)
def months_page(request: Request) -> HTMLResponse:
    """The last months."""
    opened = sources()
    return _page(request, "months.html", months=opened.months(_today()), asked=_asks_for_months(opened))


@app.get("/api/months.json")
def months_json() -> Response:
    """The last months, newest first."""
    return _json([_month_data(month) for month in sources().months(_today())])


@app.get("/months/{period}", response_class=HTMLResponse)
def month_page(request: Request, period: str) -> HTMLResponse:
    """One month: its close, its payments, its files."""
    opened = sources()
    detail = opened.month(parse_period("month", period), _today())
    flows = money_flow.of_totals(detail.month.totals, detail.parties)
    return _page(request, "month.html", detail=detail, flows=flows, asked=_asks_for_months(opened))


@app.get("/api/months/{period}.json")
def month_json(period: str) -> Response:
    """The data of one month."""
    detail = sources().month(parse_period("month", period), _today())
    return _json({**asdict(detail), "month": _month_data(detail.month)})


@app.get("/owners", response_class=HTMLResponse)
def owners_page(request: Request, q: str = "", start: Start = 0) -> HTMLResponse:
    """Owners whose id or name contains a text, those with most owed first."""
    opened = sources()
    found = owners.find(opened.store, opened.ledger, q, start)
    return _page(request, "owners.html", found=found, q=q, page=owners.PAGE)


@app.get("/api/owners.json")
def owners_json(q: str = "", start: Start = 0) -> Response:
    """The same as data."""
    opened = sources()
    return _json(asdict(owners.find(opened.store, opened.ledger, q, start)))


@app.get("/owners/{owner_id:path}", response_class=HTMLResponse)
def owner_page(request: Request, owner_id: str) -> HTMLResponse:
    """One owner: balances, history, works, opt-outs."""
    opened = sources()
    owner = owners.owner(opened.store, opened.ledger, owner_id, _today())
    statements = {
        period: {form: owners.statement_key(period, owner_id, form) for form in ("pdf", "html")} for period in owner.statements
    }
    return _page(request, "owner.html", owner=owner, statements=statements, plots=plots.of_earnings(owner.history))


@app.get("/api/owners/{owner_id:path}.json")
def owner_json(owner_id: str) -> Response:
    """The data of one owner."""
    opened = sources()
    return _json(asdict(owners.owner(opened.store, opened.ledger, owner_id, _today())))


@app.get("/model", response_class=HTMLResponse)
def model_page(request: Request, model_id: str = "", last: Last = 30) -> HTMLResponse:
    """The card of the model in use, or of another one by its name."""
    card = sources().card(model_id, last)
    return _page(
        request,
        "model.html",
        card=card,
        identity=cards.identity(card),
        coverage=cards.coverage(card),
        audit=cards.audit_rows(card),
        cost=cards.cost_rows(card),
    )


@app.get("/api/model.json")
def model_json(model_id: str = "", last: Last = 30) -> Response:
    """The same as data."""
    return _json(asdict(sources().card(model_id, last)))


@app.get("/model.md")
def model_markdown(model_id: str = "", last: Last = 30) -> Response:
    """The same in Markdown, to be kept beside the model."""
    return Response(cards.markdown(sources().card(model_id, last)), media_type="text/markdown")


@app.get("/docs")
def documents_index(request: Request) -> RedirectResponse:
    """Redirect to the index of documents."""
    return RedirectResponse(f"{request.scope['root_path']}/docs/{documents.INDEX}", status_code=303)


@app.get("/docs/{name}", response_class=HTMLResponse)
def document_page(request: Request, name: str) -> HTMLResponse:
    """A document of the checkout."""
    return _page(request, "document.html", document=documents.document(name))


@app.get("/pictures/{name:path}")
def picture(name: str) -> Response:
    """A picture that a document shows."""
    if (file := documents.pictures().get(name)) is None:
        raise ContractError(f"picture {name!r}", expected="one that a document shows", found="none")
    return Response(file.read_bytes(), media_type=documents.PICTURES[file.suffix])


@app.get("/files/{key:path}")
def download(key: str) -> Response:
    """A published file, to be saved."""
    data, name = published_file(sources().store, key)
    attachment = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    return Response(data, media_type="application/octet-stream", headers={"Content-Disposition": attachment})


@app.get("/page.css")
def style() -> Response:
    """The style sheet."""
    return Response(_style(), media_type="text/css")


@app.middleware("http")
async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Add security headers to every answer."""
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


@app.exception_handler(HTTPException)
async def refuse(request: Request, error: HTTPException) -> Response:
    """Redirect requests for pages without a user to the login; answer other errors."""
    path: str = request.scope["path"].removeprefix(request.scope["root_path"])
    if path.startswith(("/api/", "/pictures/")) or path == "/page.css":
        return await http_exception_handler(request, error)
    if error.status_code == 401:
        target = quote(request.url.path + (f"?{request.url.query}" if request.url.query else ""), safe="")
        return RedirectResponse(f"{_airflow(request)}/api/v2/auth/login?next={target}", status_code=303)
    message = "You may not read the DAG nightly_payouts." if error.status_code == 403 else str(error.detail)
    return _page(request, "error.html", status_code=error.status_code, message=message)


@app.exception_handler(InputError)
async def explain(request: Request, error: InputError) -> Response:
    """Answer 404 for missing days and outputs and wrong input, 503 if sources cannot be read."""
    status = 404 if type(error) is InputError or isinstance(error, ContractError) else 503
    if status == 404:
        return _failed(request, status, str(error))
    log.error("the page cannot be read: %s", error)  # paths are not shown to browsers
    return _failed(request, status, "The store or the settings cannot be read. The API server's log says what is wrong.")


@app.exception_handler(SQLAlchemyError)
async def without_database(request: Request, error: SQLAlchemyError) -> Response:
    """Answer 503 if a database does not answer."""
    log.error("the page cannot be read: %s", error)
    return _failed(request, 503, "A database does not answer. The API server's log says which.")


def _failed(request: Request, status: int, message: str) -> Response:
    if request.scope["path"].removeprefix(request.scope["root_path"]).startswith("/api/"):
        return JSONResponse({"detail": message}, status_code=status)
    return _page(request, "error.html", status_code=status, message=message)


def _nights(last: int) -> tuple[Sources, list[WatchedNight], list[Audit]]:
    opened = sources()
    return opened, opened.nights(last), opened.audits(last)


def _headline(opened: Sources, nights: list[WatchedNight]) -> tuple[Part, ...]:
    asked, paused = runs.open_questions(opened.airflow), runs.paused(opened.airflow)
    open_ends = tuple(unsettled(opened.ledger).in_words())
    return headline(nights, asked, paused=paused, today=_today(), unsettled=open_ends)


def _today() -> date:
    return datetime.now(UTC).date()


def _sum(of_nights: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """The sum of control totals, by currency."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for totals in of_nights:
        for currency, row in totals.items():
            sums[currency].update(row)
    return {currency: dict(row) for currency, row in sums.items()}


def _asks_for_months(opened: Sources) -> bool:
    """Whether a settlement waits for a person."""
    return runs.SETTLEMENT in runs.open_questions(opened.airflow)


def _month_data(month: Month) -> dict[str, Any]:
    return {**asdict(month), "closed": month.closed}


def _night_data(opened: Sources, night: WatchedNight) -> dict[str, Any]:
    return {
        **asdict(night),
        "seconds": night.seconds,
        "worker_seconds": night.worker_seconds(opened.settings.cluster.workers),
        "cost_minor": night.cost(opened.settings),
        "cost_currency": opened.settings.monitoring.currency,
        "features": {"computed": night.computed, "reused": night.reused, "without_cause": night.without_cause},
    }


def _output(output_id: str, day: str) -> dict[str, Any]:
    return output(sources().store, output_id, parse_day("day", day) if day else None)


def _page(request: Request, template: str, *, status_code: int = 200, **values: Any) -> HTMLResponse:
    place = {"base": request.scope["root_path"], "airflow": _airflow(request), "template": template}
    text = pages.get_template(template).render(**place, **values)
    return HTMLResponse(text, status_code=status_code)


def _airflow(request: Request) -> str:
    """The prefix of Airflow's own URL path, or nothing."""
    return str(request.scope.get("app_root_path", ""))


def _json(data: Any) -> Response:
    return Response(json.dumps(data, default=_plain, ensure_ascii=False), media_type="application/json")


def _plain(value: Any) -> Any:
    """Values for JSON: times as ISO 8601, mappings as objects."""
    return value.isoformat() if isinstance(value, date) else dict(value)


@cache
def _style() -> bytes:
    folder = files("infra.page").joinpath("static")
    return b"".join(folder.joinpath(name).read_bytes() for name in ("page.css", "credits.css"))
