"""The HTTP API: decisions as JSON, for MTAs and filters that are programmed (docs/http-api.md).

    GET /v1/policy/{next hop}   the data of `smtp-sts query --json`
    GET /v1/health              whether this worker answers, and whether its store works
    GET /v1/openapi.json        this API, described for machines

Promises: an answer within 5 seconds that fails open (laws 4 and 6, `Service.decision`); what it
says is what the other protocols are answered with. Must not: change anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote_to_bytes

from aiohttp import web

from smtp_sts import __version__
from smtp_sts.mta.service import Service
from smtp_sts.mta.told import replies
from smtp_sts.policy import NextHopError, parse_next_hop
from smtp_sts.resolver.decision import as_data
from smtp_sts.web import openapi, server
from smtp_sts.web.server import Page, Refusal, as_json

_POLICY: Final = "/v1/policy/"


def speaker(
    service: Service, store_works: Callable[[], bool]
) -> Callable[[], asyncio.BaseProtocol]:
    """What speaks this API on a connection."""

    def no_domain() -> None:
        service.count("keys-without-policy")
        service.answered("http", "no-policy-domain")

    async def health() -> web.Response:
        works = store_works()
        return as_json(
            {
                "status": "ok" if works else "degraded",
                "store": "ok" if works else "failing",
                "version": __version__,
            }
        )

    async def described() -> web.Response:
        return as_json(openapi.document())

    async def policy(name: str) -> web.Response:
        try:
            next_hop = unquote_to_bytes(name).decode("utf-8")
            where = parse_next_hop(next_hop)
        except UnicodeDecodeError:
            no_domain()
            raise Refusal(400, "next-hop-invalid", "the next hop is not UTF-8") from None
        except NextHopError as error:
            no_domain()
            raise Refusal(400, error.slug, str(error)) from None
        decision = await service.decision(where)
        service.answered("http", decision.outcome)
        return as_json(as_data(next_hop, decision, replies(decision)))

    fixed: dict[str, Page] = {"/v1/health": health, "/v1/openapi.json": described}

    def find(path: str) -> Page:
        page = fixed.get(path)
        if page is not None:
            return page
        name = path.removeprefix(_POLICY)
        if name == path or "/" in name:
            known = ", ".join(openapi.PATHS)
            raise Refusal(404, "unknown-path", f"there are {known}")
        return lambda: policy(name)

    return server.speaker(service, find)
