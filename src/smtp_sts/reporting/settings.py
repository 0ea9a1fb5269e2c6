"""What `[tls_reports]` says of sending, checked: who reports, by which way, signed with what.

Promises: `read_settings` gives what delivery needs or raises `ConfigError` that names the key;
`warnings` are sentences on what works and yet will not do what the operator wants.
Must not: do I/O beyond reading the key file.
"""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec

from smtp_sts.config import Config, ConfigError, SendmailCommand, TcpAddress, mail_route
from smtp_sts.reporting.compile import Sender
from smtp_sts.reporting.destinations import Suppressed, read_suppressed
from smtp_sts.reporting.dkim import KeyTrouble, Signer, make_signer
from smtp_sts.tlsrpt import ReportError
from smtp_sts.tlsrpt.names import mail_address


class Settings(msgspec.Struct, frozen=True):
    """What delivery needs to know. `signer` is None where the MTA is left to sign."""

    sender: Sender
    route: TcpAddress | SendmailCommand
    bcc: str
    suppressed: Suppressed
    signer: Signer | None
    spread: float
    allow_private: bool
    check_testing: bool


def read_settings(config: Config) -> Settings:
    """Raises ConfigError."""
    section = config.tls_reports
    try:
        sender = Sender(section.organization, section.contact)
    except ReportError as error:
        value = getattr(section, error.place)
        what = "write" if value else "is empty: write"
        wanted = {
            "organization": "one line of text, the name of who reports",
            "contact": "the mail address that reports are sent from, its domain in lower case",
        }
        raise ConfigError(f"tls_reports.{error.place}: {what} {wanted[error.place]}") from None
    if section.bcc and mail_address(section.bcc) != section.bcc:
        raise ConfigError("tls_reports.bcc: write one mail address, its domain in lower case")
    try:
        suppressed = read_suppressed(section.suppress)
    except ValueError as error:
        raise ConfigError(f"tls_reports.suppress: {error}") from None
    return Settings(
        sender,
        _route(config),
        section.bcc,
        suppressed,
        _signer(config, sender),
        section.spread,
        config.network.allow_private_addresses,
        section.check_testing,
    )


def _route(config: Config) -> TcpAddress | SendmailCommand:
    route = mail_route(config)
    if isinstance(route, SendmailCommand):
        try:
            mode = Path(route.path).stat().st_mode
        except OSError as error:
            raise ConfigError(f"tls_reports.mail: {route.path}: {error.strerror}") from None
        if not stat.S_ISREG(mode) or not mode & 0o111:
            raise ConfigError(f"tls_reports.mail: {route.path}: no program that can be run")
    return route


def _signer(config: Config, sender: Sender) -> Signer | None:
    section = config.tls_reports
    if not section.dkim_key:
        if section.dkim_selector:
            raise ConfigError(
                "tls_reports.dkim_key: is empty, but there is a selector: name the file of the key"
            )
        return None
    if not section.dkim_selector:
        raise ConfigError(
            "tls_reports.dkim_selector: is empty: write the label before ._domainkey of the key "
            "record"
        )
    try:
        return make_signer(
            section.dkim_domain or sender.submitter, section.dkim_selector, section.dkim_key
        )
    except KeyTrouble as error:
        raise ConfigError(f"tls_reports.dkim_key: {error}") from None


def warnings(config: Config, settings: Settings) -> list[str]:
    """What will not do what the operator wants, in sentences."""
    found = []
    signer, submitter = settings.signer, settings.sender.submitter
    if signer is None:
        found.append(
            "tls_reports.dkim_key is empty: reports by mail are ignored by their receivers unless "
            f"your MTA signs them for {submitter} (RFC 8460 section 3)"
        )
    else:
        # DMARC's relaxed alignment, as near as it can be told without a list of public suffixes
        if submitter != signer.domain and not submitter.endswith(f".{signer.domain}"):
            found.append(
                f"tls_reports.dkim_domain is {signer.domain}, but reports come from {submitter}: "
                "receivers want the signature of the reporting domain (RFC 8460 section 3)"
            )
        if signer.key.kind == "rsa" and signer.key.bits < 2048:
            found.append(
                f"tls_reports.dkim_key has {signer.key.bits} bits: receivers want 2048 (RFC 8301)"
            )
        try:
            exposed = Path(config.tls_reports.dkim_key).stat().st_mode & 0o007
        except OSError:
            exposed = 0
        if exposed:
            found.append(
                f"tls_reports.dkim_key: {config.tls_reports.dkim_key} can be read by every user: "
                "chmod o= it"
            )
    return found
