"""The routes of the page: itself, its files, the login, what it shows, and what it asks for."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from urllib.parse import parse_qs, unquote

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Message, Receive, Scope, Send

from gateway import (
    BadRequest,
    BodyTooLarge,
    CallError,
    Forbidden,
    Host,
    NotFound,
    TooManyRequests,
    Unauthorized,
    path_of,
)
from gateway_plugins.dashboard.board import Board, Part
from gateway_plugins.dashboard.page import GUARDS, NO_STORE, Section, files, login_page, page
from gateway_plugins.dashboard.panels import offered
from gateway_plugins.dashboard.reports import report, reports
from gateway_plugins.dashboard.viewers import Viewer, Viewers, refuse_key_in_query

HOME = "/dashboard"
API = f"{HOME}/api"

TRACES = "/sessions/{session_id}/trajectories"
"""The route without which there are no traces to show."""

TRAINING = "/health/training"
"""The route without which nothing is known of the health of training data."""

MAX_FORM = 8192
"""Bytes of a form."""

MAX_STREAMS = 1_000
"""Open pages that are told of changes; others ask from time to time."""

_GUARD_LINES = [(name.encode(), value.encode()) for name, value in NO_STORE.items()]


class Doors:
    """The routes."""

    def __init__(self, gateway: Host, viewers: Viewers, board: Board) -> None:
        self._gateway = gateway
        self._viewers = viewers
        self._board = board
        self._files = files()
        self._streams = 0

    def routes(self) -> list[BaseRoute]:
        """Return the routes; each identifies its viewer itself, by key or by cookie."""
        found = [
            Route(HOME, self._page, methods=["GET"]),
            Route(f"{HOME}/files/{{name}}", self._file, methods=["GET"]),
            Route(f"{HOME}/login", self._login, methods=["POST"]),
            Route(f"{HOME}/logout", self._logout, methods=["POST"]),
            Route(f"{HOME}/parts", self._all_parts, methods=["GET"]),
            Route(f"{HOME}/panels", self._reports, methods=["GET"]),
            Route(f"{HOME}/panels/{{name}}", self._report, methods=["GET"]),
            Route(f"{HOME}/events", self._events, methods=["GET"]),
            Route(f"{API}/{{path:path}}", Forwarded(self._gateway, self._viewers)),
        ]
        return [self._gateway.guarded(route, scope=None) for route in found]

    async def _page(self, request: Request) -> Response:
        refuse_key_in_query(request.scope)
        try:
            viewer = await self._viewers.of(request.scope)
        except Unauthorized:
            return HTMLResponse(login_page(), headers=NO_STORE)
        return HTMLResponse(self._shown(viewer), headers=NO_STORE)

    def _shown(self, viewer: Viewer) -> str:
        sections = [one for one in self._sections() if any(map(viewer.may, one.scopes))]
        who = None if viewer.principal is None else viewer.principal.id
        return page(
            sections,
            form_token=viewer.form_token,
            who=who,
            refresh=self._board.refresh(),
            scopes=None if viewer.principal is None else viewer.principal.scopes,
        )

    def _sections(self) -> Sequence[Section]:
        """Return all sections that the plugins of this gateway can fill."""
        found = [
            Section("fleet", "Fleet", frozenset({"monitor"})),
            Section("load", "Load", frozenset({"monitor"})),
        ]
        panels = [one.panel for one in offered(self._gateway)]
        if scopes := frozenset(one.scope for one in panels if one.live):
            found.append(Section("panels", "Runtime and batch", scopes))
        if any(one.name == "evaluations" for one in panels):
            found.append(Section("evaluations", "Evaluations", frozenset({"monitor"})))
        if scopes := frozenset(one.scope for one in panels if not one.live):
            found.append(Section("reports", "Usage", scopes))
        paths = {getattr(route, "path", "") for route in self._gateway.routes}
        if TRACES in paths:
            found.append(Section("traces", "Traces", frozenset({"sessions"})))
        if TRAINING in paths:
            found.append(Section("training", "Training data", frozenset({"monitor"})))
        return found

    async def _file(self, request: Request) -> Response:
        found = self._files.get(request.path_params["name"])
        if found is None:
            raise NotFound("the page has no such file")
        kind, content = found
        return Response(content, headers={**GUARDS, "cache-control": "no-cache"}, media_type=kind)

    async def _login(self, request: Request) -> Response:
        refuse_key_in_query(request.scope)
        [token] = (await _form(request)).get("key") or [""]
        try:
            cookie = await self._viewers.login(request.scope, token.strip())
        except Unauthorized:
            problem = "No valid key. It may have been revoked, or have expired."
            return HTMLResponse(login_page(problem), 401, headers=NO_STORE)
        return RedirectResponse("../dashboard", 303, headers={**NO_STORE, "set-cookie": cookie})

    async def _logout(self, request: Request) -> Response:
        viewer = await self._viewers.of(request.scope)
        [token] = (await _form(request)).get("token") or [""]
        self._viewers.check_form(request.scope, viewer, token.encode())
        cookie = await self._viewers.logout(request.scope)
        return RedirectResponse("../dashboard", 303, headers={**NO_STORE, "set-cookie": cookie})

    async def _all_parts(self, request: Request) -> Response:
        viewer = await self._viewers.of(request.scope)
        seen = [one for one in await self._board.parts() if viewer.may(one.scope)]
        bodies = {one.name: msgspec.Raw(one.body) for one in seen}
        return Response(
            msgspec.json.encode(bodies), headers=NO_STORE, media_type="application/json"
        )

    async def _reports(self, request: Request) -> Response:
        viewer = await self._viewers.of(request.scope)
        titles = {one.name: one.panel.title for one in reports(self._gateway, viewer)}
        body = msgspec.json.encode(titles)
        return Response(body, headers=NO_STORE, media_type="application/json")

    async def _report(self, request: Request) -> Response:
        viewer = await self._viewers.of(request.scope)
        return await report(self._gateway, viewer, request)

    async def _events(self, request: Request) -> Response:
        viewer = await self._viewers.of(request.scope)
        if self._streams >= MAX_STREAMS:
            raise TooManyRequests("too many pages are open; this one asks from time to time")
        headers = {**NO_STORE, "x-accel-buffering": "no"}
        stream = self._stream(request.scope, viewer)
        return StreamingResponse(stream, headers=headers, media_type="text/event-stream")

    async def _stream(self, scope: Scope, viewer: Viewer) -> AsyncIterator[bytes]:
        """Yield each part when it has changed, until the viewer's key is no longer good."""
        self._streams += 1
        draining = asyncio.ensure_future(self._gateway.until_draining())
        sent: dict[str, Part] = {}
        try:
            while not draining.done():
                seen = {one.name: one for one in await self._board.parts() if viewer.may(one.scope)}
                yield b"".join(_events(sent, seen)) + b"event: seen\ndata:\n\n"
                sent = seen
                await asyncio.wait([draining], timeout=self._board.seconds_left())
                viewer = await self._viewers.of(scope)
        except Unauthorized:
            yield b"event: login\ndata:\n\n"
        except CallError:
            pass  # nobody can be identified now: the page asks again
        finally:
            draining.cancel()
            self._streams -= 1


def _events(sent: dict[str, Part], seen: dict[str, Part]) -> list[bytes]:
    """Return an event for each part that is new or has changed, and for each that is gone."""
    changed = [one for name, one in seen.items() if name not in sent or sent[name] != one]
    found = [_event(one.name, one.body) for one in changed]
    return found + [_event(name, b"null") for name in sent.keys() - seen.keys()]


def _event(name: str, body: bytes) -> bytes:
    return b'event: part\ndata: {"name":%b,"part":%b}\n\n' % (msgspec.json.encode(name), body)


class Forwarded:
    """Leads what the page asks for below /dashboard/api to the gateway's own routes.

    The request gets the viewer's key, so that the route itself decides what the viewer may see and
    do. Calls of models are not for the page.
    """

    def __init__(self, gateway: Host, viewers: Viewers) -> None:
        self._gateway = gateway
        self._viewers = viewers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        viewer = await self._viewers.of(scope)
        self._viewers.check_form(scope, viewer)
        path = path_of(scope).partition(API)[2]
        inner = {
            **scope,
            "path": unquote(path),
            "raw_path": path.encode("latin-1"),
            "root_path": "",
            "headers": viewer.headers,
        }
        route, found = self._route(inner)
        await route.handle({**inner, **found}, receive, _guarding(send))

    def _route(self, scope: Scope) -> tuple[BaseRoute, Scope]:
        path = scope["path"]
        if path == HOME or path.startswith((f"{HOME}/", "/v1/")):
            raise Forbidden("the page does not ask for this")
        for route in self._gateway.routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                if getattr(route, "scope", None) == "gateway.carried":
                    raise Forbidden("the page makes no calls of models")
                return route, dict(found)
        raise NotFound("there is nothing at this path")


def _guarding(send: Send) -> Send:
    """Send an answer on, with the headers that keep a browser from running what it says."""

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_GUARD_LINES]}
        await send(message)

    return guarded


async def _form(request: Request) -> dict[str, list[str]]:
    """Return the fields of a form. Raises BadRequest; BodyTooLarge."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM:
                raise BodyTooLarge(f"the form is larger than {MAX_FORM} bytes")
    except ClientDisconnect:
        raise BadRequest("the form did not arrive") from None
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=8)
    except (UnicodeDecodeError, ValueError):
        raise BadRequest("the body is no form") from None
    return {name: values[:1] for name, values in fields.items()}
