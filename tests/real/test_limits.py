"""How long a reply each MTA takes, as `smtp_sts.mta.limits` says; and policies that are longer.

Law 4: a stranger's policy of any length stops nobody else's mail. Law 1: it opens nothing either.
"""

from __future__ import annotations

import pytest

from smtp_sts.lab.mtas.base import SENDER, message
from smtp_sts.mta.limits import EXIM_LIST, POSTFIX_REPLY, SENDMAIL_LIST, TCP_TABLE_LINE
from smtp_sts.policy.document import MAX_SIZE

from .exim import Exim
from .impostor import away, impostor
from .postfix import Postfix
from .sendmail import Sendmail
from .world import SITES, World

pytestmark = pytest.mark.real

MX = "mx.enforce.example"


def listed(size: int) -> bytes:
    """A list of so many bytes whose last pattern is the MX host's."""
    last = f":{MX}".encode()
    many = b":".join(b"mx%06d.example" % number for number in range((size - len(last)) // 17))
    return b"x" * (size - len(many) - len(last)) + many + last


def netstring(payload: bytes) -> bytes:
    return b"%d:%s," % (len(payload), payload)


def secure(match: bytes) -> bytes:
    return b"OK secure match=" + match + b" servername=hostname"


def arrived(world: World, domain: str) -> bool:
    return bool(world.events_at(SITES[domain].mx, "DATA"))


def test_the_policies_of_the_world_are_as_long_as_can_be() -> None:
    assert MAX_SIZE - 2000 < len(SITES["long.example"].policy) <= MAX_SIZE


def test_exim_takes_a_list_of_the_length_that_it_gets(exim: Exim) -> None:
    with away(exim):
        for size, status in ((EXIM_LIST, "sent"), (EXIM_LIST + 1, "deferred")):
            with impostor(exim, 8462, "once", b"enforce " + listed(size) + b"\n"):
                assert exim.attempt("enforce.example").status == status


def test_laws_1_and_4_a_policy_of_any_length_stops_no_other_mail_at_exim(exim: Exim) -> None:
    domains = ("long.example", "long-wild.example", "long-broken.example", "long-outside.example",
               "enforce.example", "plain.example")  # fmt: skip
    outcomes = [exim.outcome(recipient) for recipient in exim.send(*domains)]
    # The last pattern is not told, unless it is a wildcard.
    assert [o.status for o in outcomes] == [
        "deferred", "sent", "deferred", "deferred", "sent", "sent",
    ], outcomes  # fmt: skip
    assert not arrived(exim, "long-outside.example")
    panic = exim.root / "var/log/exim4/paniclog"
    assert not panic.exists(), panic.read_text()


def test_law_4_nor_does_a_policy_whose_mx_host_has_a_thousand_addresses(exim: Exim) -> None:
    recipients = ["bob@many.example", "bob@enforce.example"]
    command = f"ulimit -v 300000; exim4 -odf -i -f {SENDER} {' '.join(recipients)}"
    exim.in_root("sh", "-ec", command, text=message(*recipients))
    outcomes = [exim.outcome(recipient) for recipient in recipients]
    assert [o.status for o in outcomes] == ["deferred", "sent"], outcomes


def test_sendmail_takes_a_list_of_the_length_that_it_gets(sendmail: Sendmail) -> None:
    with away(sendmail):
        for size, status in ((SENDMAIL_LIST, "Sent"), (SENDMAIL_LIST + 1, "Deferred")):
            with impostor(sendmail, 5461, "answer", netstring(secure(listed(size)))):
                assert sendmail.attempt("enforce.example").status == status


def test_laws_1_and_4_a_policy_of_any_length_is_enforced_at_sendmail(sendmail: Sendmail) -> None:
    domains = ("long.example", "long-wild.example", "long-broken.example", "long-outside.example",
               "enforce.example", "plain.example")  # fmt: skip
    outcomes = [sendmail.outcome(recipient) for recipient in sendmail.send(*domains)]
    assert [o.status for o in outcomes] == [
        "Sent", "Sent", "Deferred", "Deferred", "Sent", "Sent",
    ], outcomes  # fmt: skip
    assert not arrived(sendmail, "long-broken.example")
    assert not arrived(sendmail, "long-outside.example")


def test_without_the_rules_of_the_page_sendmail_waits_for_a_host_that_is_not_told(
    sendmail: Sendmail,
) -> None:
    file = sendmail.root / "etc/mail/sendmail.cf"
    text = file.read_text()
    asks = "Kstsmx socket"
    assert asks in text
    try:
        file.write_text(text.replace(asks, "Kstsmx null"))
        assert sendmail.attempt("long.example").status == "Deferred"
        assert sendmail.attempt("long-wild.example").status == "Sent"
    finally:
        file.write_text(text)


def test_postfix_takes_a_reply_of_the_length_that_it_gets(postfix: Postfix) -> None:
    with away(postfix):
        for size, status in ((POSTFIX_REPLY, "sent"), (POSTFIX_REPLY + 1, "deferred")):
            reply = secure(listed(size - len(secure(b""))))
            with impostor(postfix, 8461, "answer", netstring(reply)):
                outcome = postfix.outcome(postfix.send("enforce.example"))
                assert outcome.status == status, outcome.line


def test_and_a_line_of_tcp_table(postfix: Postfix) -> None:
    line = b"200 secure%%20match=%s%%20servername=hostname\n"
    with away(postfix):
        for size, found in ((TCP_TABLE_LINE, True), (TCP_TABLE_LINE + 1, False)):
            answer = line % listed(size - len(line % b""))
            assert len(answer) == size
            with impostor(postfix, 8463, "answer", answer):
                said = postfix.lookup("enforce.example", "tcp:127.0.0.1:8463")
                assert said.endswith(f":{MX} servername=hostname") is found, said[-200:]


@pytest.mark.parametrize(
    ("domain", "status"),
    [
        ("long.example", "sent"),
        ("long-wild.example", "sent"),
        ("long-broken.example", "deferred"),
        ("long-outside.example", "deferred"),
    ],
)
def test_law_1_a_policy_of_any_length_is_enforced_at_postfix(
    postfix: Postfix, domain: str, status: str
) -> None:
    outcome = postfix.outcome(postfix.send(domain))
    assert outcome.status == status, outcome.line
    assert arrived(postfix, domain) is (status == "sent")
