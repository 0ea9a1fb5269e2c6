"""What is wrong with `[tls_reports]` is named before anything is sent: by `config check` too."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from smtp_sts.config import ConfigError, parse
from smtp_sts.reporting.settings import read_settings, warnings

from .post_office import KEY, PostOffice

GOOD = {"enabled": "true", "organization": '"Alice"', "contact": '"tlsrpt@alice.example"'}


def toml(**told: str) -> str:
    return "[tls_reports]\n" + "".join(f"{k} = {v}\n" for k, v in {**GOOD, **told}.items())


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"organization": '""'}, r"tls_reports\.organization: is empty: write one line"),
        ({"contact": '""'}, r"tls_reports\.contact: is empty: write the mail address"),
        ({"contact": '"alice.example"'}, r"tls_reports\.contact: write the mail address"),
        ({"contact": '"tlsrpt@Alice.example"'}, "its domain in lower case"),
        ({"bcc": '"a, b"'}, r"tls_reports\.bcc"),
        ({"suppress": '["bob.example", "a b"]'}, r"tls_reports\.suppress: 'a b': write"),
        ({"mail": '"localhost"'}, r"line 5: tls_reports\.mail: 'localhost': write smtp:host:port"),
        ({"mail": '"smtp:localhost"'}, r"tls_reports\.mail: 'localhost' is no address"),
        ({"mail": '"smtp:localhost:0"'}, r"tls_reports\.mail"),
        ({"mail": '"sendmail:sendmail"'}, r"tls_reports\.mail"),
        ({"mail": '"sendmail:/none/sendmail"'}, "/none/sendmail: No such file"),
        ({"mail": '"sendmail:/etc/passwd"'}, "no program that can be run"),
        ({"mail": '"sendmail:/etc"'}, "no program that can be run"),
        ({"dkim_key": '"/none/key"', "dkim_selector": '"s"'}, "/none/key: cannot be read"),
        ({"dkim_key": '"/etc/passwd"', "dkim_selector": '"s"'}, "no private key in it"),
        ({"dkim_key": '"/none/key"'}, r"tls_reports\.dkim_selector: is empty"),
        ({"dkim_selector": '"s"'}, r"tls_reports\.dkim_key: is empty"),
    ],
)
def test_what_cannot_work_is_refused_by_its_key(told: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_settings(parse(toml(**told)))


def _warned(tmp_path: Path, key: bytes, **told: str) -> list[str]:
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "key").chmod(0o640)
    config = parse(toml(dkim_key=f'"{tmp_path}/key"', dkim_selector='"s"', **told))
    return warnings(config, read_settings(config))


def test_what_works_and_will_not_do_what_is_wanted_is_warned_of(tmp_path: Path) -> None:
    config = parse(toml())
    (unsigned,) = warnings(config, read_settings(config))
    assert "unless your MTA signs them for alice.example" in unsigned
    assert _warned(tmp_path, KEY) == []
    assert _warned(tmp_path, KEY, contact='"t@reports.alice.example"',
                   dkim_domain='"alice.example"') == []  # fmt: skip
    (other,) = _warned(tmp_path, KEY, dkim_domain='"bob.example"')
    assert "reports come from alice.example" in other
    short = rsa.generate_private_key(65537, 1024).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    assert "1024 bits" in _warned(tmp_path, short)[0]
    config = parse(toml(dkim_key=f'"{tmp_path}/key"', dkim_selector='"s"'))
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "key").chmod(0o644)
    assert "every user" in warnings(config, read_settings(config))[0]


def test_config_check_says_how_reports_go_out(tmp_path: Path) -> None:
    async def check(office: PostOffice) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "smtp_sts", "--config", str(office.config_file()), "config",
            "check", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, out.decode(), err.decode()

    async def scene() -> Any:
        async with PostOffice(tmp_path) as office:
            (tmp_path / "key").chmod(0o600)
            status, out, _ = await check(office)
            assert status == 0
            assert "TLS reports:   from tlsrpt@alice.example, mail by smtp:127.0.0.1:" in out
            assert "warning:       s1._domainkey.alice.example: no DKIM key record; publish:" in out
            office.settings["deliver"] = False
            assert "TLS reports:   collected, not sent" in (await check(office))[1]
            office.settings["deliver"] = True
            office.settings["suppress"] = ["a b"]
            status, _, err = await check(office)
            assert (status, "tls_reports.suppress: 'a b'" in err) == (2, True)

    asyncio.run(scene())
