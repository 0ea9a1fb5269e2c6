"""Where this daemon listens: on the sockets that systemd hands over, and on all others configured.

Promises: an address of the configuration that systemd did not hand over is opened here; what cannot
be opened at the start is said, and tried again, while MTAs are answered at the others (law 4: mail
must not wait for a port of the metrics); a new configuration is taken whole or not at all. Must
not: speak any protocol.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Final

from smtp_sts.config import Address, Config, ConfigError, Protocol, listeners
from smtp_sts.daemon import sockets
from smtp_sts.daemon.sockets import Listener, ListenError

#: What could not be opened at the start is tried again this often (seconds).
AGAIN_SECONDS: Final = 5.0
#: Where MTAs, and filters, get their answers: without any of these there is nothing to start for.
_ANSWERS: Final[tuple[Protocol, ...]] = ("socketmap", "line", "tcp-table", "http")

_log = logging.getLogger(__name__)


class Listening:
    """The listening sockets of one daemon."""

    def __init__(self, handed: Sequence[Listener]) -> None:
        """`handed` are those of systemd, which stay whatever the configuration says."""
        self._handed = list(handed)
        self._open: dict[Address, Listener] = {}
        #: what could not be opened at the start, and when it is tried again (time.monotonic())
        self._missing: dict[Address, Protocol] = {}
        self.due = math.inf

    @property
    def all(self) -> list[Listener]:
        """Every socket that is listened on."""
        return [*self._open.values(), *self._handed]

    @property
    def has_control(self) -> bool:
        """Whether systemd hands over the control socket."""
        return any(listener.protocol == "control" for listener in self._handed)

    def __str__(self) -> str:
        own = [str(address) for address in self._open]
        given = [f"{sockets.address_of(one.sock)} (systemd)" for one in self._handed]
        return ", ".join(own + given)

    def start(self, config: Config) -> None:
        """Open what can be opened. Raises ListenError where MTAs would be answered nowhere."""
        last: ListenError | None = None
        for address, protocol in listeners(config).items():
            try:
                opened = self._opened(address, protocol, config)
            except ListenError as error:
                last = error
                self._missing[address] = protocol
                _log.error(
                    "nobody is answered on %s (%s): %s; trying again every %g s",
                    address, protocol, error.strerror, AGAIN_SECONDS,
                    extra={"fields": {"event": "not-listening", "address": str(address)}},
                )  # fmt: skip
            else:
                if opened is not None:
                    self._open[address] = opened
        if last is not None and not any(one.protocol in _ANSWERS for one in self.all):
            self.close()
            raise last
        self._set_due()

    def change(self, config: Config) -> None:
        """Listen as a new configuration says; as before where that cannot be.

        Raises ListenError.
        """
        wanted = listeners(config)
        fresh: dict[Address, Listener] = {}
        try:
            for address, protocol in wanted.items():
                known = self._open.get(address)
                if known is not None:
                    fresh[address] = Listener(protocol, known.sock)
                elif (opened := self._opened(address, protocol, config)) is not None:
                    fresh[address] = opened
        except ListenError:
            _close({a: one for a, one in fresh.items() if a not in self._open})
            raise
        _close({a: one for a, one in self._open.items() if a not in wanted})
        self._open = fresh
        self._missing.clear()
        self._set_due()

    def again(self, config: Config) -> bool:
        """Try what could not be opened; whether something was."""
        found = False
        for address, protocol in list(self._missing.items()):
            try:
                opened = self._opened(address, protocol, config)
            except ListenError:
                continue
            del self._missing[address]
            if opened is not None:
                self._open[address] = opened
                found = True
                _log.info("listening on %s (%s) now", address, protocol)
        self._set_due()
        return found

    def let_go(self) -> None:
        """Close our copies, in a child that does not answer."""
        for listener in self.all:
            listener.sock.close()

    def close(self) -> None:
        """Give back what was opened here."""
        _close(self._open)
        self._open = {}

    def _set_due(self) -> None:
        self.due = time.monotonic() + AGAIN_SECONDS if self._missing else math.inf

    def _opened(self, address: Address, protocol: Protocol, config: Config) -> Listener | None:
        """A socket of our own, or None where systemd's is there. Raises ListenError."""
        for one in self._handed:
            if sockets.covers(one.sock, address):
                if one.protocol == protocol:
                    return None
                raise ListenError(
                    0,
                    f"systemd hands over {address} for {one.protocol}, and the configuration wants "
                    f"{protocol} there: make FileDescriptorName= of the socket unit agree with it",
                )
        try:
            return Listener(protocol, sockets.open_listener(address, config.policy))
        except ConfigError as error:  # the owner of unix sockets
            raise ListenError(0, str(error)) from error


def _close(some: dict[Address, Listener]) -> None:
    for listener in some.values():
        listener.sock.close()
    sockets.remove_unix(some)
