"""The HTTP API as an OpenAPI 3.1 document, made of the types below.

Promises: what the API answers can be read into these types, unknown keys refused (the tests do so);
outcomes, reasons and profiles are those of the code.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from smtp_sts import __version__
from smtp_sts.mta.told import MTAS
from smtp_sts.policy import Constraint, Dialect
from smtp_sts.resolver.decision import REASONS, Outcome, Source

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class Policy(Struct, forbid_unknown_fields=True):
    """The policy that was found, enforced or not."""

    version: str
    mode: Literal["enforce", "testing", "none"]
    mx: Annotated[
        list[str],
        Meta(
            description="MX host patterns: host names; a first label `*` is exactly one label, in "
            "`draft00` one or more"
        ),
    ]
    max_age: Annotated[int, Meta(ge=0, description="seconds from fetched_at")]
    id: Annotated[
        str,
        Meta(
            description="the id of the domain's TXT record; of a policy of the first draft, which "
            "has none, a digest of its text"
        ),
    ]
    dialect: Dialect
    constraint: Annotated[
        Constraint | UnsetType, Meta(description="`draft00` only: what a certificate has to be")
    ] = UNSET
    authentication: Annotated[
        str | UnsetType, Meta(description="`draft00` only: `dnssec`, `webpki:URL` or nothing")
    ] = UNSET
    authenticated: Annotated[
        bool | UnsetType, Meta(description="`draft00` only: proven to be the domain's")
    ] = UNSET
    applied: Annotated[
        bool | UnsetType,
        Meta(description="`draft00` only: an MX host has met it; before, it refuses no mail"),
    ] = UNSET


class Step(Struct, forbid_unknown_fields=True):
    """One step of the discovery."""

    name: str
    ok: bool | None
    text: str


class Way(Struct, forbid_unknown_fields=True):
    """How mail gets to a next hop, as the key says; DANE is looked for on that way."""

    port: Annotated[
        int | None, Meta(description="null: that of SMTP; 0: a service that is not known here")
    ]
    look_up_mx: bool


class Answer(Struct, forbid_unknown_fields=True):
    """What applies to a next hop, and why."""

    domain: Annotated[str, Meta(description="the next hop, as it was asked for")]
    policy_domain: Annotated[str, Meta(description="its policy domain, in A-labels")]
    next_hop: Way
    outcome: Annotated[
        Outcome,
        Meta(
            description="`enforce`: deliver only to an MX host that a pattern of the policy "
            "matches, over TLS, with a certificate valid for that host. Everything else asks for "
            "nothing, except `dane`: RFC 7672 applies instead"
        ),
    ]
    reason: Annotated[str, Meta(extra_json_schema={"enum": list(REASONS)})]
    detail: Annotated[str, Meta(description="the reason in words; not stable")]
    policy: Policy | None
    source: Source = field(name="from")
    fetched_at: Time | None
    expires_at: Time | None
    replies: Annotated[
        dict[str, str],
        Meta(description=f"what an MTA is told, by reply profile or protocol: {', '.join(MTAS)}"),
    ]
    steps: list[Step]


class Health(Struct, forbid_unknown_fields=True):
    """`degraded`: answers come, but policies do not last, for the store fails."""

    status: Literal["ok", "degraded"]
    store: Literal["ok", "failing"]
    version: str


class Error(Struct, forbid_unknown_fields=True):
    """Why a request was refused."""

    error: Annotated[str, Meta(description="a stable slug")]
    message: Annotated[str, Meta(description="a sentence for people; not stable")]


_PARAMETER: Final = {
    "name": "next_hop",
    "in": "path",
    "required": True,
    "description": "A domain, or a next hop as Postfix writes it (`[relay.example.com]:587`), "
    "percent-encoded UTF-8. Address literals have no policy: 400.",
    "schema": {"type": "string", "maxLength": 1024},
    "example": "example.com",
}
#: path -> (operation, what it gives, the type of its answer, its parameters)
PATHS: Final[dict[str, tuple[str, str, type[Struct] | None, list[dict[str, Any]]]]] = {
    "/v1/policy/{next_hop}": ("getPolicy", "What applies to a next hop", Answer, [_PARAMETER]),
    "/v1/health": ("getHealth", "Whether the daemon answers, and its store works", Health, []),
    "/v1/openapi.json": ("getDescription", "This document", None, []),
}


@cache
def document() -> dict[str, Any]:
    """The document, ready to be encoded."""
    types = (Answer, Health, Error)
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(types, schemas, strict=True))
    errors = {"description": "Refused", "content": _content(by_type[Error])}
    paths = {}
    for path, (operation, summary, answer, parameters) in PATHS.items():
        schema = by_type[answer] if answer is not None else {"type": "object"}
        common = {
            "summary": summary,
            **({"parameters": parameters} if parameters else {}),
            "responses": {
                "200": {"description": summary, "content": _content(schema)},
                "default": errors,
            },
        }
        head = {"200": {"description": "As GET, without the body"}, "default": errors}
        paths[path] = {
            "get": {"operationId": operation, **common},
            "head": {"operationId": f"{operation}Head", **common, "responses": head},
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "smtp-sts",
            "version": __version__,
            "description": "MTA-STS (RFC 8461) decisions of a running smtp-sts daemon.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components},
    }


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
