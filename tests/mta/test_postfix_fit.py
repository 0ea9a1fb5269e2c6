"""What does not fit between a main.cf and this daemon."""

from __future__ import annotations

import pytest

from smtp_sts.config import TcpAddress, UnixAddress
from smtp_sts.daemon.postconf import parse
from smtp_sts.mta.postfix_fit import asks_by, counts_reports, misfits

HERE = (TcpAddress("127.0.0.1", 8461), UnixAddress("/var/spool/postfix/smtp-sts/socketmap"))
#: Debian 13's, as it comes.
DEFAULTS = {
    "mail_version": "3.10.13",
    "queue_directory": "/var/spool/postfix",
    "smtp_dns_support_level": "",
    "smtp_host_lookup": "dns",
    "smtp_tls_CAfile": "",
    "smtp_tls_CApath": "/etc/ssl/certs",
    "smtp_tls_policy_maps": "",
    "smtp_tls_security_level": "may",
    "tls_append_default_CA": "no",
}
DNSSEC = {"smtp_dns_support_level": "dnssec"}


def by(name: str) -> dict[str, str]:
    return {"smtp_tls_policy_maps": f"socketmap:inet:127.0.0.1:8461:{name}"}


@pytest.mark.parametrize(
    ("maps", "names"),
    [
        ("", []),
        ("hash:/etc/postfix/tls_policy", []),
        ("socketmap:inet:127.0.0.1:8461:postfix", ["postfix"]),
        ("hash:/x, socketmap:inet:127.0.0.1:8461:QUERY", ["QUERY"]),
        ("socketmap:inet:127.0.0.1:8642:QUERY", []),  # somebody else's
        ("socketmap:unix:/smtp-sts/socketmap:postfix", ["postfix"]),  # in the chroot
        ("socketmap:unix:/var/spool/postfix/smtp-sts/socketmap:sts", ["sts"]),
        ("{socketmap:inet:127.0.0.1:8461:postfix-dane, {timeout=5}}", ["postfix-dane"]),
    ],
)
def test_what_main_cf_asks_by(maps: str, names: list[str]) -> None:
    assert asks_by({**DEFAULTS, "smtp_tls_policy_maps": maps}, HERE) == names


def test_an_address_of_all_interfaces_is_asked_by_loopback() -> None:
    assert asks_by({**DEFAULTS, **by("postfix")}, [TcpAddress("0.0.0.0", 8461)]) == ["postfix"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, None),
        (DNSSEC, None),  # it does not ask us
        (by("postfix"), None),
        (by("postfix-tlsrpt"), None),
        ({**by("postfix-dane"), **DNSSEC}, None),
        ({**by("QUERYwithTLSRPT"), **DNSSEC, "smtp_tls_security_level": "dane"}, None),
        (
            by("postfix-dane"),
            "smtp_dns_support_level is not set: mail to domains with DANE waits",
        ),
        (by("QUERY"), "set it to dnssec, or ask by postfix"),
        (by("postfix-dane-tlsrpt"), "or ask by postfix-tlsrpt"),
        ({**by("postfix-dane"), **DNSSEC, "smtp_host_lookup": "native"}, "smtp_host_lookup is"),
        ({**by("postfix"), **DNSSEC}, "does not ask for it (postfix): for a domain with a policy"),
        ({**by("postfix-tlsrpt"), "smtp_tls_security_level": "dane"}, "by postfix-dane-tlsrpt"),
        ({**by("postfix-tlsrpt"), "mail_version": "3.7.11"}, "every domain with a policy waits"),
        ({**by("postfix"), "mail_version": "3.3.1"}, "ask by postfix-no-sni"),
        ({**by("postfix-no-sni"), "mail_version": "3.3.1"}, None),
        ({**by("postfix"), "smtp_tls_CApath": ""}, "Postfix believes no certificate"),
        ({**by("postfix"), "smtp_tls_CApath": "", "tls_append_default_CA": "yes"}, None),
    ],
)
def test_what_is_said(settings: dict[str, str], said: str | None) -> None:
    told = misfits({**DEFAULTS, **settings}, HERE, dane=True)
    assert len(told) == (said is not None), told
    assert said is None or said in told[0]


def test_where_dane_is_not_looked_for_nothing_is_said_of_it() -> None:
    for settings in (by("postfix-dane"), {**by("postfix"), **DNSSEC}):
        assert misfits({**DEFAULTS, **settings}, HERE, dane=False) == []


def test_postconf_is_read() -> None:
    assert parse("mail_version = 3.10.13\nsmtp_tls_policy_maps = \nsmtp_tls_CAfile =\n") == {
        "mail_version": "3.10.13", "smtp_tls_policy_maps": "", "smtp_tls_CAfile": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, False),  # no Postfix, or one that tells nothing
        ({"smtp_tlsrpt_enable": "no"}, False),
        ({"smtp_tlsrpt_enable": "yes"}, True),
        ({"sender_dependent_default_transport_maps": ""}, True),
        ({"sender_dependent_default_transport_maps": "inline:{ { x@a.example = tls-reports: } }"},
         True),
        ({"sender_dependent_default_transport_maps": "inline:{ { r@a.example = tls-reports: } }"},
         False),
        # what it holds is not known
        ({"sender_dependent_default_transport_maps": "hash:/etc/postfix/sender_transport"}, False),
    ],
)  # fmt: skip
def test_report_mail_without_a_transport_of_its_own_is_told(
    settings: dict[str, str], warned: bool
) -> None:
    if settings and "smtp_tlsrpt_enable" not in settings:
        settings = {"smtp_tlsrpt_enable": "yes", **settings}
    told = counts_reports(settings, "r@a.example")
    assert bool(told) == warned
    assert all("r@a.example has no transport of its own" in sentence for sentence in told)
