"""What of a configuration must be right before MTAs are answered, and what may be wrong meanwhile.

Promises: `check` is as strict as it can be: for `smtp-sts config check`, and for a reload, which
changes nothing where it is refused. `to_start` refuses only what no answer can be given without:
while a daemon does not start all mail waits, and no key of the reports, no port of the metrics and
no list of CAs is worth that (law 4). What it leaves out it says, word by word as `check` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import msgspec

from smtp_sts import store
from smtp_sts.config import Config, ConfigError, load
from smtp_sts.daemon import sockets
from smtp_sts.net.https import tls_context
from smtp_sts.resolver import overrides
from smtp_sts.store import StoreError

#: Sections that nobody's answers depend on: with a fault in one, the daemon starts without it.
SIDE_SECTIONS: Final = ("tls_reports", "metrics", "control", "log")


def check(config: Config) -> None:
    """What `parse` cannot see: files, users. Raises ConfigError."""
    for look in _LOOKS:
        look(config)


def to_start(config_path: str | None) -> tuple[Config, list[str]]:
    """The configuration to start with, and what is wrong with it, in sentences.

    Raises ConfigError where it says nothing that MTAs could be answered by.
    """
    config, told = _readable(config_path)
    for look in _LOOKS:
        try:
            look(config)
        except ConfigError as error:
            if look is _rules:
                raise
            told.append(str(error))
            if look is _certificate_authorities:  # none is believed: policies that are kept apply
                network = msgspec.structs.replace(config.network, ca_file=os.devnull)
                config = msgspec.structs.replace(config, network=network)
    return config, told


def _readable(config_path: str | None) -> tuple[Config, list[str]]:
    """The configuration without the side sections that cannot be read."""
    told: list[str] = []
    left_out: list[str] = []
    while True:
        try:
            return load(config_path, without=left_out), told
        except ConfigError as error:
            if error.section not in SIDE_SECTIONS or error.section in left_out:
                raise
            left_out.append(error.section)
            told.append(f"{error}; going on as if [{error.section}] was not there")


def _certificate_authorities(config: Config) -> None:
    path = config.network.ca_file
    try:
        tls_context(path)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"network.ca_file: {path}: {error.strerror or error}") from None


def _owners(config: Config) -> None:
    sockets.owner_of(config.policy)
    sockets.control_owner_of(config.control)


def _rules(config: Config) -> None:
    overrides.read(config.overrides)


def _reports(config: Config) -> None:
    if not config.tls_reports.enabled:
        return
    sockets.datagram_owner_of(config.tls_reports)
    if config.tls_reports.deliver:
        from smtp_sts.reporting.settings import read_settings  # cryptography, for DKIM

        read_settings(config)


def _store(config: Config) -> None:
    try:
        store.check(config.store.url)
    except StoreError as error:
        raise ConfigError(str(error)) from None


_LOOKS: Final[tuple[Callable[[Config], None], ...]] = (
    _certificate_authorities, _owners, _rules, _reports, _store,
)  # fmt: skip
