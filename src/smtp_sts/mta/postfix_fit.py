"""Whether the Postfix on this machine can do what it asks for: its main.cf beside our answers.

Promises: a sentence for each thing that keeps mail waiting or leaves it with less protection than
it could have, with what to write; none for a Postfix that does not ask this daemon. Settings of
single services in master.cf are not looked at. Must not: run postconf (`daemon/postconf.py`), or
know of a single domain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from smtp_sts.config import Address, TcpAddress
from smtp_sts.mta.profiles import WITHOUT_DANE, profile_name

#: What has to be known of main.cf, by the names that Postfix gives it.
SETTINGS: Final = (
    "mail_version", "queue_directory", "sender_dependent_default_transport_maps",
    "smtp_dns_support_level", "smtp_host_lookup", "smtp_tls_CAfile", "smtp_tls_CApath",
    "smtp_tls_policy_maps", "smtp_tls_security_level", "smtp_tlsrpt_enable",
    "tls_append_default_CA",
)  # fmt: skip
_MAP: Final = re.compile(r"socketmap:(inet|unix):([^\s,{}]+):([^\s,:{}]+)")
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]", "::1")
_WITH_DANE: Final = {without: name for name, without in WITHOUT_DANE.items()}
#: The first Postfix that knows TLS policy attributes of TLSRPT; that knows `servername=`.
_TLSRPT: Final = (3, 10)
_SNI: Final = (3, 4)


def asks_by(settings: Mapping[str, str], listening: Iterable[Address]) -> list[str]:
    """The map names by which main.cf asks at the addresses of this daemon."""
    here = {str(address) for address in listening}
    # Of every address, where we listen on all of them.
    here |= {
        f"{host}:{address.port}"
        for address in listening
        if isinstance(address, TcpAddress) and address.host in ("0.0.0.0", "::", "localhost")
        for host in _LOOPBACK
    }
    queue = settings.get("queue_directory", "")
    found = []
    for kind, where, name in _MAP.findall(settings.get("smtp_tls_policy_maps", "")):
        # In its chroot, smtp(8) finds a unix socket below the queue directory.
        places = (where,) if kind == "inet" else (f"unix:{where}", f"unix:{queue}{where}")
        if here.intersection(places) and name not in found:
            found.append(name)
    return found


def misfits(settings: Mapping[str, str], listening: Iterable[Address], *, dane: bool) -> list[str]:
    """What does not fit, in sentences; `dane`: this daemon looks for DANE."""
    told: list[str] = []
    names = asks_by(settings, listening)
    version = _version(settings.get("mail_version", ""))
    level = settings.get("smtp_tls_security_level", "")
    dnssec = settings.get("smtp_dns_support_level", "") == "dnssec"
    by_dns = "dns" in re.split(r"[\s,]+", settings.get("smtp_host_lookup", "dns"))
    for name in names:
        profile = profile_name(name)
        without = WITHOUT_DANE.get(profile)
        if dane and without and not (dnssec and by_dns):
            key = "smtp_host_lookup" if dnssec else "smtp_dns_support_level"
            told.append(
                f"main.cf asks for DANE ({name}), but {key} is {settings.get(key) or 'not set'}: "
                f"mail to domains with DANE waits; set it to {'dns' if dnssec else 'dnssec'}, or "
                f"ask by {without}"
            )
        elif dane and not without and (wanted := _WITH_DANE.get(profile)) and (
            dnssec or level in ("dane", "dane-only")
        ):  # fmt: skip
            told.append(
                f"main.cf is ready for DANE, but does not ask for it ({name}): for a domain with a "
                f"policy `secure` replaces it; ask by {wanted}"
            )
        if profile.endswith("-tlsrpt") and version and version < _TLSRPT:
            told.append(
                f"Postfix {settings['mail_version']} cannot read the answers to {name}: mail to "
                f"every domain with a policy waits; ask by {profile.removesuffix('-tlsrpt')}"
            )
        elif profile not in ("postfix-no-sni", "sts") and version and version < _SNI:
            told.append(
                f"Postfix {settings['mail_version']} cannot read the answers to {name}: mail to "
                "every domain with a policy waits; ask by postfix-no-sni"
            )
    if names and not any(
        settings.get(key) for key in ("smtp_tls_CAfile", "smtp_tls_CApath")
    ) and settings.get("tls_append_default_CA") != "yes":  # fmt: skip
        told.append(
            "smtp_tls_CAfile and smtp_tls_CApath are not set: Postfix believes no certificate, and "
            "mail to every domain with a policy waits"
        )
    return told


def counts_reports(settings: Mapping[str, str], contact: str) -> list[str]:
    """What makes Postfix tell of the sessions in which TLS reports themselves are sent, in
    sentences (RFC 8460 section 3: they SHOULD NOT be in the next report).

    Only lists that stand in main.cf itself can be looked into; other tables are taken on trust.
    """
    if settings.get("smtp_tlsrpt_enable") != "yes":
        return []
    maps = settings.get("sender_dependent_default_transport_maps", "")
    tables = re.findall(r"\b([a-z]+):[{/A-Za-z]", maps)
    if contact in maps or any(table != "inline" for table in tables):
        return []
    return [
        f"mail from {contact} has no transport of its own (main.cf, "
        "sender_dependent_default_transport_maps): Postfix tells of the sessions of report mail, "
        "and they make more reports; docs/tls-reports-delivery.md has the lines"
    ]


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else ()
