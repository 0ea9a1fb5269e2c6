"""Our DNS codec, held against dnspython, and against arbitrary bytes."""

from __future__ import annotations

import time

import dns.dnssec
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.net import dnswire

_label = st.from_regex(r"[a-z0-9_]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
_name = st.lists(_label, min_size=1, max_size=4).map(".".join)


def response(query: bytes, *sets: dns.rrset.RRset) -> bytes:
    reply = dns.message.make_response(dns.message.from_wire(query), recursion_available=True)
    reply.flags |= dns.flags.AD
    reply.answer.extend(sets)
    return reply.to_wire()


@given(_name, st.integers(0, 65535), st.sampled_from([dnswire.A, dnswire.TXT, 52]))
def test_dnspython_reads_our_questions(name: str, number: int, rrtype: int) -> None:
    message = dns.message.from_wire(dnswire.query(number, name, rrtype))
    assert message.id == number
    assert message.question[0].name.to_text() == f"{name}."
    assert message.question[0].rdtype == rrtype
    assert message.flags == dns.flags.RD | dns.flags.AD
    assert message.payload == dnswire.UDP_SIZE


@given(_name, st.lists(st.binary(max_size=255), min_size=1, max_size=4), st.integers(0, 2**31 - 1))
def test_we_read_dnspythons_txt(name: str, strings: list[bytes], ttl: int) -> None:
    query = dnswire.query(7, name, dnswire.TXT)
    text = " ".join('"' + "".join(f"\\{byte:03d}" for byte in s) + '"' for s in strings)
    wire = response(query, dns.rrset.from_text(f"{name}.", ttl, "IN", "TXT", text))
    message = dnswire.parse(wire, 7, name, dnswire.TXT)
    assert message.records == (b"".join(strings),)  # RFC 8461 section 3.1: no spaces between
    assert (message.ttl, message.ad, message.rcode) == (ttl, True, 0)


def test_addresses_and_mx_as_dnspython_writes_them() -> None:
    for rrtype, text, want in (
        ("A", "192.0.2.1", "192.0.2.1"),
        ("AAAA", "2001:db8::1", "2001:db8::1"),
        ("MX", "10 Mx.bob.example.", (10, "mx.bob.example")),
    ):
        kind = dns.rdatatype.from_text(rrtype)
        wire = response(
            dnswire.query(1, "bob.example", kind),
            dns.rrset.from_text("bob.example.", 60, "IN", rrtype, text),
        )
        assert dnswire.parse(wire, 1, "bob.example", kind).records == (want,)


def test_cnames_within_an_answer_are_followed() -> None:
    query = dnswire.query(1, "a.example", dnswire.A)
    wire = response(
        query,
        dns.rrset.from_text("b.example.", 30, "IN", "CNAME", "c.example."),
        dns.rrset.from_text("a.example.", 60, "IN", "CNAME", "b.example."),
        dns.rrset.from_text("c.example.", 90, "IN", "A", "192.0.2.7"),
        dns.rrset.from_text("stray.example.", 90, "IN", "A", "192.0.2.8"),
    )
    message = dnswire.parse(wire, 1, "A.example", dnswire.A)
    assert (message.records, message.name, message.ttl) == (("192.0.2.7",), "c.example", 30)


SOA = ("SOA", "ns.example. root.example. 1 7200 3600 86400")


def negative(
    query: bytes, rcode: str, *alias: dns.rrset.RRset, authority: tuple[dns.rrset.RRset, ...]
) -> bytes:
    reply = dns.message.from_wire(response(query, *alias))
    reply.set_rcode(dns.rcode.from_text(rcode))
    reply.authority.extend(authority)
    return reply.to_wire()


@pytest.mark.parametrize("rcode", ["NOERROR", "NXDOMAIN"])
@given(ttl=st.integers(0, 2**31 - 1), minimum=st.integers(0, 2**31 - 1), alias=st.booleans())
def test_how_long_absence_may_be_remembered(
    rcode: str, ttl: int, minimum: int, alias: bool
) -> None:
    """RFC 2308 section 5, as dnspython's `resolver.Answer` has it too."""
    query = dnswire.query(1, "a.example", dnswire.TXT)
    zone = dns.rrset.from_text("example.", ttl, "IN", SOA[0], f"{SOA[1]} {minimum}")
    signed = dns.rrset.from_text("example.", 5, "IN", "NSEC", "b.example. TXT")
    cname = dns.rrset.from_text("a.example.", 600, "IN", "CNAME", "b.example.")
    wire = negative(query, rcode, *([cname] if alias else []), authority=(signed, zone))
    reply = dns.message.from_wire(wire)
    assert isinstance(reply, dns.message.QueryMessage)
    want = dns.resolver.Answer(
        dns.name.from_text("a.example."), dns.rdatatype.TXT, dns.rdataclass.IN, reply
    )
    message = dnswire.parse(wire, 1, "a.example", dnswire.TXT)
    assert message.records == ()
    assert message.ttl == want.chaining_result.minimum_ttl == min([ttl, minimum, *[600] * alias])


@pytest.mark.parametrize(
    ("rcode", "alias", "ttl"),
    [("NOERROR", False, 0), ("NXDOMAIN", False, 0), ("NXDOMAIN", True, 0), ("NOERROR", True, 600)],
)
def test_absence_without_an_soa_record_is_not_to_be_remembered(
    rcode: str, alias: bool, ttl: int
) -> None:
    """An alias whose target was left out is no negative answer, and keeps its own time."""
    query = dnswire.query(1, "a.example", dnswire.TXT)
    cname = dns.rrset.from_text("a.example.", 600, "IN", "CNAME", "b.example.")
    stray = dns.rrset.from_text("example.", 60, "CH", SOA[0], f"{SOA[1]} 60")
    wire = negative(query, rcode, *([cname] if alias else []), authority=(stray,))
    assert dnswire.parse(wire, 1, "a.example", dnswire.TXT).ttl == ttl


def test_an_soa_record_does_not_shorten_a_positive_answer() -> None:
    query = dnswire.query(1, "a.example", dnswire.TXT)
    there = dns.rrset.from_text("a.example.", 600, "IN", "TXT", "x")
    zone = dns.rrset.from_text("example.", 60, "IN", SOA[0], f"{SOA[1]} 60")
    wire = negative(query, "NOERROR", there, authority=(zone,))
    assert dnswire.parse(wire, 1, "a.example", dnswire.TXT).ttl == 600


@pytest.mark.parametrize("cut", [1, 4, 21, 30])
def test_a_broken_soa_record_is_a_wire_error(cut: int) -> None:
    query = dnswire.query(1, "a.example", dnswire.TXT)
    zone = dns.rrset.from_text("example.", 60, "IN", SOA[0], f"{SOA[1]} 60")
    wire = negative(query, "NXDOMAIN", authority=(zone,))
    end = wire.index(dnswire.encode_name("ns.example")[:3])
    size = int.from_bytes(wire[end - 2 : end], "big")
    shorter = wire[: end - 2] + (size - cut).to_bytes(2, "big") + wire[end:]
    for broken in (wire[: end + size - cut], shorter):
        with pytest.raises(dnswire.WireError):
            dnswire.parse(broken, 1, "a.example", dnswire.TXT)


@pytest.mark.parametrize("what", ["id", "name", "type", "question"])
def test_an_answer_to_another_question_is_refused(what: str) -> None:
    wire = dnswire.query(1, "a.example", dnswire.A)
    reply = wire if what == "question" else response(wire)
    with pytest.raises(dnswire.WireError):
        dnswire.parse(
            reply,
            2 if what == "id" else 1,
            "b.example" if what == "name" else "a.example",
            dnswire.TXT if what == "type" else dnswire.A,
        )


def test_more_records_than_anybody_needs_are_not_read() -> None:
    query = dnswire.query(1, "a.example", dnswire.A)
    question = query[12 : 12 + len(dnswire.encode_name("a.example")) + 4]
    record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\1\1\1\1"
    for number, taken in ((dnswire.MAX_RECORDS, True), (dnswire.MAX_RECORDS + 1, False)):
        head = b"\0\1\x81\x80\0\1" + number.to_bytes(2, "big") + b"\0\0\0\0"
        message = head + question + record * number
        if taken:
            assert len(dnswire.parse(message, 1, "a.example", dnswire.A).records) == number
        else:
            with pytest.raises(dnswire.WireError, match="more than"):
                dnswire.parse(message, 1, "a.example", dnswire.A)


def test_a_chain_of_pointers_costs_no_more_than_a_name() -> None:
    """A message of 64 KiB whose every name leads through thousands of pointers, one to the next."""
    query = dnswire.query(1, "a.example", dnswire.A)
    question = query[12 : 12 + len(dnswire.encode_name("a.example")) + 4]
    start = 12 + len(question)
    chain = b"".join((0xC000 | 12 if i == 0 else 0xC000 | start + 11 + 2 * i - 2).to_bytes(2, "big")
                     for i in range(8000))  # fmt: skip
    padding = b"\0\0\x63\0\1\0\0\0\0" + len(chain).to_bytes(2, "big")  # an unknown type
    last = (0xC000 | start + 11 + 2 * 7999).to_bytes(2, "big")
    record = last + b"\0\1\0\1\0\0\0\0\0\4\1\1\1\1"
    number = min((65535 - start - 11 - len(chain)) // len(record), dnswire.MAX_RECORDS - 1)
    head = b"\0\1\x81\x80\0\1" + (number + 1).to_bytes(2, "big") + b"\0\0\0\0"
    message = head + question + padding + chain + record * number
    began = time.process_time()
    with pytest.raises(dnswire.WireError, match="pointers"):
        dnswire.parse(message, 1, "a.example", dnswire.A)
    assert time.process_time() - began < 0.2


@given(st.data())
def test_nothing_but_wire_errors_comes_out_of_broken_answers(data: st.DataObject) -> None:
    wire = bytearray(
        response(
            dnswire.query(1, "a.example", dnswire.TXT),
            dns.rrset.from_text("a.example.", 60, "IN", "CNAME", "b.example."),
            dns.rrset.from_text("b.example.", 60, "IN", "TXT", '"v=STSv1;" "id=1"'),
        )
    )
    absent = negative(
        dnswire.query(1, "a.example", dnswire.TXT),
        "NXDOMAIN",
        authority=(dns.rrset.from_text("example.", 60, "IN", SOA[0], f"{SOA[1]} 60"),),
    )
    wire = bytearray(data.draw(st.sampled_from([bytes(wire), absent])))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(wire)))
    for broken in (bytes(wire), bytes(wire[:cut]), data.draw(st.binary(max_size=80))):
        try:
            dnswire.parse(broken, 1, "a.example", dnswire.TXT)
        except dnswire.WireError as error:
            assert str(error)


def denied(name: str, *authority: tuple[str, str, str], rcode: int = 0) -> dnswire.Message:
    """A question for a DS record, answered by denial: owner, type, text of each record."""
    query = dnswire.query(1, name, dnswire.DS)
    reply = dns.message.make_response(dns.message.from_wire(query), recursion_available=True)
    assert dns.message.from_wire(query).ednsflags & dns.flags.DO
    reply.set_rcode(dns.rcode.Rcode(rcode))
    reply.flags |= dns.flags.AD
    reply.authority.append(dns.rrset.from_text("example.", 60, "IN", SOA[0], f"{SOA[1]} 60"))
    for owner, kind, text in authority:
        reply.authority.append(dns.rrset.from_text(owner, 60, "IN", kind, text))
    return dnswire.parse(reply.to_wire(), 1, name, dnswire.DS)


def hashed(name: str, salt: str = "AABB", rounds: int = 3) -> str:
    return f"{dns.dnssec.nsec3_hash(name, salt, rounds, 1)}.example."


NEXT = "2T7B4G4VSA5SMI47K61MV5BV1A22BOJR"


@pytest.mark.parametrize(
    ("authority", "cut"),
    [
        ((), None),
        ((("bob.example.", "NSEC", "z.example. A MX RRSIG NSEC"),), False),
        ((("bob.example.", "NSEC", "z.example. NS RRSIG NSEC"),), True),
        ((("bob.example.", "NSEC", "z.example. NS SOA RRSIG NSEC DNSKEY"),), False),
        # of a wildcard, or of another name, however its types look
        ((("*.example.", "NSEC", "z.example. NS RRSIG NSEC"),), False),
        (
            (
                ("a.example.", "NSEC", "c.example. NS RRSIG NSEC"),
                ("bob.example.", "NSEC", "z.example. NS RRSIG NSEC"),
            ),
            True,
        ),
        (((hashed("bob.example"), "NSEC3", f"1 0 3 AABB {NEXT} NS"),), True),
        (((hashed("bob.example"), "NSEC3", f"1 0 3 AABB {NEXT} A MX RRSIG"),), False),
        (((hashed("bob.example", "", 0), "NSEC3", f"1 0 0 - {NEXT} NS"),), True),
        (((hashed("eve.example"), "NSEC3", f"1 0 3 AABB {NEXT} NS"),), False),
        # nobody has to hash as often as a stranger likes
        (((hashed("bob.example", "", 151), "NSEC3", f"1 0 151 - {NEXT} NS"),), None),
    ],
)
def test_whether_a_zone_begins_where_there_is_no_ds_record(
    authority: tuple[tuple[str, str, str], ...], cut: bool | None
) -> None:
    message = denied("bob.example", *authority)
    assert (message.cut, message.ad, message.records) == (cut, True, ())


def test_a_denial_for_another_type_is_not_looked_into() -> None:
    assert not dns.message.from_wire(dnswire.query(1, "bob.example", dnswire.MX)).ednsflags
    message = denied("bob.example", ("bob.example.", "NSEC", "z.example. NS RRSIG NSEC"), rcode=3)
    assert (message.cut, message.rcode) == (True, 3)


@pytest.mark.parametrize(
    "rdata", ["00", "0100", "0100000304aabb", "01000003ffaabb", "010000030220"]
)
def test_an_nsec3_record_of_any_bytes_ends_in_a_message_or_an_error(rdata: str) -> None:
    try:
        message = denied("bob.example", ("x.example.", "TYPE50", f"\\# {len(rdata) // 2} {rdata}"))
    except dnswire.WireError:
        return
    except dns.exception.DNSException:  # dnspython does not write it: then by hand
        query = dnswire.query(1, "bob.example", dnswire.DS)
        raw = bytes.fromhex(rdata)
        head = query[:2] + b"\x81\xa0\0\1\0\0\0\1\0\0" + query[12 : 12 + 17]
        wire = head + b"\1x\0\0\x32\0\1\0\0\0\x3c" + len(raw).to_bytes(2, "big") + raw
        try:
            message = dnswire.parse(wire, 1, "bob.example", dnswire.DS)
        except dnswire.WireError:
            return
    assert message.cut is not True
