"""TLSA records: what is read, and which of them SMTP may use (RFC 6698, RFC 7672 section 3.1)."""

from __future__ import annotations

import dns.rdata
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.dane import Tlsa, TlsaError, unusable

from .chains import LEAF, tlsa


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(min_size=64))
def test_record_data_is_read_and_shown_as_dnspython_does(
    usage: int, selector: int, matching: int, data: bytes
) -> None:
    data = data[: {1: 32, 2: 64}.get(matching)]  # dnspython takes no other digests
    record = Tlsa.parse(bytes((usage, selector, matching)) + data)
    assert record == Tlsa(usage, selector, matching, data)
    theirs = dns.rdata.from_text("IN", "TLSA", str(record))
    assert theirs.to_wire() == bytes((usage, selector, matching)) + data


@given(st.binary(max_size=200))
def test_nothing_but_tlsa_errors_comes_out_of_bytes(rdata: bytes) -> None:
    try:
        record = Tlsa.parse(rdata)
    except TlsaError as error:
        assert (len(rdata) < 4, error.slug) == (True, "tlsa-too-short")
        assert str(len(rdata)) in error.sentence
    else:
        assert unusable(record) is None or unusable(record)


@pytest.mark.parametrize("parameters", [f"{u} {s} {m}" for u in "23" for s in "01" for m in "012"])
def test_usable(parameters: str) -> None:
    assert unusable(tlsa(parameters, LEAF)) is None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (Tlsa(0, 0, 1, bytes(32)), "usages 0 and 1"),
        (Tlsa(1, 1, 1, bytes(32)), "usages 0 and 1"),
        (Tlsa(4, 1, 1, bytes(32)), "usage 4 is unknown"),
        (Tlsa(255, 1, 1, bytes(32)), "usage 255 is unknown"),
        (Tlsa(3, 2, 1, bytes(32)), "selector 2 is unknown"),
        (Tlsa(3, 1, 3, bytes(48)), "matching type 3 is unknown"),
        (Tlsa(3, 1, 255, bytes(32)), "matching type 255 is unknown"),
        (Tlsa(3, 1, 1, bytes(31)), "31 bytes, it must have 32"),
        (Tlsa(3, 1, 1, bytes(64)), "64 bytes, it must have 32"),
        (Tlsa(3, 1, 2, bytes(32)), "32 bytes, it must have 64"),
        (Tlsa(3, 0, 0, bytes(32)), "no certificate"),
        (Tlsa(2, 0, 0, tlsa("2 1 0", LEAF).data), "no certificate"),
        (Tlsa(2, 0, 0, tlsa("2 0 0", LEAF).data[:-1]), "no certificate"),
        (Tlsa(2, 1, 0, tlsa("2 0 0", LEAF).data), "no public key"),
        (Tlsa(3, 1, 0, bytes(32)), "no public key"),
    ],
)
def test_unusable(record: Tlsa, why: str) -> None:
    told = unusable(record)
    assert told is not None and why in told
    assert told.startswith(f"TLSA {record.parameters}: ")
