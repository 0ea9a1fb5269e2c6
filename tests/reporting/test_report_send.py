"""`smtp-sts report send`: the command as it is run, against real receivers."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from .post_office import PostOffice

MAILTO = "mailto:reports@bob.example"


async def run(office: PostOffice, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "smtp_sts", "--config", str(office.config_file()),
        "report", "send", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


def test_a_day_is_shown_and_sent(tmp_path: Path) -> None:
    async def scene() -> None:
        async with PostOffice(tmp_path, settings={"suppress": ["noisy.example"]}) as office:
            day = "2026-04-01"
            office.count("bob.example", "carol.example", "dave.example")
            office.ask("bob.example", f"{MAILTO},{office.https.url},mailto:x@noisy.example")
            office.ask("carol.example", "mailto:r@carol.example,gopher://x/")

            status, out, err = await run(office, "--day", day, "--dry-run")
            assert (status, err) == (0, "")
            lines = out.splitlines()
            assert f"  {MAILTO}" in lines
            assert f"  {office.https.url}" in lines
            assert "  mailto:x@noisy.example: not sent: suppressed by noisy.example" in lines
            assert (
                "dave.example: no report: _smtp._tls.dave.example: no record asks for reports"
                in lines
            )
            assert any(" bytes; 'gopher://x/' is neither" in line for line in lines)
            assert (office.mta.mails, office.https.posts, office.reports()) == ([], [], [])

            office.https.status = 503
            status, out, err = await run(office, "--day", day, "bob.example")
            assert (status, err) == (1, "")
            assert f"bob.example: delivered {MAILTO}: 250 2.0.0 kept" in out
            assert f"bob.example: failed {office.https.url}: 503 Told" in out
            assert out.endswith(
                "2026-04-01: 1 delivered, 1 due again later, 0 given up, 1 skipped, 0 not wanted\n"
            )

            status, out, _ = await run(office, "--day", day, "--dry-run", "--json")
            shown = json.loads(out)
            assert (status, shown["already"]) == (0, ["bob.example"])
            assert [r["domain"] for r in shown["reports"]] == ["carol.example", "dave.example"]
            assert shown["reports"][0]["destinations"] == [
                {"uri": "mailto:r@carol.example", "skipped": ""}
            ]

            office.https.status = 200
            status, out, _ = await run(office, "--day", day, "--json")
            assert status == 0
            assert {(d["uri"], d["state"]) for d in json.loads(out)["deliveries"]} == {
                (MAILTO, "delivered"),
                (office.https.url, "delivered"),
                ("mailto:x@noisy.example", "skipped"),
                ("mailto:r@carol.example", "delivered"),
            }
            assert (len(office.mta.mails), len(office.https.posts)) == (2, 2)

    asyncio.run(scene())


def test_wrong_usage_is_told(tmp_path: Path) -> None:
    async def scene() -> None:
        async with PostOffice(tmp_path) as office:
            today = time.strftime("%Y-%m-%d", time.gmtime())
            status, _, err = await run(office, "--day", today)
            assert (status, "the day is not over" in err) == (2, True)
            status, out, _ = await run(office)
            assert (status, out.startswith("nothing was counted on ")) == (0, True)
            office.settings["contact"] = ""
            status, _, err = await run(office)
            assert (status, "tls_reports.contact: is empty" in err) == (2, True)

    asyncio.run(scene())
