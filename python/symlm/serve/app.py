"""The routes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..config.sampling import Sampling
from ..config.serving import Serving
from ..errors import SymlmError
from . import sse, tokens
from .answering import (
    Cut,
    EventStream,
    internal_error,
    json_response,
    print_bug,
    problem_response,
    raw_response,
    server_ending,
    too_slow,
)
from .answers import Answers
from .body import Gone, read_body, unless_gone
from .chat import read_chat
from .completions import read_completion
from .fields import parse_object
from .forms import Wanted
from .jobs import Job, Jobs
from .metrics import CONTENT_TYPE, Metrics
from .page import FILES, page_settings
from .problems import Problem, of_error
from .prompts import Served
from .scheduler import Scheduler

Reader = Callable[[dict[str, Any], Served, Sampling], Wanted]
Answerer = Callable[[dict[str, Any], Served], dict[str, Any]]


class Service:
    """Everything that answers: the model, its scheduler and what is counted."""

    def __init__(self, served: Served, scheduler: Scheduler, settings: Serving, defaults: Sampling) -> None:
        self.served, self.scheduler, self.settings, self.defaults = served, scheduler, settings, defaults
        self.jobs = Jobs(served, scheduler, settings.slots + settings.max_queue)
        self.metrics = Metrics()
        self.ending = False
        """Whether the server answers its last requests."""

    def cut(self) -> bool:
        """Whether requests that are cancelled get an answer all the same."""
        return self.ending

    # --- texts ----------------------------------------------------------------------------------------------------

    def writes(self, read: Reader) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of a kind of requests for text."""

        async def endpoint(request: Request) -> Response:
            began = time.monotonic()
            raw = await read_body(request, self.settings.max_body)
            # Text is encoded beside the event loop, since a long one takes a while.
            wanted = await asyncio.to_thread(lambda: read(parse_object(raw), self.served, self.defaults))
            job = self.jobs.begin(wanted)
            self.metrics.prompt_tokens += wanted.prompt_tokens

            def ended(failure: BaseException | None) -> None:
                self.jobs.end(job)
                self.metrics.written_tokens += job.tokens
                self.metrics.whole.add(time.monotonic() - began)
                self.metrics.left += isinstance(failure, Gone)

            answers = Answers(job, self.served)
            if wanted.stream:
                parts = self._timed(answers.parts(), job, began)
                return EventStream(parts, self.settings.timeout, ended, self.cut)
            failure: BaseException | None = None
            try:
                async with asyncio.timeout(self.settings.timeout):
                    return raw_response(await unless_gone(request.receive, answers.whole()))
            except TimeoutError:
                raise too_slow(self.settings.timeout) from None
            except BaseException as error:
                failure = error
                raise
            finally:
                ended(failure)

        return endpoint

    async def _timed(self, parts: AsyncIterator[bytes], job: Job, began: float) -> AsyncIterator[bytes]:
        first = True
        async for part in parts:
            if first and job.tokens:
                first = False
                self.metrics.first_token.add(time.monotonic() - began)
            yield part

    # --- everything else --------------------------------------------------------------------------------------------

    def asks(self, answer: Answerer) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of a question about the tokenizer."""

        async def endpoint(request: Request) -> Response:
            raw = await read_body(request, self.settings.max_body)
            return raw_response(await asyncio.to_thread(lambda: sse.long_json(answer(parse_object(raw), self.served))))

        return endpoint

    async def tokenizer_info(self, _: Request) -> Response:
        """`/tokenizer_info`."""
        return json_response(tokens.tokenizer_info(self.served))

    async def models(self, _: Request) -> Response:
        """`/v1/models`."""
        return json_response({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """`/v1/models/NAME`."""
        if request.path_params["name"] not in self.served.names:
            raise Problem(f"this server has {self.served.name} alone", status=404, code="model_not_found")
        return json_response(self._model())

    def _model(self) -> dict[str, Any]:
        served = self.served
        return {
            "id": served.name,
            "object": "model",
            "created": served.created,
            "owned_by": "symlm",
            "max_model_len": served.context,
        }

    async def health(self, _: Request) -> Response:
        """`/health`."""
        return json_response({"status": "ending"}, 503) if self.ending else json_response({"status": "ok"})

    async def show_metrics(self, _: Request) -> Response:
        """`/metrics`."""
        gauges: dict[str, tuple[str, float]] = {
            "slots": ("Sequences that can be written at the same time.", self.settings.slots),
            "sequences_running": ("Sequences that are being written.", self.scheduler.running),
            "sequences_waiting": ("Sequences that wait for a slot.", self.scheduler.waiting),
            "requests_active": ("Requests for text that are under way or wait.", self.jobs.active),
        }
        return Response(self.metrics.text(gauges), headers={"Content-Type": CONTENT_TYPE})

    async def page_settings(self, _: Request) -> Response:
        """What the page needs to know."""
        return json_response(page_settings(self.served, self.defaults))


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(_: Request) -> Response:
        content, kind = FILES[name]
        return Response(content, headers={"Content-Type": kind, "Cache-Control": "no-cache"})

    return endpoint


def _routes(service: Service) -> list[Route]:
    both: list[tuple[str, Any, str]] = [
        ("/completions", service.writes(read_completion), "POST"),
        ("/chat/completions", service.writes(read_chat), "POST"),
        ("/tokenize", service.asks(tokens.tokenize), "POST"),
        ("/detokenize", service.asks(tokens.detokenize), "POST"),
        ("/tokenizer_info", service.tokenizer_info, "GET"),
        ("/models", service.models, "GET"),
        ("/models/{name:path}", service.model, "GET"),
    ]
    routes = [Route(prefix + path, end, methods=[method]) for path, end, method in both for prefix in ("/v1", "")]
    routes += [
        Route("/health", service.health, methods=["GET"]),
        Route("/metrics", service.show_metrics, methods=["GET"]),
        Route("/page/settings", service.page_settings, methods=["GET"]),
    ]
    return routes + [Route(path, _file(path), methods=["GET"]) for path in FILES]


_ROUTING = {
    404: ("there is nothing at this path", "unknown_path"),
    405: ("this path takes no such method", "unknown_method"),
}


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message, code = _ROUTING.get(error.status_code, (str(error.detail), None))
    headers = dict(error.headers or {})
    return problem_response(Problem(message, status=error.status_code, headers=headers, code=code))


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _symlm_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, SymlmError)
    return problem_response(of_error(error))


async def _bug(_: Request, error: Exception) -> Response:
    # Counted prints it.
    return problem_response(internal_error())


async def _gone(_: Request, error: Exception) -> Response:
    # Nobody reads it.
    return Response(status_code=499)


class Counted:
    """Counts the answers of an app, prints what nobody expected, and answers requests that are cut."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str], cut: Cut) -> None:
        self._app, self._metrics, self._paths, self._cut = app, metrics, paths, cut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            return
        # Paths that do not exist are counted together: anyone can think of any number of them.
        path, begun, whole = scope["path"] if scope["path"] in self._paths else "other", False, False

        async def counted(message: Message) -> None:
            nonlocal begun, whole
            if message["type"] == "http.response.start":
                begun = True
                self._metrics.requests[path, message["status"]] += 1
            else:
                whole = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except asyncio.CancelledError:
            if begun or not self._cut():
                raise
            await problem_response(server_ending())(scope, receive, counted)
        except Exception as error:
            # Starlette has answered, and raises it again.
            print_bug(error)
            if not whole:
                raise


def make_app(service: Service) -> ASGIApp:
    """The app that answers with a service."""
    routes = _routes(service)
    handlers: dict[Any, Any] = {
        HTTPException: _http_error,
        Problem: _problem,
        SymlmError: _symlm_error,
        Gone: _gone,
        Exception: _bug,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Counted(app, service.metrics, frozenset(route.path for route in routes), service.cut)
