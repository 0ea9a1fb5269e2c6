"""An operator's resolv.conf changes, by DHCP or by hand, while the daemon runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from smtp_sts.lab.apart import ApartError, enter
from smtp_sts.net.resolv_conf import ResolvConf

INSIDE = Path(__file__).with_name("followed_inside.py")


def test_the_name_servers_are_followed_without_a_reload(tmp_path: Path) -> None:
    try:
        command = enter([sys.executable, str(INSIDE)])
    except ApartError as error:
        pytest.skip(str(error))
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    nobody, changed, emptied = done.stdout.splitlines()
    assert nobody == "nobody: NOTFOUND "
    assert changed.startswith("changed: OK secure match=")
    assert emptied.startswith("emptied: OK secure match=")  # a half-written file blinds nobody
    assert done.stderr.count("the name servers of resolv.conf are 127.0.0.1 now") == 1
    assert done.stderr.index("DANE is off") < done.stderr.index("DANE goes before STS")


def test_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    assert ResolvConf(str(path)).servers == [("127.0.0.1", 53)]
    path.write_text(
        "# x\nsearch a\nnameserver 192.0.2.1\nnameserver  2001:db8::1\nnameserver x\n"
        "nameserver fe80::1%eth0\nnameserver 192.0.2.4\n"
    )
    assert ResolvConf(str(path)).servers == [
        ("192.0.2.1", 53), ("2001:db8::1", 53), ("fe80::1%eth0", 53),
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["in place", "renamed", "by a link"])
def test_a_change_is_seen_however_it_is_made(tmp_path: Path, how: str) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    link = tmp_path / "link"
    link.symlink_to(path)
    file = ResolvConf(str(link if how == "by a link" else path))
    assert not file.changed()
    if how == "in place":
        path.write_text("nameserver 192.0.2.22\n")
    else:
        (tmp_path / "new").write_text("nameserver 192.0.2.22\n")
        if how == "renamed":
            (tmp_path / "new").rename(path)
        else:
            (tmp_path / "link2").symlink_to(tmp_path / "new")
            (tmp_path / "link2").rename(link)
    assert file.changed()
    assert file.servers == [("192.0.2.22", 53)]
    assert not file.changed()


@pytest.mark.parametrize("text", [None, "", "# generated\n", "nameserver x\n"])
def test_law_4_a_file_that_names_nobody_takes_nobody_away(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    file = ResolvConf(str(path))
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    assert not file.changed()
    assert file.servers == [("192.0.2.1", 53)]
    path.write_text("nameserver 192.0.2.2\n")
    assert file.changed()


@pytest.mark.parametrize(
    ("text", "trusted"),
    [
        ("nameserver 10.9.9.9\noptions edns0 trust-ad\n", True),
        ("options trust-ad\noptions edns0\nnameserver 10.9.9.9\n", True),
        ("nameserver 10.9.9.9\noptions timeout:1 attempts:2 rotate ndots:0 use-vc\n", False),
        ("nameserver 10.9.9.9\n# options trust-ad\n", False),
        ("nameserver 10.9.9.9\noptions no-trust-ad\n", False),
        ("nameserver 10.9.9.9\n", False),
    ],
)
def test_what_the_file_says_of_the_ad_bit(tmp_path: Path, text: str, trusted: bool) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    file = ResolvConf(str(path))
    assert (file.servers, file.trust_ad) == ([("10.9.9.9", 53)], trusted)
    path.write_text("nameserver 10.9.9.9\noptions trust-ad debug\n")
    assert file.changed() is not trusted
    assert file.trust_ad
