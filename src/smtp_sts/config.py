"""The configuration as typed data: one TOML file, its keys, their defaults, and precise errors.

Promises: `load` gives a `Config` or raises `ConfigError` naming the file, the line where it can,
the key and what to do. Every default of the program that an operator can change stands here once;
`EXAMPLE` prints them. Must not: open sockets, look anything up, or write.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from smtp_sts.policy.dialect import DIALECTS, Dialect

DEFAULT_PATH: Final = "/etc/smtp-sts.toml"
ENVIRONMENT: Final = "SMTP_STS_CONFIG"
DEFAULT_PORT: Final = 8461

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]


class ConfigError(ValueError):
    """The configuration cannot be used; the message says where and what to do.

    `section` is the section it is of, "" where none is at fault alone.
    """

    def __init__(self, message: str, section: str = "") -> None:
        super().__init__(message)
        self.section = section


class PolicySection(Struct, frozen=True, forbid_unknown_fields=True):
    """`[policy]`: what MTAs talk to, and how long things are kept."""

    listen: str | list[str] = f"127.0.0.1:{DEFAULT_PORT}"
    listen_line: str | list[str] = ""
    listen_tcp_table: str | list[str] = ""
    listen_http: str | list[str] = ""
    workers: Annotated[int, Meta(ge=0, le=64)] = 0
    socket_mode: str = "0666"
    socket_owner: str = ""
    socket_group: str = ""
    dane: bool = True
    dialects: tuple[str, ...] = ("rfc8461",)
    answer_timeout: Annotated[float, Meta(gt=0, le=4.8)] = 4.0
    recheck_interval: Annotated[float, Meta(ge=1)] = 300.0
    refresh_interval: Annotated[float, Meta(ge=1)] = 86400.0
    retry_interval: Annotated[float, Meta(ge=1)] = 300.0
    negative_ttl: Annotated[float, Meta(ge=1)] = 1800.0
    error_ttl: Annotated[float, Meta(ge=1)] = 60.0
    ready_replies: Count = 50_000
    max_lookups: Count = 500
    unused_days: Annotated[float, Meta(ge=1)] = 180.0


class DnsSection(Struct, frozen=True, forbid_unknown_fields=True):
    """`[dns]`: which resolvers are asked."""

    nameservers: list[str] = []
    trust_ad: bool | None = None
    timeout: Seconds = 5.0


class NetworkSection(Struct, frozen=True, forbid_unknown_fields=True):
    """`[network]`: how policy hosts are reached."""

    https_port: Port = 443
    smtp_port: Port = 25
    ca_file: str = ""
    allow_private_addresses: bool = False
    fetch_timeout: Annotated[float, Meta(gt=0, le=60)] = 60.0


class StoreSection(Struct, frozen=True, forbid_unknown_fields=True):
    """`[store]`: where policies last."""

    url: str = "sqlite:////var/lib/smtp-sts/smtp-sts.db"
    max_megabytes: Count = 1024


#: What a Postfix can be told where no policy says how (smtp_tls_policy_maps), from weak to strong.
Level = Literal["none", "may", "encrypt", "dane", "dane-only"]


class FixedPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """A policy that the operator writes down instead of the domain."""

    mode: Literal["enforce", "testing"]
    mx: list[str]


class Override(Struct, frozen=True, forbid_unknown_fields=True):
    """`[overrides]`, the rule for one domain or `.suffix`; one without a word lifts a wider one."""

    off: bool = False
    level: Level | None = None
    policy: FixedPolicy | None = None
    testing_as_enforce: bool = False
    dane: bool = True


class ControlSection(Struct, frozen=True, forbid_unknown_fields=True):
    """`[control]`: where `smtp-sts cache` and `smtp-sts query --server` reach the daemon."""

    socket: str = "/run/smtp-sts/control.sock"
    mode: Literal["0600", "0660"] = "0600"
    owner: str = ""
    group: str = ""


class LogSection(Struct, frozen=True, forbid_unknown_fields=True):
    """`[log]`: what is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    counts_interval: Annotated[float, Meta(ge=1)] = 3600.0


class MetricsSection(Struct, frozen=True, forbid_unknown_fields=True):
    """`[metrics]`: where Prometheus may ask."""

    listen: str | list[str] = ""


class TlsReportsSection(Struct, frozen=True, forbid_unknown_fields=True):
    """`[tls_reports]`: what happened to TLS sessions, collected and reported (RFC 8460)."""

    enabled: bool = False
    organization: str = ""
    contact: str = ""
    socket: str = ""
    socket_mode: str = "0660"
    socket_owner: str = ""
    socket_group: str = ""
    log: str | list[str] = []
    keep_malformed: str = ""
    check_testing: bool = True
    deliver: bool = True
    mail: str = "smtp:127.0.0.1:25"
    bcc: str = ""
    suppress: list[str] = []
    dkim_domain: str = ""
    dkim_selector: str = ""
    dkim_key: str = ""
    spread: Annotated[float, Meta(ge=0, le=14400)] = 14400.0


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file; every section may be left out."""

    policy: PolicySection = PolicySection()
    dns: DnsSection = DnsSection()
    network: NetworkSection = NetworkSection()
    store: StoreSection = StoreSection()
    overrides: dict[str, Override] = {}
    control: ControlSection = ControlSection()
    log: LogSection = LogSection()
    metrics: MetricsSection = MetricsSection()
    tls_reports: TlsReportsSection = TlsReportsSection()


class TcpAddress(Struct, frozen=True):
    """Where a TCP socket listens; `port` 0 takes any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(Struct, frozen=True):
    """Where a unix socket listens."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_path(path: str) -> str:
    """The path of a unix socket, as it is; raises ConfigError where it can be none."""
    if not path or "\0" in path or len(os.fsencode(path)) > 107:  # sun_path of unix(7)
        raise ConfigError(f"{path!r}: a unix socket path has 1 to 107 bytes")
    return path


def parse_address(text: str) -> Address:
    """`host:port`, `[v6]:port`, `inet:host:port` or `unix:path`; raises ConfigError."""
    if text.startswith("unix:"):
        return UnixAddress(parse_path(text[5:]))
    host, colon, port = text.removeprefix("inet:").rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{text!r} is no address: write host:port or unix:/path")
    return TcpAddress(host.strip("[]"), int(port))


class SendmailCommand(Struct, frozen=True):
    """A command that takes a mail as sendmail(1) does."""

    path: str

    def __str__(self) -> str:
        return f"sendmail:{self.path}"


def mail_route(config: Config) -> TcpAddress | SendmailCommand:
    """`[tls_reports] mail`: the MTA that takes report mails. Raises ConfigError."""
    text = config.tls_reports.mail
    kind, colon, rest = text.partition(":")
    if colon and kind == "smtp":
        address = parse_address(rest)
        if isinstance(address, TcpAddress) and address.port:
            return address
    if colon and kind == "sendmail" and rest.startswith("/") and "\0" not in rest:
        return SendmailCommand(rest)
    raise ConfigError(f"{text!r}: write smtp:host:port or sendmail:/path/of/sendmail")


#: What is spoken on a listening socket; systemd's FileDescriptorName= says it by the same words.
Protocol = Literal["socketmap", "line", "tcp-table", "http", "metrics", "control"]
#: protocol -> the key that says where it listens; `control_address` has the control socket's.
LISTEN_KEYS: Final[dict[Protocol, tuple[str, str]]] = {
    "socketmap": ("policy", "listen"),
    "line": ("policy", "listen_line"),
    "tcp-table": ("policy", "listen_tcp_table"),
    "http": ("policy", "listen_http"),
    "metrics": ("metrics", "listen"),
}


def control_address(config: Config) -> UnixAddress | None:
    """`[control] socket`; None where it is off. Raises ConfigError.

    A path and nothing else: what it is asked to do must never come from the network.
    """
    path = config.control.socket
    if not path:
        return None
    if not path.startswith("/"):
        raise ConfigError(f'{path!r}: write the absolute path of a unix socket, or "" for none')
    return UnixAddress(parse_path(path))


def listeners(config: Config) -> dict[Address, Protocol]:
    """Every address that is listened on, and what is spoken there. Raises ConfigError."""
    found: dict[Address, Protocol] = {}
    for protocol in LISTEN_KEYS:
        for address in _addresses(config, protocol):
            if found.setdefault(address, protocol) != protocol:
                raise ConfigError(f"{address} cannot speak {found[address]} and {protocol}")
    return found


def _addresses(config: Config, protocol: Protocol) -> list[Address]:
    section, key = LISTEN_KEYS[protocol]
    listen: str | list[str] = getattr(getattr(config, section), key)
    return [parse_address(t) for t in ([listen] if isinstance(listen, str) else listen) if t]


def dialects(config: Config) -> tuple[Dialect, ...]:
    """The dialects that are looked for, each once. Raises ConfigError."""
    wanted = config.policy.dialects
    for word in wanted:
        if word not in DIALECTS:
            near = difflib.get_close_matches(word, DIALECTS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(DIALECTS)}"
            raise ConfigError(f"no dialect is called {word!r}: {hint}")
    if not wanted:
        raise ConfigError(f"name at least one dialect of {', '.join(DIALECTS)}")
    return tuple(dialect for dialect in DIALECTS if dialect in wanted)


def datagram_path(config: Config) -> str:
    """`[tls_reports] socket`, "" for none. Raises ConfigError."""
    path = config.tls_reports.socket
    if path and not path.startswith("/"):
        raise ConfigError(f'{path!r}: write the absolute path of a unix socket, or "" for none')
    return parse_path(path) if path else ""


class LogSource(Struct, frozen=True):
    """A log that is followed; `path` is "journal" for systemd's."""

    kind: Literal["postfix", "exim"]
    path: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"


def log_sources(config: Config) -> list[LogSource]:
    """`[tls_reports] log`. Raises ConfigError."""
    log = config.tls_reports.log
    found: list[LogSource] = []
    for text in [log] if isinstance(log, str) else log:
        kind, _, path = text.partition(":")
        if kind not in ("postfix", "exim") or not (path.startswith("/") or path == "journal"):
            raise ConfigError(
                f"{text!r} is no log: write postfix:/path or exim:/path, or journal for /path"
            )
        source = LogSource("postfix" if kind == "postfix" else "exim", path)
        if source in found:
            raise ConfigError(f"{text!r} stands there twice")
        found.append(source)
    return found


def nameservers(config: Config) -> list[tuple[str, int]]:
    """`[dns] nameservers` as (address, port); empty means: those of /etc/resolv.conf."""
    found = []
    for text in config.dns.nameservers:
        try:
            found.append((str(ipaddress.ip_address(text.strip("[]"))), 53))
        except ValueError:
            address = parse_address(text)
            if not isinstance(address, TcpAddress):
                raise ConfigError(f"{text!r}: a name server has an IP address") from None
            try:
                ipaddress.ip_address(address.host)
            except ValueError:
                raise ConfigError(f"{text!r}: name a name server by its IP address") from None
            found.append((address.host, address.port))
    return found


def _known_keys(prefix: tuple[str, ...]) -> list[str]:
    struct: Any = Config
    for part in prefix:
        struct = {f.name: f.type for f in msgspec.structs.fields(struct)}.get(part)
        if struct is None:
            return []
    return [f.name for f in msgspec.structs.fields(struct)]


def _line_of(text: str, path: tuple[str, ...]) -> int | None:
    """The line where a key is set, found by its section head: tomllib keeps no positions."""
    section: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if head := re.match(r"\s*\[+\s*([\w.\-\"' ]+?)\s*\]", line):
            section = _parts(head[1])
            if section == path:
                return number
            continue
        key = re.match(r"\s*([\w.\-\"' ]+?)\s*=", line)
        if key and (*section, *_parts(key[1])) == path:
            return number
    return None


def _parts(dotted: str) -> tuple[str, ...]:
    """The parts of a TOML key; a dot within quotes does not part."""
    return tuple(part.strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.\s]+", dotted))


def parse(text: str, name: str = "configuration", without: Sequence[str] = ()) -> Config:
    """Decode TOML text, `without` some sections; `name` stands in errors. Raises ConfigError."""
    try:
        data = tomllib.loads(text)
        data = {section: value for section, value in data.items() if section not in without}
    except tomllib.TOMLDecodeError as error:
        twice = ": what stands there twice? Keep one" if "overwrite" in str(error) else ""
        raise ConfigError(f"{name}: not valid TOML: {error}{twice}") from None
    for section, value in data.items():
        known = _known_keys(())
        _refuse_unknown(text, name, (section,), known)
        if isinstance(value, dict) and section != "overrides":
            for key in value:
                _refuse_unknown(text, name, (section, key), _known_keys((section,)))
    try:
        config = msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        path = tuple(re.findall(r"\w+", where.split("[")[0]))
        if path == ("overrides",):
            path += _odd_override(data["overrides"])
        raise ConfigError(
            f"{_place(text, name, path)}{'.'.join(path)}: {what}", path[0] if path else ""
        ) from None
    checks: list[tuple[tuple[str, str], Callable[[], object]]] = [
        (path, partial(_addresses, config, protocol)) for protocol, path in LISTEN_KEYS.items()
    ]
    checks += [
        (("policy", "listen"), partial(listeners, config)),
        (("control", "socket"), partial(control_address, config)),
        (("dns", "nameservers"), partial(nameservers, config)),
        (("policy", "dialects"), partial(dialects, config)),
        (("tls_reports", "log"), partial(log_sources, config)),
        (("tls_reports", "socket"), partial(datagram_path, config)),
        (("tls_reports", "mail"), partial(mail_route, config)),
    ]
    for path, check in checks:
        try:
            check()
        except ConfigError as error:
            raise ConfigError(
                f"{_place(text, name, path)}{'.'.join(path)}: {error}", path[0]
            ) from None
    for section, mode in (
        ("policy", config.policy.socket_mode),
        ("tls_reports", config.tls_reports.socket_mode),
    ):
        if not re.fullmatch(r"0?[0-7]{3}", mode):
            place = _place(text, name, (section, "socket_mode"))
            raise ConfigError(
                f'{place}{section}.socket_mode: write an octal mode such as "0660"', section
            )
    if not config.store.url.startswith(("sqlite:///", "postgresql://")):
        raise ConfigError(  # the value may hold a password
            f"{_place(text, name, ('store', 'url'))}store.url: write sqlite:////path/to/file.db "
            "or postgresql://user@host/database"
        )
    return config


def _odd_override(overrides: object) -> tuple[str, ...]:
    """Which rule of `[overrides]` cannot be read: msgspec does not name the keys of a dict."""
    for domain, rule in overrides.items() if isinstance(overrides, dict) else ():
        try:
            msgspec.convert(rule, Override)
        except msgspec.ValidationError:
            return (domain,)
    return ()


def _place(text: str, name: str, path: tuple[str, ...]) -> str:
    line = _line_of(text, path)
    return f"{name}, line {line}: " if line else f"{name}: "


def _refuse_unknown(text: str, name: str, path: tuple[str, ...], known: list[str]) -> None:
    if path[-1] in known:
        return
    near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(known)}"
    kind = "key" if len(path) > 1 else "section"
    raise ConfigError(
        f"{_place(text, name, path)}unknown {kind} {'.'.join(path)!r}: {hint}", path[0]
    )


def find_path(given: str | None) -> Path | None:
    """`--config`, else $SMTP_STS_CONFIG, else /etc/smtp-sts.toml if it is there, else None."""
    if given:
        return Path(given)
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    default = Path(DEFAULT_PATH)
    return default if default.exists() else None


def load(given: str | None = None, without: Sequence[str] = ()) -> Config:
    """Read the configuration, `without` some sections; defaults where no file is.

    Raises ConfigError.
    """
    path = find_path(given)
    if path is None:
        return Config()
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(text, str(path), without)


EXAMPLE: Final = """\
# smtp-sts: every key with its default. Times are seconds.
# Read from --config FILE, else $SMTP_STS_CONFIG, else /etc/smtp-sts.toml, else these defaults.

[policy]
# Where MTAs ask (socketmap): "host:port" or "unix:/path", one or a list.
listen = "127.0.0.1:8461"
# The same for other protocols, "" for none: one line a connection (Exim; "127.0.0.1:8462"),
# Postfix's tcp_table ("127.0.0.1:8463"), and the HTTP API ("127.0.0.1:8464").
listen_line = ""
listen_tcp_table = ""
listen_http = ""
# Processes that answer; 0 means one a core, at most 4.
workers = 0
# Mode, owner and group of unix sockets; empty owner or group: whoever starts the daemon.
socket_mode = "0666"
socket_owner = ""
socket_group = ""
# Whether DANE is looked for and goes before STS (RFC 7672), for who asks for it: a Postfix with
# smtp_dns_support_level = dnssec, by the map name postfix-dane or postfix-dane-tlsrpt
# (docs/postfix.md). It needs a resolver whose AD bit is trusted (see [dns] trust_ad).
dane = true
# What policies are looked for: "rfc8461", and "draft00", the proposal as first published, whose
# first policy of a domain is believed unproven (docs/draft-00.md). RFC 8461 goes before it.
dialects = ["rfc8461"]
# A query whose discovery takes longer is answered NOTFOUND (fail open) and the fetch goes on.
answer_timeout = 4.0
# The TXT record of a domain in use is asked for again this often.
recheck_interval = 300.0
# Every policy is fetched anew about this often, whether its id changed or not.
refresh_interval = 86400.0
# After a failed fetch the same domain is left in peace this long (RFC 8461 section 3.3).
retry_interval = 300.0
# How long "no policy" is remembered, and how long after a DNS error.
negative_ttl = 1800.0
error_ttl = 60.0
# Ready replies kept in memory, by each worker; 64 MiB of them at most.
ready_replies = 50000
# Discoveries under way at once, by each worker, and as many looks for DANE; those beyond wait in
# line. The names of one organisational domain get a tenth, so that no stranger gets all.
max_lookups = 500
# Policies that nobody asked for so many days are deleted.
unused_days = 180.0

[dns]
# Resolvers, "address" or "address:port"; an empty list means those of /etc/resolv.conf, which is
# followed as it changes. What DNSSEC proves is asked of those alone whose AD bit is believed.
nameservers = []
# Whether the resolvers' AD bit is believed; left out: only from resolvers on loopback, and where
# /etc/resolv.conf has "options trust-ad"; not from 127.0.0.11 (Docker's, which validates nothing).
# trust_ad = true
# A whole question, all retries included.
timeout = 5.0

[network]
# Ports of policy hosts and MX hosts, and the CA certificates trusted ("": the system's).
https_port = 443
smtp_port = 25
ca_file = ""
# For laboratories only: policy hosts on loopback and private addresses.
allow_private_addresses = false
# The whole fetch of a policy.
fetch_timeout = 60.0

[store]
# Where policies last: sqlite:///relative.db or sqlite:////absolute.db, or, shared by the daemons
# of many machines, postgresql://user@host/database (docs/fleet.md).
url = "sqlite:////var/lib/smtp-sts/smtp-sts.db"
# What the policies may take together, in units of 2^20 bytes. Where that is reached, policies of
# further domains do not outlive a restart (docs/operation.md).
max_megabytes = 1024

[overrides]
# Your own word for a domain, or for all below a suffix; the most specific rule wins. One of:
# "partner.example" = { off = true }             # as if it had no policy
# "relay.example" = { level = "encrypt" }        # for Postfix: none may encrypt dane dane-only
# "bob.example" = { policy = { mode = "enforce", mx = ["*.bob.example"] } }
# ".example.org" = { testing_as_enforce = true } # enforce what is only tested
# "broken.example" = { dane = false }            # never DANE, STS as ever
# "www.example.org" = {}                         # none of the wider rules

[control]
# Where `smtp-sts cache` and `smtp-sts query --server` reach the running daemon: the path of a unix
# socket, "" for none; there is no way to it from the network. "0660" lets a group in.
socket = "/run/smtp-sts/control.sock"
mode = "0600"
owner = ""
group = ""

[metrics]
# Where Prometheus asks for /metrics, "" for nowhere ("127.0.0.1:9461"), one or a list.
listen = ""

[tls_reports]
# Collect what happened to TLS sessions, and report it daily to the domains that ask for it
# (RFC 8460).
enabled = false
# Who reports: a name, and the mail address for questions, which reports are sent from.
organization = ""
contact = ""
# The datagram socket for smtp_tlsrpt_socket_name of Postfix 3.10 and later, "" for none; within
# the queue directory where smtp(8) is chrooted: "/var/spool/postfix/smtp-sts/tlsrpt.sock".
socket = ""
socket_mode = "0660"
socket_owner = ""
socket_group = ""
# Logs that are followed, one or a list: "postfix:/var/log/mail.log", "postfix:journal",
# "exim:/var/log/exim4/mainlog".
log = []
# A folder where datagrams that cannot be read are kept for inspection, "" for none.
keep_malformed = ""
# Look at the MX hosts of domains in testing mode ourselves: MTAs do not see what is wrong there
# (docs/tls-reports.md).
check_testing = true
# Send the reports; false only collects (docs/tls-reports-delivery.md).
deliver = true
# The MTA that takes report mails: "smtp:host:port" or "sendmail:/usr/sbin/sendmail".
mail = "smtp:127.0.0.1:25"
# A copy of each mailed report goes to this address.
bcc = ""
# Who gets none: policy domains; mail addresses, mail domains and HTTPS hosts of receivers; and, as
# ".bob.example", all names below one.
suppress = []
# DKIM: the signing domain ("": that of contact), the selector, and the file of the private key
# (PEM, RSA or Ed25519); "" where the MTA signs.
dkim_domain = ""
dkim_selector = ""
dkim_key = ""
# Reports go out at a random time within so long after midnight UTC (section 4.1).
spread = 14400.0

[log]
# debug, info, warning or error; to standard error.
level = "info"
# "text", or "json": one object a line with time, level, event, domain, outcome, reason, policy_id.
format = "text"
# What was counted is logged this often, in one line; at once at SIGUSR1.
counts_interval = 3600.0
"""
