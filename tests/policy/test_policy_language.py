"""The policy language: tables of cases, and what holds for any input (RFC 8461 section 3)."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.policy import (
    MAX_AGE,
    MAX_RENDERED,
    MAX_SIZE,
    NextHop,
    NextHopError,
    Policy,
    PolicyError,
    Record,
    RecordError,
    find_record,
    parse_next_hop,
    pattern,
    policy_domain,
    policy_host,
    policy_url,
    record_name,
)
from smtp_sts.policy.nexthop import UNKNOWN_PORT

GOOD = b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmax_age: 604800\r\n"


@pytest.mark.parametrize(
    ("records", "policy_id"),
    [
        ([b"v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        ([b"v=STSv1;id=1"], "1"),
        ([b"v=STSv1; id=a ; x=y"], "a"),
        ([b"v=STSv1;\tid=a\t;"], "a"),
        ([b"v=STSv1; ext.1-a_b=c:d; id=a"], "a"),
        ([b"v=STSv1; id=first; id=sec-ond"], "first"),
        ([b"v=STSv12; id=9;", b"v=STSv1; id=a;"], "a"),
        ([b"some text", b"v=spf1 -all", b"v=STSv1; id=a;"], "a"),
        ([b"v=STSv1; id=" + b"a" * 32], "a" * 32),
    ],
)
def test_a_valid_record_is_found(records: list[bytes], policy_id: str) -> None:
    assert find_record(records) == Record(policy_id)


@pytest.mark.parametrize(
    "records",
    [[], [b""], [b"v=STSv12; id=1"], [b"v=STSv1 ; id=1"], [b" v=STSv1; id=1"], [b"V=STSv1; id=1"],
     [b"v=STSv1"], [b"id=1; v=STSv1;"]],
)  # fmt: skip
def test_records_of_others_do_not_count(records: list[bytes]) -> None:
    assert find_record(records) is None


@pytest.mark.parametrize(
    ("records", "slug"),
    [
        ([b"v=STSv1; id=1", b"v=STSv1; id=1"], "multiple-records"),
        ([b"v=STSv1;"], "record-no-id"),
        ([b"v=STSv1; x=y"], "record-no-id"),
        ([b"v=STSv1; id="], "record-id"),
        ([b"v=STSv1; id=" + b"a" * 33], "record-id"),
        ([b"v=STSv1; id=a-b"], "record-id"),
        ([b"v=STSv1; id=a b"], "record-id"),
        ([b"v=STSv1; id=1; ;x=y"], "record-empty-field"),
        ([b"v=STSv1; id=1; x"], "record-field"),
        ([b"v=STSv1; id=1; x="], "record-field"),
        ([b"v=STSv1; id=1; x=a=b"], "record-field"),
        ([b"v=STSv1; id=1; x=\xc3\xa4"], "record-not-ascii"),
        ([b"v=STSv1; id=1\x00"], "record-id"),
    ],
)
def test_an_invalid_record_says_why(records: list[bytes], slug: str) -> None:
    with pytest.raises(RecordError) as caught:
        find_record(records)
    assert caught.value.slug == slug


def test_a_record_error_names_the_column() -> None:
    with pytest.raises(RecordError) as caught:
        find_record([b"v=STSv1; id=1; oops"])
    assert caught.value.column == 16


@pytest.mark.parametrize(
    "body",
    [
        GOOD,
        GOOD.replace(b"\r\n", b"\n"),
        GOOD.replace(b"\r\n", b"\n", 2),
        GOOD.rstrip(),
        b"\n\n" + GOOD + b"\n\r\n",
        GOOD.replace(b": ", b":"),
        GOOD.replace(b": ", b":\t  "),
        GOOD.replace(b"enforce", b"enforce  \t"),
        GOOD + b"future-key.1: anything \xc3\xa4 goes\n",
        GOOD + b"mode: none\nmax_age: 1\nversion: STSv9\n",
        GOOD + b"mx: MAIL.example.com\n",
    ],
)
def test_tolerated_forms_mean_the_same(body: bytes) -> None:
    assert Policy.parse(body) == Policy("enforce", ("mail.example.com",), 604800)


@pytest.mark.parametrize(
    ("body", "slug", "line"),
    [
        (b"", "policy-no-version", None),
        (b"\xef\xbb\xbf" + GOOD, "policy-byte-order-mark", 1),
        (GOOD.replace(b"STSv1", b"STSv2"), "policy-version", 1),
        (GOOD.replace(b"enforce", b"Enforce"), "policy-mode", 2),
        (GOOD.replace(b"mode", b"Mode"), "policy-no-mode", None),
        (GOOD.replace(b"604800", b"-1"), "policy-max-age", 4),
        (GOOD.replace(b"604800", b"1e9"), "policy-max-age", 4),
        (GOOD.replace(b"604800", b"12345678901"), "policy-max-age", 4),
        (GOOD.replace(b"604800", "٣".encode()), "policy-max-age", 4),
        (GOOD.replace(b"mx: mail.example.com\r\n", b""), "policy-no-mx", None),
        (b"nonsense\n" + GOOD, "policy-line", 1),
        (b"<html>: x\n" + GOOD, "policy-line", 1),
        (GOOD + b"x: \xff\n", "policy-not-utf8", 5),
        (GOOD + b"x: \x00\n", "policy-control-character", 5),
        (GOOD + b"x: a\rb\n", "policy-control-character", 5),
        (GOOD + b"x: " + b"y" * MAX_SIZE, "policy-too-large", None),
    ],
)
def test_an_invalid_policy_says_what_and_where(body: bytes, slug: str, line: int | None) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.parse(body)
    assert (caught.value.slug, caught.value.line) == (slug, line)


@pytest.mark.parametrize(
    "mx",
    ["", "*", "*.", "*.*.example", "a.*.example", "192.0.2.1", "[192.0.2.1]", "2001:db8::1",
     "a}b.example", "a b.example", "a.example policy_type=sts", "a.example:25", ".example.com",
     "example.com.", "localhost", "-a.example", "a-.example", "a_b.example", "a..example",
     "a" * 64 + ".example", "a." * 127 + "example", "münchen.example", "{x}.example",
     "a.example,b.example", "a.example/x", "*mail.example", "1.2.3.4.5", "a=b.example"],
)  # fmt: skip
def test_law_5_an_mx_that_could_inject_is_refused(mx: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.parse(GOOD.replace(b"mail.example.com", mx.encode()))
    assert (caught.value.slug, caught.value.line) == ("policy-mx", 3)


@pytest.mark.parametrize(
    "odd",
    ["mailhost", "*.com", "mail.123", "*.123", "192.0.2.1", "1.2.3.4.5", "LOCALHOST", "a" * 63],
)
@pytest.mark.parametrize("place", ["before", "behind"])
def test_section_3_2_a_pattern_that_matches_no_mx_host_is_passed_over(odd: str, place: str) -> None:
    line = b"mx: mail.example.com\r\n"
    other = b"mx: " + odd.encode() + b" \t\r\n"
    body = GOOD.replace(line, other + line if place == "before" else line + other)
    assert Policy.parse(body) == Policy.parse(GOOD)


@pytest.mark.parametrize(
    "mx",
    ["", "*", "*.*.example", "[192.0.2.1]", "2001:db8::1", "a}b.example", "a b.example",
     "a_b.example", "a.example policy_type=sts", "-a.example", "a..example", "localhost.", "a" * 64,
     "a,b", "{x}"],
)  # fmt: skip
def test_law_5_what_could_inject_voids_the_policy_beside_good_patterns(mx: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.parse(GOOD + b"mx: " + mx.encode() + b"\r\n")
    assert (caught.value.slug, caught.value.line) == ("policy-mx", 5)


def test_a_policy_in_mode_none_may_have_odd_patterns_alone() -> None:
    body = GOOD.replace(b"enforce", b"none").replace(b"mail.example.com", b"mailhost")
    assert Policy.parse(body) == Policy("none", (), 604800)


def test_a_compact_policy_can_be_read_back_from_what_is_rendered() -> None:
    lines = b"".join(b"mx:%x.cd\n" % n for n in range(5900))
    policy = Policy.parse(b"version:STSv1\nmode:enforce\nmax_age:60\n" + lines)
    assert len(policy.render()) > MAX_SIZE
    assert Policy.parse(policy.render(), limit=MAX_RENDERED) == policy


def test_max_age_over_a_year_is_capped() -> None:
    assert Policy.parse(GOOD.replace(b"604800", b"9999999999")).max_age == MAX_AGE
    assert Policy.parse(GOOD.replace(b"604800", b"0")).max_age == 0


def test_mode_none_needs_no_mx() -> None:
    assert Policy.parse(b"version: STSv1\nmode: none\nmax_age: 60\n") == Policy("none", (), 60)


@pytest.mark.parametrize(
    ("pattern", "host", "right"),
    [
        ("mail.example.com", "mail.example.com", True),
        ("mail.example.com", "MAIL.Example.com.", True),
        ("mail.example.com", "mail.example.org", False),
        ("*.example.com", "mail.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "foo.bar.example.com", False),
        ("*.example.com", ".example.com", False),
        ("*.example.com", "mailexample.com", False),
        ("kelvin.example.com", "\u212aelvin.example.com", False),
    ],
)
def test_section_4_1_patterns(pattern: str, host: str, right: bool) -> None:
    assert Policy("enforce", (pattern,), 60).matches(host) is right


@pytest.mark.parametrize(
    ("next_hop", "domain"),
    [
        ("example.com", "example.com"),
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("example.com:587", "example.com"),
        ("example.com:submission", "example.com"),
        ("[relay.example.com]", "relay.example.com"),
        ("[relay.example.com]:587", "relay.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("bücher\u3002example\uff0e", "xn--bcher-kva.example"),  # dots of other scripts
        ("\uff42ob.example", "bob.example"),
        ("\u043e.example", "xn--n1a.example"),  # a Cyrillic o is no Latin one
        ("\u2603.example", "xn--n3h.example"),  # no IDNA 2008 name, and MTAs deliver to it
        ("I\u2764\ufe0f.example", "xn--i-7iq.example"),
        ("xn--zz.example", "xn--zz.example"),  # nobody has it; no harm in asking
    ],
)
def test_the_policy_domain_of_a_next_hop(next_hop: str, domain: str) -> None:
    assert policy_domain(next_hop) == domain


@pytest.mark.parametrize(
    "next_hop",
    ["", ".", ".example.com", ".com", "com", "localhost", "[192.0.2.1]", "192.0.2.1",
     "192.0.2.1:25", "[IPv6:2001:db8::1]", "2001:db8::1", "[::1]:25", "a b.example",
     "a\x00.example", "a\n.example", "a" * 64 + ".example", "x" * 300, "a." * 122 + "example",
     "[example.com", "example.com]", "[]", "a_b.example", "-a.example", "example..com",
     "user@example.com", "\u3002", "bob.example\u3002.", "\u202ebob.example", "\ud800.example",
     "\uff11\uff12\uff17.0.0.1", "\u2603_.example", "xn--.example",
     "\u2028.example", "ü" * 2000, "example.com:25:26", "example.com:"],
)  # fmt: skip
def test_a_next_hop_without_a_policy_domain(next_hop: str) -> None:
    with pytest.raises(NextHopError):
        policy_domain(next_hop)


def test_a_stranger_s_u_labels_cost_no_more_than_names_can() -> None:
    """Whoever may send mail chooses keys, and all others wait while one is looked at."""
    scattered = "".join(chr(0x4E00 + 7 * n) for n in range(1000))
    began = time.process_time()
    for name in (scattered, "\ufdfa" * 1000, "\u0627\u200d" * 500, f"{scattered[:300]}.example"):
        with pytest.raises(NextHopError):
            policy_domain(name)
    assert time.process_time() - began < 0.1


def test_names_of_a_policy_domain() -> None:
    assert record_name("example.com") == "_mta-sts.example.com"
    assert policy_host("example.com") == "mta-sts.example.com"
    assert policy_url("example.com") == "https://mta-sts.example.com/.well-known/mta-sts.txt"


# -- what holds for any input -----------------------------------------------------------------

_label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
_host = st.builds(lambda a, b: f"{a}.{b}.example", _label, _label)
_pattern = st.one_of(_host, _host.map(lambda host: f"*.{host}"))
POLICIES = st.builds(
    lambda mode, mx, age: Policy(mode, tuple(dict.fromkeys(mx)), age),
    st.sampled_from(("enforce", "testing", "none")),
    st.lists(_pattern, min_size=1, max_size=5),
    st.integers(0, MAX_AGE),
)
_pieces = st.lists(
    st.sampled_from([b"version", b"mode", b"mx", b"max_age", b": ", b"STSv1", b"enforce", b"\n",
                     b"\r\n", b"*.", b"a.example", b"60", b" ", b"}", b"\xff", b"\xef\xbb\xbf"]),
    max_size=40,
).map(b"".join)  # fmt: skip


@given(POLICIES)
def test_parse_after_render_is_the_identity(policy: Policy) -> None:
    assert Policy.parse(policy.render()) == policy


@given(st.one_of(st.binary(max_size=400), _pieces, _pieces.map(lambda more: GOOD + more)))
def test_nothing_but_policy_errors_comes_out(body: bytes) -> None:
    try:
        policy = Policy.parse(body)
    except PolicyError as error:
        assert str(error).isprintable()  # law 5: it will stand in a log
    else:
        assert all(re.fullmatch(r"(\*\.)?[a-z0-9.-]+", mx) for mx in policy.mx)
        assert Policy.parse(policy.render()) == policy


@given(st.lists(st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(b"v=STSv1;".__add__))))
def test_nothing_but_record_errors_comes_out(records: list[bytes]) -> None:
    try:
        record = find_record(records)
    except RecordError as error:
        assert str(error).isprintable()
    else:
        assert record is None or find_record([record.render().encode()]) == record


@given(st.text(max_size=300))
def test_nothing_but_next_hop_errors_comes_out(next_hop: str) -> None:
    try:
        domain = policy_domain(next_hop)
    except NextHopError as error:
        assert str(error).isprintable()
    else:
        assert policy_domain(domain) == domain
        assert len(record_name(domain)) <= 253


@given(_pattern, st.text(max_size=60))
def test_matching_takes_any_host(pattern: str, host: str) -> None:
    assert Policy("enforce", (pattern,), 1).matches(host) in (True, False)


_host = st.text(alphabet="aB.*-", max_size=12)


@given(st.lists(st.sampled_from(["a.b", "*.a.b", "a.a.b", "*.b-b.a", "b-b.a"]), unique=True), _host)
def test_a_policy_names_the_hosts_that_one_of_its_patterns_matches(
    patterns: list[str], host: str
) -> None:
    right = any(pattern.matches(p, host) for p in patterns)
    assert Policy("enforce", tuple(patterns), 60).matches(host) is right


@pytest.mark.parametrize(
    ("key", "port", "look_up_mx"),
    [
        ("relay.example", None, True),
        ("relay.example.", None, True),
        ("relay.example:587", 587, True),
        ("relay.example:25", 25, True),
        ("[relay.example]", None, False),
        ("[Relay.Example]:587", 587, False),
        ("[relay.example]:submission", 587, False),
        ("[relay.example]:SMTPS", 465, False),
        ("[relay.example]:our-own", UNKNOWN_PORT, False),
        ("[relay.example]:0", UNKNOWN_PORT, False),
        ("[relay.example]:70000", UNKNOWN_PORT, False),
    ],
)
def test_a_next_hop_keeps_port_and_brackets(key: str, port: int | None, look_up_mx: bool) -> None:
    found = parse_next_hop(key)
    assert found == NextHop("relay.example", port, look_up_mx)
    assert found.plain is (key.lower().removesuffix(".") == "relay.example")
    assert parse_next_hop(str(found)) == found


@given(st.text(alphabet="ab.[]:0123456789-", max_size=30))
def test_a_next_hop_has_the_policy_domain_of_its_key(key: str) -> None:
    try:
        domain = policy_domain(key)
    except NextHopError:
        with pytest.raises(NextHopError):
            parse_next_hop(key)
        return
    found = parse_next_hop(key)
    assert found.domain == domain == policy_domain(str(found))
    assert found.look_up_mx is not key.startswith("[")
