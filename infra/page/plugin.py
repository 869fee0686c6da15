"""Airflow's plugin of the page. All components of Airflow load it, so it imports the page at the first request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/payouts"


class Page:
    """The page as an ASGI application."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self.app is None:
            self.app = await asyncio.to_thread(_import)
        await self.app(scope, receive, send)


def _import() -> ASGIApp:
    from infra.page.app import app

    return app


class PayoutsPlugin(AirflowPlugin):
    """The page below /payouts, and its entry in the navigation."""

    name = "provenance_payouts"
    fastapi_apps: list[dict[str, Any]] = [{"app": Page(), "url_prefix": PREFIX, "name": "Payouts"}]  # noqa: RUF012
    external_views: list[dict[str, Any]] = [  # noqa: RUF012 (Airflow reads lists)
        {"name": "Payouts", "href": f"{PREFIX}/", "destination": "nav", "url_route": "payouts"}
    ]
