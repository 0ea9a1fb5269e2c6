"""One worker process: its connections, its resolver, and for the first one the background work.

Promises: SIGTERM answers what was asked, saves what waits and ends within two seconds; SIGUSR2
(retire, after a reload) takes no new connections and goes when the last client has gone. No input
ends the process. SIGUSR1 has the first worker log what all have
counted. Must not: open listening sockets (the supervisor's part).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from smtp_sts.config import Config, Protocol, dialects
from smtp_sts.config import listeners as configured
from smtp_sts.daemon import background, postconf
from smtp_sts.daemon.board import Board
from smtp_sts.daemon.control import Control
from smtp_sts.daemon.figures import Figures
from smtp_sts.daemon.fleet import watch
from smtp_sts.daemon.peers import Peers
from smtp_sts.daemon.sockets import Listener
from smtp_sts.mta.line import Line
from smtp_sts.mta.postfix_fit import misfits
from smtp_sts.mta.profiles import WITHOUT_DANE
from smtp_sts.mta.ready import ReadyTable
from smtp_sts.mta.service import Service
from smtp_sts.mta.socketmap import Socketmap
from smtp_sts.mta.tcp_table import TcpTable
from smtp_sts.net.resolv_conf import ResolvConf
from smtp_sts.policy import organisation
from smtp_sts.resolver import Keeper, Reach, Resolver, overrides
from smtp_sts.resolver.reach import reach_of

#: How often resolv.conf is looked at, where the configuration names no name servers.
RESOLV_CONF_SECONDS: Final = 2.0
#: How often the clock is looked at, and what is more than it drifts meanwhile (seconds).
CLOCK_SECONDS: Final = 2.0
CLOCK_SET: Final = 5.0
#: After so many looks more every worker has seen that it was set.
UNSEEN: Final = 2
#: A drain ends after so long even where clients or discoveries do not.
DRAIN_SECONDS: Final = 1.5
#: A retired worker waits for its clients: Postfix drops any connection after 100 s.
RETIRE_SECONDS: Final = 110.0

_log = logging.getLogger(__name__)


async def run(
    config: Config,
    index: int,
    listeners: Sequence[Listener],
    peer_listeners: Sequence[socket.socket],
    ready: Callable[[], None],
    supervisor: int,
    board: Board,
    slot: int | None,
    elders: Sequence[bytes] = (),
) -> None:
    """Serve until a signal says otherwise; `ready` is called when connections are taken.

    `supervisor` is a descriptor that reaches its end of file when the supervisor is gone; `elders`
    are the addresses of workers of before a reload (`Peers`).
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    retired = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGUSR2, retired.set)

    def orphaned() -> None:  # killed: its successor wants the sockets
        loop.remove_reader(supervisor)
        ended.set()

    loop.add_reader(supervisor, orphaned)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)

    counts: dict[str, int] = {}
    table = ReadyTable(config.policy.ready_replies)
    keeper = Keeper(config.store.url, counts, config.store.max_megabytes << 20)
    await keeper.open()
    await asyncio.to_thread(organisation.load)  # not while somebody waits for an answer
    reach = reach_of(config)
    resolver = make_resolver(config, reach, keeper, counts, table.forget)
    if index == 0:
        _tell_of_dane(config, resolver)
    following = [] if config.dns.nameservers else [_follow_resolv_conf(config, resolver, index)]
    peers = Peers(index, peer_listeners, resolver, table.forget, elders, counts)
    resolver.on_change = peers.changed
    await peers.start()
    service = Service(peers.decide, table, counts, known=resolver.known, recall=peers.recall)
    control = Control(peers, keeper, service.count)
    figures = Figures(service, resolver, keeper, board, slot, len(peer_listeners))
    #: protocol -> what speaks it, one object a connection
    speakers: dict[Protocol, Callable[[], asyncio.BaseProtocol]] = {
        "socketmap": lambda: Socketmap(service),
        "line": lambda: Line(service),
        "tcp-table": lambda: TcpTable(service),
        "control": control.connection,
    }
    if any(protocol == "http" for protocol, _ in listeners):
        from smtp_sts.web import api  # aiohttp: 13 MB and 0.2 s that others do not need

        speakers["http"] = api.speaker(service, lambda: not keeper.trouble)
    if any(protocol == "metrics" for protocol, _ in listeners):
        from smtp_sts.web import metrics

        speakers["metrics"] = metrics.speaker(service, figures.read)
    # Control commands are the first worker's, as is the background work.
    listeners = [one for one in listeners if index == 0 or one.protocol != "control"]
    for protocol, sock in listeners:
        _accept_on(loop, sock, service, speakers[protocol])
    first: list[asyncio.Task[None]] = []
    if index == 0:
        asked = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, asked.set)
        first = [
            asyncio.create_task(background.refresh(config, keeper, peers)),
            asyncio.create_task(background.prune(config, keeper)),
            asyncio.create_task(watch(keeper, peers.learn)),
            asyncio.create_task(_tell_counts(config.log.counts_interval, asked, peers)),
            asyncio.create_task(_tell_of_postfix(config, resolver)),
        ]
    following.append(_follow_clock(resolver, table, index))
    lasting = [asyncio.create_task(work) for work in (figures.keep_publishing(), *following)]
    ready()

    waits = [asyncio.create_task(ended.wait()), asyncio.create_task(retired.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for _, sock in listeners:
        loop.remove_reader(sock.fileno())
    for task in first:
        task.cancel()
    if not ended.is_set():
        await _until_idle(service, ended)
    await _drain(service)
    for wait in waits:
        wait.cancel()
    for task in lasting:
        task.cancel()
    await control.close()
    peers.close()
    await resolver.close()
    await keeper.close()
    figures.publish()
    if counts:
        _log_counts(f"worker {index} counted", counts)


def make_resolver(
    config: Config,
    reach: Reach,
    keeper: Keeper,
    counts: dict[str, int],
    on_change: Callable[[str], None],
) -> Resolver:
    """What decides, by the dialects that the configuration names."""
    rules, wanted = overrides.read(config.overrides), dialects(config)
    port = config.network.smtp_port
    return Resolver(
        config.policy, reach, keeper, counts,
        on_change=on_change, rules=rules, smtp_port=port, dialects=wanted,
    )  # fmt: skip


def _log_counts(who: str, counts: dict[str, int]) -> None:
    listed = ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))
    fields = {"event": "counts", "counts": dict(sorted(counts.items()))}
    _log.info("%s: %s", who, listed or "nothing", extra={"fields": fields})


async def _tell_counts(interval: float, asked: asyncio.Event, peers: Peers) -> None:
    """Log what all workers have counted, once in an interval (seconds) and when asked."""
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asked.wait(), interval)
        asked.clear()
        _log_counts("counted since the start", await peers.counts())


def _tell_of_dane(config: Config, resolver: Resolver) -> None:
    """Say once whether DANE applies: without it mail to its domains is less well protected."""
    if resolver.dane:
        _log.info(
            "DANE goes before STS for a Postfix that asks by %s, which needs "
            "smtp_dns_support_level = dnssec", " or ".join(WITHOUT_DANE),
        )  # fmt: skip
    elif config.policy.dane:
        _log.warning(
            "DANE is off: no resolver's AD bit is trusted (%s). Name a validating resolver on "
            "loopback in dns.nameservers (127.0.0.11 is Docker's, which validates nothing), set "
            "dns.trust_ad where all of them validate, or set policy.dane = false",
            ", ".join(address for address, _ in resolver.reach.dns.nameservers),
        )


async def _tell_of_postfix(config: Config, resolver: Resolver) -> None:
    """Warn once of what does not fit in the Postfix on this machine."""
    settings = await postconf.read()
    for sentence in misfits(settings, configured(config), dane=resolver.dane):
        _log.warning("%s", sentence, extra={"fields": {"event": "postfix-misfit"}})


async def _follow_resolv_conf(config: Config, resolver: Resolver, index: int) -> None:
    """Ask the name servers of resolv.conf(5), whichever they are by now."""
    file = ResolvConf()
    while True:
        dns, dane = resolver.reach.dns, resolver.dane
        if dns.use(file.servers, trust_ad=file.trust_ad) and index == 0:
            named = ", ".join(address for address, _ in file.servers)
            _log.info(
                "the name servers of resolv.conf are %s now", named,
                extra={"fields": {"event": "name-servers", "servers": named}},
            )  # fmt: skip
            if dane != resolver.dane:
                _tell_of_dane(config, resolver)
        await asyncio.sleep(RESOLV_CONF_SECONDS)
        file.changed()


async def _follow_clock(resolver: Resolver, table: ReadyTable, index: int) -> None:
    """See that the clock was set: times that were kept would come much too late, or at once."""
    ahead = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    unseen = 0
    while True:
        await asyncio.sleep(CLOCK_SECONDS)
        before, ahead = ahead, time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        if unseen:  # what other workers said until they saw it too bears times by the old clock
            unseen -= 1
            table.clear()
        if abs(ahead - before) >= CLOCK_SET:
            unseen = UNSEEN
            table.clear()
            resolver.clock_set(ahead - before)
            if index == 0:
                _log.warning(
                    "the clock was set by %+.0f s", ahead - before,
                    extra={"fields": {"event": "clock-set", "seconds": round(ahead - before)}},
                )  # fmt: skip


def _accept_on(
    loop: asyncio.AbstractEventLoop,
    listener: socket.socket,
    service: Service,
    speaker: Callable[[], asyncio.BaseProtocol],
) -> None:
    tasks: set[asyncio.Task[object]] = set()

    def accept() -> None:
        # One at a time, so that the workers share a burst of connections instead of the first
        # one taking all.
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptors left: those waiting are taken a little later
            service.count("accept-errors")
            _log.error("cannot take a connection: %s", error.strerror)
            loop.remove_reader(listener.fileno())
            loop.call_later(0.2, loop.add_reader, listener.fileno(), accept)
            return
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task: asyncio.Task[object] = asyncio.ensure_future(
            loop.connect_accepted_socket(speaker, sock)
        )
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_reader(listener.fileno(), accept)


async def _until_idle(service: Service, ended: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RETIRE_SECONDS):
            waits = [asyncio.create_task(service.idle.wait()), asyncio.create_task(ended.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)


async def _drain(service: Service) -> None:
    for connection in list(service.connections):
        connection.drain()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            await service.idle.wait()
