"""Histories that the model seldom meets, one by one."""

from __future__ import annotations

from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.answer import answer

from .history import POLICIES, RFC8461, History

SHORT = next(one for one in POLICIES if (one.mode, one.max_age) == ("enforce", 600))


def test_no_fetch_follows_a_failed_one_though_the_policy_has_expired_meanwhile() -> None:
    """RFC 8461 section 3.3: five minutes."""
    story = History(RFC8461)
    story.feed(ev.Asked(now=story.now))
    story.store_answers()
    story.record("1", "")
    story.turn(None)
    story.fetched(SHORT)
    story.passes(500.0)
    story.feed(ev.RefreshDue(now=story.now))
    story.record("1", "")
    story.turn(None)
    story.fetched(None)
    story.passes(150.0)
    story.feed(ev.Asked(now=story.now))
    assert story.waiting(ev.LookUp) is not None
    story.record("1", "")
    assert not story.pending
    said = answer("bob.example", story.state, story.now, "network", dane=False)
    assert said is not None
    assert (said.outcome, said.reason) == ("no-policy", "sts-policy-fetch-error")
