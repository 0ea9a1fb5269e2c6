"""The lines of the log about policies: one sentence for each kind of `Tell`. No decisions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from smtp_sts.policy import Policy
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.draft00 import record_of
from smtp_sts.resolver.life.state import Cached

#: Characters of a record that a line of the log has room for.
LOGGED: Final = 1000

_log = logging.getLogger(__name__)
_Line = tuple[int, str, dict[str, Any]]


def tell(domain: str, said: ev.Tell, now: float) -> None:
    """Write a line about a domain."""
    if not _log.isEnabledFor(logging.WARNING):
        return
    level, sentence, fields = _LINES[said.what](said, now)
    event = fields.pop("event", "decision")
    extra = {"fields": {"event": event, "domain": domain, **fields}}
    _log.log(level, "%s: %s", domain, sentence, extra=extra)


def _policy(said: ev.Tell, _now: float) -> _Line:
    cached, policy = _rfc8461(said.cached)
    sentence = f"policy {cached.id}, mode {policy.mode}, max_age {policy.max_age}"
    fields = {
        "outcome": policy.mode,
        "reason": "policy-found",
        "policy_id": cached.id,
        "max_age": policy.max_age,
    }
    return logging.INFO, sentence, fields


def _no_policy(said: ev.Tell, _now: float) -> _Line:
    reason = said.reason
    fields = {"outcome": "no-policy", "reason": reason.code, "detail": reason.detail}
    return logging.INFO, f"no policy ({reason.code}): {reason.detail}", fields


def _refresh_failed(said: ev.Tell, now: float) -> _Line:
    cached, policy = _rfc8461(said.cached)
    reason = said.reason
    sentence = (
        f"refresh failed ({reason.code}), the cached policy applies until it expires in "
        f"{cached.expires_at - now:.0f} s: {reason.detail}"
    )
    fields = {
        "event": "refresh-failed",
        "outcome": policy.mode,
        "reason": reason.code,
        "detail": reason.detail,
        "policy_id": cached.id,
        "failures": said.failures,
    }
    return logging.WARNING, sentence, fields


def _draft_policy(words: str) -> Callable[[ev.Tell, float], _Line]:
    def line(said: ev.Tell, _now: float) -> _Line:
        if said.cached is None:
            raise ValueError("a policy is told of that is not there")
        record = record_of(said.cached)
        fields = {
            "dialect": "draft00",
            "outcome": record.mode if said.cached.met else "testing",
            "reason": "policy-found" if said.cached.met else "never-validated",
            "policy_id": said.cached.id,
            "authenticated": said.cached.authenticated,
        }
        text = record.render()
        text = text if len(text) <= LOGGED else f"{text[:LOGGED]}..."
        return logging.INFO, f"{words} of the first draft: {text}", fields

    return line


def _draft_no_policy(said: ev.Tell, _now: float) -> _Line:
    reason = said.reason
    fields = {
        "dialect": "draft00",
        "outcome": "no-policy",
        "reason": reason.code,
        "detail": reason.detail,
    }
    sentence = f"no policy of the first draft ({reason.code}): {reason.detail}"
    return logging.INFO, sentence, fields


def _draft_unproven(words: str) -> Callable[[ev.Tell, float], _Line]:
    def line(said: ev.Tell, _now: float) -> _Line:
        reason = said.reason
        fields = {
            "event": "draft-unproven",
            "reason": reason.code,
            "detail": reason.detail,
            "failures": said.failures,
        }
        sentence = (
            f"{words} ({reason.code}); the cached policy of the first draft applies: "
            f"{reason.detail}"
        )
        return logging.WARNING, sentence, fields

    return line


def _draft_failed(said: ev.Tell, _now: float) -> _Line:
    code = said.reason.code
    sentence = f"no MX host meets the policy of the first draft any more ({code})"
    return logging.WARNING, sentence, {"event": "draft-failed", "reason": code}


def _rfc8461(cached: Cached | None) -> tuple[Cached, Policy]:
    if cached is None or not isinstance(cached.policy, Policy):
        raise ValueError("a policy is told of that is not there")
    return cached, cached.policy


_LINES: Final[Mapping[ev.What, Callable[[ev.Tell, float], _Line]]] = {
    "policy": _policy,
    "no-policy": _no_policy,
    "refresh-failed": _refresh_failed,
    "draft-policy": _draft_policy("policy"),
    "draft-unproven-policy": _draft_policy("unproven policy"),
    "draft-met": _draft_policy("an MX host meets the policy"),
    "draft-no-policy": _draft_no_policy,
    "draft-unproven": _draft_unproven("the policy has not proven itself"),
    "draft-replacement-unproven": _draft_unproven("another policy is published, and not proven"),
    "draft-failed": _draft_failed,
}
