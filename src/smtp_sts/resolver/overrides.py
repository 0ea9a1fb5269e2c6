"""The operator's own word for single domains: `[overrides]` of the configuration. No I/O.

Promises: the most specific rule wins (the domain itself, then the longest `.suffix`); a rule that
decides alone (off, a level, a policy) needs neither network nor store; nothing that a rule says is
kept, so that what was learnt of the domain applies again when the rule is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from smtp_sts.config import ConfigError, FixedPolicy, Override
from smtp_sts.policy import NextHopError, Policy, PolicyError, policy_domain
from smtp_sts.resolver.decision import Decision, Step

#: An answer from a rule is made anew this often, seconds; a changed rule applies at once (SIGHUP).
VALID_SECONDS: Final = 300.0
#: What a fixed policy says of its life: Postfix wants a number, nobody counts it (seconds).
MAX_AGE: Final = 86400


class Rule(msgspec.Struct, frozen=True):
    """One rule: `decision` where it decides alone, otherwise what changes a decision."""

    key: str
    decision: Decision | None = None
    testing_as_enforce: bool = False
    never_dane: bool = False


Rules = Mapping[str, Rule]


def read(overrides: Mapping[str, Override]) -> dict[str, Rule]:
    """The rules by their domain or `.suffix`, in A-labels. Raises ConfigError naming the rule."""
    rules: dict[str, Rule] = {}
    for written, override in overrides.items():
        key = _key(written)
        if key in rules:
            raise ConfigError(
                f"overrides: {written!r} and {rules[key].key!r} are the same domain: keep one"
            )
        rules[key] = _rule(written, override)
    return rules


def find(rules: Rules, domain: str) -> Rule | None:
    """The rule for a policy domain, None where there is none."""
    if not rules:
        return None
    found = rules.get(domain)
    rest = domain
    while found is None and rest:
        _, dot, rest = rest.partition(".")
        found = rules.get(dot + rest) if rest else None
    return found


def never_applied(rules: Rules, *, dane: bool = True) -> list[str]:
    """A sentence for each rule that changes nothing that a wider one does not do already, or, where
    `dane` is not looked for at all, does not do anyway."""
    told = []
    for key, rule in rules.items():
        wider = find({k: r for k, r in rules.items() if k != key}, key.removeprefix("."))
        if wider is not None and _effect(wider) == _effect(rule):
            told.append(f"overrides: {rule.key!r} says what {wider.key!r} says already")
        elif wider is None and _effect(rule) == (None, False, False):
            told.append(f"overrides: {rule.key!r} says nothing: no wider rule is there to lift")
        elif not dane and rule.never_dane and not rule.testing_as_enforce and wider is None:
            told.append(
                f"overrides: {rule.key!r} says dane = false, and DANE is looked for nowhere: "
                "policy.dane is false, or no resolver's AD bit is trusted"
            )
    return told


def _effect(rule: Rule) -> object:
    """What a rule does, whatever it is called."""
    decision = rule.decision and msgspec.structs.replace(rule.decision, steps=())
    return decision, rule.testing_as_enforce, rule.never_dane


def fixed(rule: Rule, domain: str, now: float) -> Decision | None:
    """The decision of a rule that decides alone, for a policy domain; None for the others."""
    if rule.decision is None:
        return None
    return msgspec.structs.replace(
        rule.decision, policy_domain=domain, valid_until=now + VALID_SECONDS
    )


def adapt(rule: Rule, decision: Decision) -> Decision:
    """A decision as a rule that does not decide alone changes it."""
    if rule.never_dane and decision.draft is not None and decision.outcome == "dane":
        step = Step("override", None, f"by the rule for {rule.key!r} nobody looks for TLSA records")
        return msgspec.structs.replace(
            decision, outcome="testing", reason="override", steps=(*decision.steps, step)
        )
    if not rule.testing_as_enforce or decision.outcome != "testing" or decision.policy is None:
        return decision
    if decision.draft is not None and not (decision.draft.applied and decision.policy.mx):
        return decision  # draft-margolis-smtp-sts-00 section 3.4: never met, so never enforced
    step = Step("override", True, f"the rule for {rule.key!r} takes testing for enforce")
    return msgspec.structs.replace(
        decision,
        outcome="enforce",
        policy=msgspec.structs.replace(decision.policy, mode="enforce"),
        steps=(*decision.steps, step),
    )


def _key(written: str) -> str:
    below = "any" if written.startswith(".") else ""  # a suffix is what some domain ends with
    try:
        domain = policy_domain(below + written).removeprefix(below)
    except NextHopError as error:
        raise ConfigError(f"overrides: {written!r} can never apply: {error}") from None
    if written.startswith("[") or ":" in written:
        raise ConfigError(f"overrides: {written!r}: write the domain alone, {domain!r}")
    return domain


def _rule(written: str, override: Override) -> Rule:
    alone = [
        name
        for name, given in (
            ("off", override.off), ("level", override.level), ("policy", override.policy),
            ("testing_as_enforce", override.testing_as_enforce), ("dane", not override.dane),
        )
        if given
    ]  # fmt: skip
    if len(alone) > 1 and alone != ["testing_as_enforce", "dane"]:
        raise ConfigError(
            f"overrides: {written!r}: {alone[0]} leaves nothing for {alone[1]} to do: keep one"
        )
    steps = (Step("override", True, f"the rule for {written!r} decides: {''.join(alone)}"),)
    base = Decision("", "no-policy", "override", source="cache", steps=steps)
    if override.off:
        return Rule(written, base)
    if override.level:
        return Rule(written, msgspec.structs.replace(base, level=override.level))
    if override.policy is not None:
        policy = _policy(written, override.policy)
        return Rule(written, msgspec.structs.replace(base, outcome=policy.mode, policy=policy))
    return Rule(
        written, testing_as_enforce=override.testing_as_enforce, never_dane=not override.dane
    )


def _policy(written: str, given: FixedPolicy) -> Policy:
    mx = "".join(f"mx: {pattern}\n" for pattern in given.mx)
    text = f"version: STSv1\nmode: {given.mode}\n{mx}max_age: {MAX_AGE}\n"
    try:
        policy = Policy.parse(text.encode())
    except PolicyError as error:
        raise ConfigError(f"overrides: {written!r}: policy: {error}") from None
    if policy.mx != tuple(dict.fromkeys(pattern.lower() for pattern in given.mx)):
        raise ConfigError(f"overrides: {written!r}: policy: mx holds more than MX host patterns")
    return policy
