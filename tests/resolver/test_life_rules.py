"""Histories that the model seldom meets, one by one."""

from __future__ import annotations

from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.answer import answer
from smtp_sts.resolver.life.machine import replace, step
from smtp_sts.resolver.life.state import Cached

from .history import POLICIES, RFC8461, SETTINGS, History

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


def test_a_policy_that_is_fetched_makes_the_replies_stale() -> None:
    story = History(RFC8461)
    story.feed(ev.Asked(now=story.now))
    story.store_answers()
    story.record("1", "")
    story.turn(None)
    number = story.waiting(ev.Fetch)
    assert number is not None
    fetched = ev.PolicyFetched(now=story.now, number=number, policy=SHORT, spread=0.5)
    _, effects = step(RFC8461, story.state, fetched, SETTINGS)
    assert ev.RepliesAreStale() in effects


def test_what_the_store_holds_makes_replies_stale_that_say_what_was_believed_without_it() -> None:
    story = History(RFC8461)
    story.store(works=False)
    story.feed(ev.Asked(now=story.now))
    story.store_answers()
    old = Cached(SHORT, "1", story.now - 9.0, story.now + 591.0, story.now, story.now)
    story.shared(old)
    state, _ = step(RFC8461, replace(story.state, unread=True), ev.Asked(now=story.now), SETTINGS)
    newer = replace(old, fetched_at=story.now - 1.0, expires_at=story.now + 599.0)
    read = ev.StoreRead(now=story.now, number=state.reading, cached=newer)
    after, effects = step(RFC8461, state, read, SETTINGS)
    assert after.cached == newer
    assert ev.RepliesAreStale() in effects


def test_law_4_what_breaks_is_not_looked_at_again_at_once() -> None:
    """A defect of ours: nobody waits for it, and each question that follows has an answer."""
    story = History(RFC8461)
    story.feed(ev.Asked(now=story.now))
    story.store_answers()
    story.breaks("a defect")
    for _ in range(2):
        story.passes(SETTINGS.error_ttl / 3)
        story.feed(ev.Asked(now=story.now))
        assert not story.pending
        said = answer("bob.example", story.state, story.now, "cache", dane=False)
        assert said is not None
        assert (said.outcome, said.reason) == ("no-policy", "dns-error")
    story.passes(SETTINGS.error_ttl)
    story.feed(ev.Asked(now=story.now))
    assert story.waiting(ev.LookUp) is not None
