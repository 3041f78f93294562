"""The service on HTTP."""

from __future__ import annotations

import logging
import time

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinsmith.server.http import error_answers
from tinsmith.server.http.open_requests import OpenRequests
from tinsmith.server.http.routes import all_routers, quick_routes
from tinsmith.server.service import Service
from tinsmith.types.names.http_names import API_PREFIX

log = logging.getLogger("tinsmith.access")

# Whoever waits for the models to load asks these over and over: no fault, and no line each.
_NOT_YET = {("/healthz", 503), (f"{API_PREFIX}/healthz", 503)}
# The time of a long poll says how long the client was ready to wait, nothing about the service.
_LONG_POLLS = (f"{API_PREFIX}/retrieve_future",)


def create_app(service: Service) -> FastAPI:
    """Return the ASGI app of a service that was or will be started by the caller."""
    # FastAPI's own pages load their scripts from the internet, and know nothing of protobuf bodies.
    app = FastAPI(title="Tinsmith", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    app.state.open_requests = OpenRequests(service.settings)
    app.router.routes.extend(quick_routes())
    for router in all_routers():
        app.include_router(router)
    error_answers.install(app)
    app.add_middleware(_Observed, service=service)
    return app


class _Observed:
    """Logs and counts requests."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        # What is counted if the app raises before it has begun an answer.
        status = 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            self._note(scope, status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's pattern, not the path: ids would make a time series each.
        route = scope.get("route")
        path = getattr(route, "path", "unknown")
        metrics = self._service.core.metrics
        metrics.requests.labels(path, str(status)).inc()
        if path not in _LONG_POLLS:
            metrics.seconds.observe(seconds)
        # A run asks several times a second: at the usual level only the service's own faults make a line.
        level = logging.WARNING if status >= 500 and (path, status) not in _NOT_YET else logging.DEBUG
        log.log(level, "method=%s path=%s status=%d ms=%.1f", scope["method"], scope["path"], status, seconds * 1e3)
