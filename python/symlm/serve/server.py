"""The process that serves: socket, signals, start and end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.sampling import Sampling
from ..config.serving import Serving
from ..errors import UsageError, UserError, reason
from ..generate.generator import Generator
from ..system.reading import read_text

if TYPE_CHECKING:
    import uvicorn

    from .app import Service

KEY_VARIABLE = "SYMLM_API_KEY"
_INSTALL = "pip install 'symlm[serve]'"
SPARE = 64
"""Connections beside those of all requests that may be under way or wait."""
_KEEP_ALIVE = 75
_MOST_HEAD = 64 << 10
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Say = Callable[[str], None]


def check_installed() -> None:
    """UserError without the packages of the extra."""
    from importlib.util import find_spec

    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UserError(f"the package {missing[0]}, which serving needs, is not installed", _INSTALL)


def read_keys(settings: Serving) -> tuple[bytes, ...]:
    """The keys that clients need. The variable is taken out of the environment, so that no other process gets it."""
    from .security import keys_of

    variable = os.environ.pop(KEY_VARIABLE, None)
    if settings.api_key_file is not None:
        text, source = read_text(Path(settings.api_key_file), "file of keys"), settings.api_key_file
    elif variable is not None:
        text, source = variable, f"environment variable {KEY_VARIABLE}"
    else:
        return ()
    keys = keys_of(text)
    if not keys:
        raise UsageError(f"{source}: found no key, expected at least one", "a key is any text; write one a line")
    return keys


def listen(settings: Serving) -> list[socket.socket]:
    """Sockets at the address of the settings, which take no connection yet; UserError when it is not to be had."""
    where = f"{settings.host}:{settings.port}"
    hint = "choose another with --port, or 0 for a free one"
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except (OSError, UnicodeError) as error:
        what = reason(error) if isinstance(error, OSError) else "not a name"
        raise UserError(f"--host {settings.host}: no such address: {what}", "127.0.0.1 is this machine") from None
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            bound.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            if settings.port == 0:
                # A name with several addresses would get a port for each.
                break
    except OSError as error:
        for one in bound:
            one.close()
        raise UserError(f"cannot listen at {where}: {reason(error)}", hint) from None
    return bound


def serve(
    model: str,
    checkpoint: str,
    weights: str,
    settings: Serving,
    defaults: Sampling,
    *,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    say: Say,
) -> int:
    """Serve a model until a signal arrives; gives the exit code. `defaults` count for what requests leave open."""
    check_installed()
    from .security import Doors, checked_hosts, checked_origins, is_loopback

    sites, further = checked_origins(origins), checked_hosts(hosts)
    keys = read_keys(settings)
    sockets = listen(settings)
    try:
        generator = Generator.from_pretrained(model, checkpoint, weights=weights)
        from .app import Service
        from .prompts import Served
        from .scheduler import Scheduler

        served = Served(generator, model)
        loopback = is_loopback([one.getsockname()[0] for one in sockets])
        doors = Doors(loopback, further | {settings.host.lower()}, sites, keys)
        if generator.note:
            say(f"note: {generator.note}")
        if not loopback and not keys:
            say("warning: anyone who reaches this address can use the server; keys are given with --api-key-file")
        batch = generator.engine.batch(
            settings.slots, served.context, prefix_bytes=settings.prefix_cache, threads=_threads(settings)
        )
        service = Service(served, Scheduler(batch, generator.tokenizer), settings, defaults)
        return answer(service, doors, sockets, say)
    finally:
        for one in sockets:
            one.close()


def _threads(settings: Serving) -> int | None:
    return None if settings.threads == "auto" else int(settings.threads)


def answer(service: Service, doors: object, sockets: list[socket.socket], say: Say) -> int:
    """Answer requests until a signal arrives: 0 when all of them were answered, else 128 and the signal."""
    with _signals_kept():
        return asyncio.run(_answer(service, doors, sockets, say))


async def _answer(service: Service, doors: object, sockets: list[socket.socket], say: Say) -> int:
    from .app import make_app
    from .ending import Ending
    from .security import Doors, Guard

    assert isinstance(doors, Doors)
    server = _server(Guard(make_app(service), doors), service)
    ending = Ending(server, service, say)
    loop = asyncio.get_running_loop()
    for signum in _SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN or signum != signal.SIGHUP:
            loop.add_signal_handler(signum, ending.receive, signum)
    service.scheduler.start()
    # From here connections wait for the server, which takes them a moment later.
    for one in sockets:
        one.listen(_most_connections(service))
    host, port = sockets[0].getsockname()[:2]
    say(f"serving {service.served.name} at http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends)")
    try:
        await server.serve(sockets)
        await ending.end()
    finally:
        service.scheduler.close()
        service.served.template.close()
        service.jobs.close()
    return ending.exit_code()


def _most_connections(service: Service) -> int:
    from .connection import MOST

    settings = service.settings
    return max(MOST, settings.slots + settings.max_queue + SPARE)


def _server(app: object, service: Service) -> uvicorn.Server:
    import uvicorn

    from .connection import Connection

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            # They are the process's, which has handlers already.
            yield

    class Limited(Connection):
        most = _most_connections(service)

    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]
            http=Limited,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=Limited.most,
            timeout_keep_alive=_KEEP_ALIVE,
            h11_max_incomplete_event_size=_MOST_HEAD,
        )
    )


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Puts the handlers of signals back, which an event loop removes at its end."""
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
