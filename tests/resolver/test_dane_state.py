"""DANE discovery against the lab's DNS: every verdict, and law 3 (RFC 7672 section 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from smtp_sts.dane import Tlsa
from smtp_sts.lab.names import Names
from smtp_sts.net.dns import Dns
from smtp_sts.policy import NextHop, parse_next_hop
from smtp_sts.resolver.dane_look import MAX_FAILED, DaneLook, find_dane
from smtp_sts.resolver.dane_state import (
    MAX_HOSTS,
    MAX_TLSA,
    UNTRUSTED_TTL,
    DaneState,
)

RECORD = Tlsa(3, 1, 1, bytes(32))
TEXT = str(RECORD)
USELESS = f"1 1 1 {'00' * 32}"
DOMAIN = "bob.example"
Publish = Callable[[Names], None]


def look(
    publish: Publish, *, trust_ad: bool = True, signed: bool = True, domain: str = DOMAIN
) -> tuple[DaneState, Names]:
    """What is found for bob.example where the lab publishes that; bob.example is signed."""
    names = Names()

    async def scene() -> DaneState:
        await names.start()
        try:
            dns = Dns([names.address], timeout=0.5, trust_ad=trust_ad)
            return await find_dane(parse_next_hop(domain), dns)
        finally:
            await names.close()

    names.sign(DOMAIN, signed=signed)
    publish(names)
    return asyncio.run(scene()), names


def host(names: Names, name: str, *tlsa: str) -> None:
    names.put(name, "A", "192.0.2.1")
    if tlsa:
        names.put(f"_25._tcp.{name}", "TLSA", *tlsa)


def mx(names: Names, *hosts: str) -> None:
    names.put(DOMAIN, "MX", *(f"10 {name}." for name in hosts))


def one(*tlsa: str) -> Publish:
    def publish(names: Names) -> None:
        mx(names, "mx.bob.example")
        host(names, "mx.bob.example", *tlsa)

    return publish


def two(first: tuple[str, ...], second: tuple[str, ...]) -> Publish:
    def publish(names: Names) -> None:
        mx(names, "mx1.bob.example", "mx2.bob.example")
        host(names, "mx1.bob.example", *first)
        host(names, "mx2.bob.example", *second)

    return publish


def then(*steps: Publish) -> Publish:
    def publish(names: Names) -> None:
        for step in steps:
            step(names)

    return publish


def elsewhere(names: Names) -> None:
    """The MX host is an alias of a signed one of another domain."""
    mx(names, "mx.bob.example")
    names.put("mx.bob.example", "CNAME", "mx.host.example.")
    names.sign("host.example")
    host(names, "mx.host.example", TEXT)


def many(names: Names) -> None:
    mx(names, *(f"mx{n}.bob.example" for n in range(MAX_HOSTS + 1)))
    for n in range(MAX_HOSTS + 1):
        host(names, f"mx{n}.bob.example", TEXT)


def loop(names: Names) -> None:
    mx(names, "a.bob.example")
    names.put("a.bob.example", "CNAME", "b.bob.example.")
    names.put("b.bob.example", "CNAME", "a.bob.example.")


DIGESTS = [f"3 1 1 {n:064x}" for n in range(MAX_TLSA)]


@pytest.mark.parametrize(
    ("publish", "verdict", "states"),
    [
        pytest.param(one(TEXT), "dane", "usable", id="tlsa"),
        pytest.param(one(TEXT, USELESS), "dane", "usable", id="one-of-two-records"),
        pytest.param(one(), "none", "none", id="no-tlsa"),
        pytest.param(one(USELESS), "none", "unusable", id="unusable"),
        pytest.param(one(*DIGESTS), "dane", "usable", id="as-many-records-as-are-read"),
        pytest.param(one(*DIGESTS, TEXT, USELESS), "none", "unusable", id="more-records"),
        pytest.param(two((TEXT,), (TEXT,)), "dane", "usable usable", id="both"),
        pytest.param(two((TEXT,), ()), "partial", "usable none", id="one-without"),
        pytest.param(two((TEXT,), (USELESS,)), "partial", "usable unusable", id="one-unusable"),
        pytest.param(
            then(
                two((TEXT,), (TEXT,)),
                lambda n: n.spoil("_25._tcp.mx2.bob.example", "servfail"),
            ),
            "dane", "usable failed", id="one-fails",
        ),
        pytest.param(
            then(two((), (TEXT,)), lambda n: n.spoil("_25._tcp.mx2.bob.example", "servfail")),
            "none", "none failed", id="one-without-one-fails",
        ),
        pytest.param(
            then(one(TEXT), lambda n: n.spoil("_25._tcp.mx.bob.example", "timeout")),
            "indeterminate", "failed", id="tlsa-timeout",
        ),
        pytest.param(
            then(one(TEXT), lambda n: n.spoil("mx.bob.example", "servfail")),
            "indeterminate", "failed", id="addresses-fail",
        ),
        pytest.param(
            then(one(TEXT), lambda n: n.spoil("mx.bob.example", "servfail", "AAAA")),
            "dane", "usable", id="only-aaaa-fails",
        ),
        pytest.param(
            then(one(TEXT), lambda n: n.sign("mx.bob.example", signed=False)),
            "none", "insecure", id="insecure-addresses",
        ),
        pytest.param(
            then(one(TEXT), lambda n: n.sign("_tcp.mx.bob.example", signed=False)),
            "none", "insecure", id="insecure-tlsa",
        ),
        pytest.param(
            then(one(), lambda n: n.sign("_tcp.mx.bob.example", signed=False)),
            "none", "insecure", id="insecure-denial-of-tlsa",
        ),
        pytest.param(lambda n: host(n, DOMAIN, TEXT), "dane", "usable", id="implicit-mx"),
        pytest.param(lambda n: host(n, DOMAIN), "none", "none", id="implicit-mx-without"),
        pytest.param(lambda n: n.put(DOMAIN, "MX", "0 ."), "null-mx", "", id="null-mx"),
        pytest.param(lambda n: n.put(DOMAIN, "TXT", '"x"'), "no-mail", "absent", id="no-address"),
        pytest.param(lambda n: mx(n, "mx.bob.example"), "no-mail", "absent", id="dangling-mx"),
        pytest.param(lambda n: None, "no-mail", "", id="no-domain"),
        pytest.param(
            then(two((TEXT,), ()), lambda n: n.drop("mx2.bob.example", "A")),
            "dane", "usable absent", id="mail-cannot-go-where-no-address-is",
        ),
        pytest.param(
            then(one(TEXT), lambda n: n.put("mx.bob.example", "A", "0.0.0.0")),
            "dane", "usable", id="an-address-is-the-mail-servers-business",
        ),
        pytest.param(lambda n: mx(n, "192.0.2.1"), "none", "none", id="address-for-a-host"),
        pytest.param(lambda n: mx(n, "m\\010x.example"), "none", "none", id="control-character"),
        pytest.param(
            then(elsewhere, lambda n: n.put(DOMAIN, "MX", "10 mx.bob.example.", "20 .")),
            "dane", "usable", id="null-mx-among-others-is-passed-over",
        ),
        pytest.param(many, "dane", "usable " * MAX_HOSTS, id="more-hosts-than-are-looked-at"),
        pytest.param(loop, "indeterminate", "failed", id="alias-loop"),
    ],
)  # fmt: skip
def test_verdict_of_a_signed_domain(publish: Publish, verdict: str, states: str) -> None:
    found, names = look(publish)
    assert (found.verdict, " ".join(h.state for h in found.hosts)) == (verdict, states.strip())
    assert found.text.isprintable() and all(h.text.isprintable() for h in found.hosts)
    for h in found.hosts:
        assert bool(h.records) == (h.state == "usable")
        if h.state not in ("usable", "none"):
            assert h.text
    asked_tlsa = {name for name, kind in names.queries if kind == "TLSA"}
    assert len(asked_tlsa) <= MAX_HOSTS


@pytest.mark.parametrize(
    ("publish", "verdict"),
    [
        (one(TEXT), "insecure"),
        (lambda n: host(n, DOMAIN, TEXT), "insecure"),
        (lambda n: n.put(DOMAIN, "MX", "0 ."), "null-mx"),
        (lambda n: n.put(DOMAIN, "TXT", '"x"'), "insecure"),
        (lambda n: None, "no-mail"),
    ],
)
def test_verdict_of_an_unsigned_domain(publish: Publish, verdict: str) -> None:
    found, names = look(publish, signed=False)
    assert found.verdict == verdict
    assert not any(kind == "TLSA" for _, kind in names.queries)


def test_law_3_an_insecure_mx_rrset_that_points_at_a_signed_host_is_not_dane() -> None:
    def publish(names: Names) -> None:
        mx(names, "mx.host.example")
        names.sign("host.example")
        host(names, "mx.host.example", TEXT)

    found, _ = look(publish, signed=False)
    assert (found.verdict, found.mx, found.hosts) == ("insecure", ("mx.host.example",), ())


def test_law_3_ad_of_a_resolver_that_is_not_trusted_is_not_believed() -> None:
    found, names = look(one(TEXT), trust_ad=False)
    assert (found.verdict, found.ttl) == ("insecure", UNTRUSTED_TTL)
    assert not names.queries


@pytest.mark.parametrize("defect", ["servfail", "timeout"])
@pytest.mark.parametrize(
    ("ds", "signed", "verdict"),
    # a name that is no zone lies in the one that proves that there is no DS record
    [(True, True, "indeterminate"), (False, True, "indeterminate"), (True, False, "failed")],
)
def test_a_failing_mx_question_is_weighed_by_the_parents_ds(
    defect: str, ds: bool, signed: bool, verdict: str
) -> None:
    def publish(names: Names) -> None:
        if ds:
            names.put(DOMAIN, "DS", f"1 13 2 {'00' * 32}")
        names.spoil(DOMAIN, "servfail" if defect == "servfail" else "timeout", "MX")

    assert look(publish, signed=signed)[0].verdict == verdict


@pytest.mark.parametrize(
    ("publish", "base"),
    [
        pytest.param(elsewhere, "mx.host.example", id="secure-alias"),
        pytest.param(
            then(
                elsewhere,
                lambda n: n.drop("_25._tcp.mx.host.example", "TLSA"),
                lambda n: n.put("_25._tcp.mx.bob.example", "TLSA", TEXT),
            ),
            "mx.bob.example", id="none-at-the-end-of-the-alias",
        ),
        pytest.param(
            then(
                elsewhere,
                lambda n: n.sign("host.example", signed=False),
                lambda n: n.put("_25._tcp.mx.bob.example", "TLSA", TEXT),
            ),
            "mx.bob.example", id="signed-alias-of-an-unsigned-host",
        ),
        pytest.param(
            then(
                one(),
                lambda n: n.put("_25._tcp.mx.bob.example", "CNAME", "shared.bob.example."),
                lambda n: n.put("shared.bob.example", "TLSA", TEXT),
            ),
            "mx.bob.example", id="alias-at-the-tlsa-name",
        ),
        pytest.param(
            then(
                lambda n: n.put(DOMAIN, "CNAME", "real.bob.example."),
                lambda n: n.put("real.bob.example", "MX", "10 mx.bob.example."),
                lambda n: host(n, "mx.bob.example", TEXT),
            ),
            "mx.bob.example", id="alias-at-the-domain",
        ),
    ],
)  # fmt: skip
def test_tlsa_base_domain_of_an_alias(publish: Publish, base: str) -> None:
    found, _ = look(publish)
    assert found.verdict == "dane", found
    assert (found.hosts[0].base, found.hosts[0].records) == (base, (RECORD,))


def test_an_alias_into_an_unsigned_zone_with_no_records_of_its_own_is_without() -> None:
    found, _ = look(then(elsewhere, lambda n: n.sign("host.example", signed=False)))
    assert (found.verdict, found.hosts[0].state) == ("none", "none")


@pytest.mark.parametrize("publish", [one(TEXT), elsewhere])
def test_an_unsigned_host_is_not_asked_for_tlsa(publish: Publish) -> None:
    """Unsigned zones often fail to answer for TLSA, and mail to them must not wait for that."""

    def unsigned(names: Names) -> None:
        names.sign("mx.bob.example", signed=False)
        names.sign("host.example", signed=False)

    found, names = look(then(publish, unsigned))
    assert (found.verdict, found.hosts[0].state) == ("none", "insecure")
    assert not any(kind == "TLSA" for _, kind in names.queries)


def test_hosts_come_in_the_order_of_their_preference_and_once() -> None:
    def publish(names: Names) -> None:
        names.put(DOMAIN, "MX", "20 b.bob.example.", "10 c.bob.example.", "30 c.bob.example.")
        host(names, "b.bob.example", TEXT)
        host(names, "c.bob.example", TEXT)

    found, _ = look(publish)
    assert found.mx == tuple(h.host for h in found.hosts) == ("c.bob.example", "b.bob.example")


SUB = "mail.bob.example"


def blocked(*names_and_types: tuple[str, str], defect: str = "servfail") -> Publish:
    def publish(names: Names) -> None:
        for name, kind in names_and_types:
            names.spoil(name, "servfail" if defect == "servfail" else "timeout", kind)

    return publish


@pytest.mark.parametrize(
    ("publish", "verdict"),
    [
        pytest.param(blocked((SUB, "MX")), "indeterminate", id="no-zone-cut"),
        pytest.param(blocked((SUB, "*")), "indeterminate", id="all-of-its-answers"),
        pytest.param(blocked((SUB, "*"), defect="timeout"), "indeterminate", id="silence"),
        pytest.param(
            then(lambda n: n.delegate(SUB, signed=True), blocked((SUB, "MX"))),
            "indeterminate", id="a-signed-zone-of-its-own",
        ),
        # law 4: what is not signed is let through, whatever its zone above is
        pytest.param(
            then(lambda n: n.delegate(SUB, signed=False), blocked((SUB, "MX"))),
            "failed", id="an-unsigned-zone-of-its-own",
        ),
        pytest.param(blocked((SUB, "*"), (DOMAIN, "*")), "failed", id="nobody-tells"),
        # that a top level domain is signed says nothing of those below
        pytest.param(
            then(
                lambda n: n.delegate("example", signed=True),
                blocked((SUB, "*"), (DOMAIN, "*")),
            ),
            "failed", id="the-top-level-alone-tells",
        ),
    ],
)  # fmt: skip
def test_a_name_below_a_signed_domain_is_signed_too(publish: Publish, verdict: str) -> None:
    def below(names: Names) -> None:
        names.delegate(DOMAIN, signed=True)
        names.put(SUB, "MX", "10 mx.bob.example.")
        host(names, "mx.bob.example", TEXT)
        publish(names)

    assert look(below, domain=SUB)[0].verdict == verdict


def test_many_hosts_that_are_never_told_of_cost_no_more_than_a_few() -> None:
    def publish(names: Names) -> None:
        mx(names, *(f"mx{n}.bob.example" for n in range(58)))
        for n in range(58):
            host(names, f"mx{n}.bob.example")
            names.spoil(f"_25._tcp.mx{n}.bob.example", "timeout")

    found, names = look(publish)
    assert found.verdict == "indeterminate"
    assert len(found.mx) == 58
    # MX and DS; A, AAAA and TLSA, each twice at most. Without a bound: 58 A and 58 TLSA at least.
    assert sum(names.queries.values()) <= 2 + MAX_FAILED * 6


def test_hosts_that_are_not_asked_for_are_not_taken_for_hosts_without() -> None:
    """Some are known to be without, and it is not known of others: as if those had failed."""

    def publish(names: Names) -> None:
        mx(names, *(f"mx{n:02}.bob.example" for n in range(12)))
        for n in range(12):
            host(names, f"mx{n:02}.bob.example", *([TEXT] if n in (0, 11) else []))
            if n:
                names.spoil(f"_25._tcp.mx{n:02}.bob.example", "servfail")

    found, _ = look(publish)
    assert found.verdict == "dane"
    assert [h.state for h in found.hosts] == ["usable"] + ["failed"] * 11


def test_what_is_known_so_far_is_told_before_the_look_has_ended() -> None:
    """A signed domain is known to be signed before all of its answers are there."""

    async def told(names: Names, publish: Publish, seconds: float) -> str:
        names.delegate(DOMAIN, signed=True)
        one(TEXT)(names)
        publish(names)
        await names.start()
        try:
            looking = DaneLook(NextHop(DOMAIN), Dns([names.address], timeout=3, trust_ad=True))
            assert looking.so_far() is None
            task = asyncio.create_task(looking.run())
            await asyncio.sleep(seconds)
            assert not task.done()
            task.cancel()
            so_far = looking.so_far()
            return so_far.verdict if so_far else ""
        finally:
            await names.close()

    for publish, verdict in (
        (blocked(("_25._tcp.mx.bob.example", "*"), defect="timeout"), "indeterminate"),
        (blocked(("mx.bob.example", "*"), defect="timeout"), "indeterminate"),
        (blocked((DOMAIN, "MX"), defect="timeout"), "indeterminate"),
        (blocked((DOMAIN, "MX"), (DOMAIN, "DS"), defect="timeout"), ""),
        (then(lambda n: n.delegate(DOMAIN, signed=False), lambda n: n.drop(DOMAIN, "DS"),
              blocked((DOMAIN, "MX"), defect="timeout")), ""),
    ):  # fmt: skip
        assert asyncio.run(told(Names(), publish, 1.0)) == verdict


def relay(*records: tuple[str, str]) -> Publish:
    """relay.bob.example, an MX record of it that leads elsewhere, and TLSA records."""

    def publish(names: Names) -> None:
        host(names, "relay.bob.example")
        host(names, "mx.bob.example", TEXT)
        names.put("relay.bob.example", "MX", "10 mx.bob.example.")
        for name, text in records:
            names.put(name, "TLSA", text)

    return publish


RELAY = "relay.bob.example"


@pytest.mark.parametrize(
    ("key", "publish", "verdict", "asked"),
    [
        pytest.param(f"[{RELAY}]:587", relay((f"_587._tcp.{RELAY}", TEXT)), "dane", 587, id="587"),
        pytest.param(f"[{RELAY}]:587", relay((f"_25._tcp.{RELAY}", TEXT)), "none", 587, id="at-25"),
        pytest.param(f"[{RELAY}]", relay((f"_25._tcp.{RELAY}", TEXT)), "dane", 25, id="no-port"),
        pytest.param(f"[{RELAY}]:587", relay(("_587._tcp.mx.bob.example", TEXT)), "none", 587,
                     id="at-its-mx"),
        pytest.param(f"{RELAY}:587", relay(("_587._tcp.mx.bob.example", TEXT)), "dane", 587,
                     id="mx-at-587"),
        pytest.param(f"{RELAY}:587", relay(), "none", 587, id="mx-at-25"),
        pytest.param(f"[{RELAY}]:587", relay((f"_587._tcp.{RELAY}", USELESS)), "none", 587,
                     id="unusable"),
        pytest.param(
            f"[{RELAY}]:587",
            then(relay((f"_587._tcp.{RELAY}", TEXT)),
                 lambda n: n.spoil(f"_587._tcp.{RELAY}", "servfail")),
            "indeterminate", 587, id="tlsa-fails",
        ),
        pytest.param(
            f"[{RELAY}]:587", then(relay(), lambda n: n.spoil(RELAY, "servfail", "A")),
            "indeterminate", None, id="addresses-fail",
        ),
        pytest.param(f"[none.{DOMAIN}]:587", relay(), "no-mail", None, id="no-such-host"),
    ],
)  # fmt: skip
def test_a_smart_host_is_looked_at_where_mail_goes(
    key: str, publish: Publish, verdict: str, asked: int | None
) -> None:
    # RFC 7672 sections 2.2.2 and 2.2.3.
    state, names = look(publish, domain=key)
    assert state.verdict == verdict, state.text
    if key.startswith("["):
        assert not [name for name, kind in names.queries if kind == "MX"]
    ports = {name.partition("._tcp.")[0] for name, kind in names.queries if kind == "TLSA"}
    assert ports == ({f"_{asked}"} if asked else set())


def test_a_smart_host_in_a_zone_that_is_not_signed_has_no_dane() -> None:
    publish = relay((f"_587._tcp.{RELAY}", TEXT))
    state, _ = look(publish, signed=False, domain=f"[{RELAY}]:587")
    assert (state.verdict, state.look_up_mx) == ("insecure", False)
    # RFC 7672 section 2.1.2: and where its addresses cannot be had, mail waits for nothing of ours.
    blocked_too = then(publish, lambda n: n.spoil(RELAY, "servfail", "A"))
    state, _ = look(blocked_too, signed=False, domain=f"[{RELAY}]:587")
    assert state.verdict == "failed"
