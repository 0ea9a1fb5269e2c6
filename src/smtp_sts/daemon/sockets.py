"""Listening sockets: TCP, unix with mode and owner, and those systemd hands over.

Promises: a stale unix socket is replaced, one that somebody still serves is not; what cannot be
opened is a `ListenError` that says which address and what to do.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import itertools
import logging
import os
import pwd
import socket
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from smtp_sts.config import (
    LISTEN_KEYS,
    Address,
    ConfigError,
    ControlSection,
    PolicySection,
    Protocol,
    TcpAddress,
    TlsReportsSection,
    UnixAddress,
)

BACKLOG: Final = 1024
#: The first descriptor of systemd socket activation, sd_listen_fds(3).
_FIRST_FD: Final = 3

#: What else has to be done, by errno.
_HINTS: Final[dict[int, str]] = {
    errno.EROFS: ": name its folder in ReadWritePaths= (systemctl edit smtp-sts), and restart",
    errno.EADDRINUSE: " by another process: ss -ltnp says which",
}
#: What systemd may hand over beside what MTAs talk to.
_OTHERS: Final[tuple[Protocol, ...]] = ("control",)

_log = logging.getLogger(__name__)


class ListenError(OSError):
    """An address that cannot be listened on."""


class Listener(NamedTuple):
    """A listening socket, and what is spoken on it."""

    protocol: Protocol
    sock: socket.socket


def open_listener(address: Address, settings: PolicySection) -> socket.socket:
    """A listening, non-blocking socket. Raises ListenError, ConfigError."""
    listener: socket.socket | None = None
    try:
        if isinstance(address, TcpAddress):
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address.host, address.port))
        else:
            listener = _bind_unix(address.path, settings.socket_mode, *owner_of(settings))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        if listener is not None:
            listener.close()
        hint = _HINTS.get(error.errno or 0, "")
        raise ListenError(
            error.errno, f"cannot listen on {address}: {error.strerror or error}{hint}"
        ) from error
    return listener


def open_control(address: UnixAddress, settings: ControlSection) -> socket.socket:
    """The listening, non-blocking control socket; its folder is made. Raises ListenError."""
    try:
        Path(address.path).parent.mkdir(exist_ok=True)
        listener = _bind_unix(address.path, settings.mode, *control_owner_of(settings))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        raise ListenError(
            error.errno, f"cannot listen on {address}: {error.strerror or error}"
        ) from error
    return listener


def open_datagrams(settings: TlsReportsSection) -> socket.socket:
    """The socket that libtlsrpt writes to; its folder is made. Raises ListenError, ConfigError."""
    from smtp_sts.reporting.receive import SocketError, bind

    path = Path(settings.socket)
    owner, group = datagram_owner_of(settings)
    try:
        path.parent.mkdir(exist_ok=True)
        opened = bind(path, int(settings.socket_mode, 8))
        if (owner, group) != (-1, -1):
            os.chown(path, owner, group)
    except SocketError as error:
        raise ListenError(0, str(error)) from error
    except OSError as error:
        raise ListenError(error.errno, f"{path}: {error.strerror or error}") from error
    return opened


def _bind_unix(path: str, mode: str, owner: int, group: int) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise OSError(0, "there is a file of that name that is no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()  # stale: nobody serves it
            else:
                raise OSError(0, "another process serves it")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    if (owner, group) != (-1, -1):
        os.chown(path, owner, group)
    Path(path).chmod(int(mode, 8))
    return listener


def owner_of(settings: PolicySection) -> tuple[int, int]:
    """User and group id for unix sockets, -1 where nothing is to be changed.

    Raises ConfigError for a name that the system does not know.
    """
    return _ids("policy.socket_", settings.socket_owner, settings.socket_group)


def datagram_owner_of(settings: TlsReportsSection) -> tuple[int, int]:
    """The same for the socket of TLS results. Raises ConfigError."""
    return _ids("tls_reports.socket_", settings.socket_owner, settings.socket_group)


def control_owner_of(settings: ControlSection) -> tuple[int, int]:
    """The same for the control socket. Raises ConfigError."""
    return _ids("control.", settings.owner, settings.group)


def _ids(key: str, owner: str, group: str) -> tuple[int, int]:
    user_id = group_id = -1
    if owner:
        try:
            user_id = pwd.getpwnam(owner).pw_uid
        except KeyError:
            raise ConfigError(f"{key}owner: no user {owner!r} on this system") from None
    if group:
        try:
            group_id = grp.getgrnam(group).gr_gid
        except KeyError:
            raise ConfigError(f"{key}group: no group {group!r} on this system") from None
    return user_id, group_id


def activated() -> list[Listener]:
    """The sockets that systemd hands over (sd_listen_fds(3)); empty without socket activation.

    FileDescriptorName= in the socket unit names the protocol; any other name means socketmap.
    Raises ListenError for a control socket that the network can reach.
    """
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return []
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    spoken: dict[str, Protocol] = {str(p): p for p in (*LISTEN_KEYS, *_OTHERS)}
    found = []
    for fd, name in itertools.zip_longest(range(_FIRST_FD, _FIRST_FD + count), names[:count]):
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        sock.set_inheritable(False)
        if name == "control" and sock.family != socket.AF_UNIX:
            raise ListenError(0, "the control socket that systemd hands over is no unix socket")
        # systemd's own name for a socket is that of its unit; "unknown" is one that has none.
        if name and name not in spoken and name != "unknown" and not name.endswith(".socket"):
            _log.error(
                "FileDescriptorName=%s of %s is no protocol: socketmap is spoken; there are %s",
                name, address_of(sock), ", ".join(spoken),
            )  # fmt: skip
        found.append(Listener(spoken.get(name or "", "socketmap"), sock))
    return found


def address_of(sock: socket.socket) -> Address:
    """Where a socket listens."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return UnixAddress(os.fsdecode(name))
    return TcpAddress(name[0], name[1])


def covers(sock: socket.socket, address: Address) -> bool:
    """Whether who connects to `address` comes to this socket."""
    there = address_of(sock)
    if isinstance(there, UnixAddress) or isinstance(address, UnixAddress):
        return there == address
    if there.port != address.port:
        return False
    if there.host in (address.host, "::" if ":" in address.host else "0.0.0.0"):
        return True
    # systemd's ListenStream=8461 takes both families.
    return there.host == "::" and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def notify(state: str) -> None:
    """Tell systemd, if it wants to know (sd_notify(3)), for example `READY=1`."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        address = "\0" + path[1:] if path.startswith("@") else path
        # Nobody listens there: not our trouble.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link, contextlib.suppress(OSError):
            link.sendto(state.encode(), address)


def remove_unix(addresses: Iterable[Address]) -> None:
    """Take the paths of unix sockets away."""
    for address in addresses:
        if not isinstance(address, TcpAddress):
            with contextlib.suppress(OSError):
                Path(address.path).unlink()
