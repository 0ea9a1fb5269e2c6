"""The operator's word for single domains, from the configuration text to the reply."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from smtp_sts.config import Config, ConfigError, parse
from smtp_sts.lab.world import World, policy_text
from smtp_sts.mta.told import replies
from smtp_sts.policy import parse_next_hop
from smtp_sts.resolver import overrides
from smtp_sts.resolver.decision import as_data
from smtp_sts.resolver.one_off import decide_once

RULES = """
[overrides]
".example.org" = { off = true }
"www.example.org" = { level = "encrypt" }
".deep.example.org" = { testing_as_enforce = true }
"lifted.example.org" = {}
"bücher.example" = { policy = { mode = "enforce", mx = ["*.Bob.example", "mx.bob.example"] } }
"tested.example" = { policy = { mode = "testing", mx = ["mx.bob.example"] } }
"""


def config_with(rules: str, base: str = "") -> Config:
    return parse(base + rules)


@pytest.mark.parametrize(
    ("domain", "key"),
    [
        ("www.example.org", "www.example.org"),
        ("a.example.org", ".example.org"),
        ("a.b.example.org", ".example.org"),
        ("a.deep.example.org", ".deep.example.org"),
        ("deep.example.org", ".example.org"),
        ("lifted.example.org", "lifted.example.org"),
        ("example.org", None),
        ("notexample.org", None),
        ("org", None),
        ("xn--bcher-kva.example", "bücher.example"),
    ],
)
def test_the_most_specific_rule_applies(domain: str, key: str | None) -> None:
    rule = overrides.find(overrides.read(config_with(RULES).overrides), domain)
    assert (rule.key if rule else None) == key


@pytest.mark.parametrize(
    ("next_hop", "outcome", "postfix", "sts"),
    [
        ("a.example.org", "no-policy", "NOTFOUND ", "NOTFOUND "),
        ("www.example.org", "no-policy", "OK encrypt", "NOTFOUND "),
        ("[WWW.example.org]:587", "no-policy", "OK encrypt", "NOTFOUND "),
        (
            "bücher.example",
            "enforce",
            "OK secure match=.bob.example:mx.bob.example servername=hostname",
            "OK secure match=.bob.example:mx.bob.example servername=hostname",
        ),
        ("tested.example", "testing", "NOTFOUND ", "NOTFOUND "),
    ],
)
def test_a_rule_that_decides_alone_asks_nobody(
    next_hop: str, outcome: str, postfix: str, sts: str
) -> None:
    # A resolver that is not there: a question would end as a failure.
    config = config_with(RULES, '[dns]\nnameservers = ["127.0.0.1:1"]\n')
    data = asyncio.run(_looked_up(config, next_hop))
    assert (data["outcome"], data["reason"]) == (outcome, "override")
    assert (data["replies"]["postfix"], data["replies"]["sts"]) == (postfix, sts)
    with_level = postfix if outcome == "no-policy" else data["replies"]["postfix-tlsrpt"]
    assert data["replies"]["postfix-tlsrpt"] == with_level


async def _looked_up(config: Config, next_hop: str) -> dict[str, Any]:
    decision = await decide_once(config, parse_next_hop(next_hop))
    return as_data(next_hop, decision, replies(decision))


def test_testing_is_taken_for_enforce_where_a_rule_says_so() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example", mode="testing")
            await world.publish("carol.example", mode="testing")
            base = world.config_toml().read_text()
            rules = '\n[overrides]\n"bob.example" = { testing_as_enforce = true }\n'
            config = config_with(rules, base)
            bob = await _looked_up(config, "bob.example")
            carol = await _looked_up(config, "carol.example")
            assert (bob["outcome"], carol["outcome"]) == ("enforce", "testing")
            assert bob["replies"]["postfix"].startswith("OK secure match=")
            assert "policy_string = mode: enforce" in bob["replies"]["postfix-tlsrpt"]

    asyncio.run(play())


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ('"192.0.2.1" = { off = true }', "can never apply"),
        ('"[bob.example]:25" = { off = true }', "write the domain alone, 'bob.example'"),
        ('"" = { off = true }', "can never apply"),
        ('"Bob.example" = {}\n"bob.example" = {}', "are the same domain"),
        ('"bob.example" = { off = true, level = "may" }', "off leaves nothing for level to do"),
        ('"bob.example" = { policy = { mode = "enforce", mx = [] } }', "policy: "),
        ('"bob.example" = { policy = { mode = "enforce", mx = ["a}b"] } }', "policy: "),
        (
            '"bob.example" = { policy = { mode = "enforce", mx = ["a.b\\nmode: none"] } }',
            "mx holds more than MX host patterns",
        ),
        ('"bob.example" = { level = "secure" }', "line 2: overrides.bob.example: "),
        ('"bob.example" = { of = true }', "line 2: overrides.bob.example: "),
        ('"bob.example" = "off"', "line 2: overrides.bob.example: "),
        ('"bob.example" = {}\n"bob.example" = {}', "not valid TOML"),
    ],
)
def test_a_rule_that_cannot_be_is_named(rule: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        overrides.read(config_with(f"[overrides]\n{rule}\n").overrides)
    assert told in str(caught.value)


def test_rules_without_effect_are_named() -> None:
    rules = overrides.read(
        config_with(
            """
            [overrides]
            ".example.org" = { off = true }
            "a.example.org" = { off = true }
            "b.example.org" = {}
            "c.example" = {}
            """.replace("            ", "")
        ).overrides
    )
    assert overrides.never_applied(rules) == [
        "overrides: 'a.example.org' says what '.example.org' says already",
        "overrides: 'c.example' says nothing: no wider rule is there to lift",
    ]


def test_a_rule_against_dane_where_there_is_none_is_named() -> None:
    rules = overrides.read(
        config_with(
            '[overrides]\n"a.example" = { dane = false }\n'
            '"b.example" = { dane = false, testing_as_enforce = true }\n'
        ).overrides
    )
    assert overrides.never_applied(rules) == []
    (told,) = overrides.never_applied(rules, dane=False)
    assert told.startswith(
        "overrides: 'a.example' says dane = false, and DANE is looked for nowhere"
    )


def test_a_policy_of_the_operators_is_read_as_a_domains_is() -> None:
    rules = overrides.read(config_with(RULES).overrides)
    decided = overrides.fixed(rules["tested.example"], "tested.example", 0.0)
    assert decided is not None and decided.policy is not None
    assert decided.policy.render() == policy_text("testing", ["mx.bob.example"], 86400)
