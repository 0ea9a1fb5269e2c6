"""One attempt to deliver one part of a report to one destination: by mail or by HTTPS POST.

Promises: an `Attempt` comes back, whatever the other side does, within `ATTEMPT_SECONDS`; every
attempt of the same delivery sends the same report with the same report-id, Message-ID and file
name, so that a receiver that had it already can tell (RFC 8460 section 5.3).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

import msgspec

from smtp_sts.net.dns import Dns
from smtp_sts.net.failure import NetFailure
from smtp_sts.net.post import PostContexts, post
from smtp_sts.reporting.compile import unique_id
from smtp_sts.reporting.mail import MAIL_SECONDS, MailTrouble, send_mail
from smtp_sts.reporting.settings import Settings
from smtp_sts.store.outbox import Delivery
from smtp_sts.tlsrpt import (
    MEDIA_TYPE_GZIP,
    RecordError,
    TlsrptError,
    compose,
    compose_draft,
    open_report,
)
from smtp_sts.tlsrpt.record import find_record

POST_SECONDS: Final = 60.0
#: Nothing takes longer; the claim in the outbox lasts longer.
ATTEMPT_SECONDS: Final = MAIL_SECONDS + 10.0


class Attempt(msgspec.Struct, frozen=True):
    """What came of it. `answer` is one line: what was answered, or why nothing was.

    `hopeless`: no later attempt can go better. `silent`: the host, or our MTA, gave no answer, and
    others need not ask it now. `wait`: the seconds that the receiver asks us to stay away.
    """

    accepted: bool
    answer: str
    hopeless: bool = False
    silent: bool = False
    wait: float = 0.0


async def attempt(
    delivery: Delivery, settings: Settings, dns: Dns, contexts: PostContexts
) -> Attempt:
    """Send it. Does not raise for anything that the outside does."""
    try:
        record = find_record([f"v=TLSRPTv1; rua={delivery.uri}".encode()])
    except RecordError as error:  # written by another version
        return Attempt(False, str(error), hopeless=True)
    assert record is not None
    (to,) = record.rua
    if to.scheme == "https":
        return await _post(delivery, to.target, settings, dns, contexts)
    return await _mail(delivery, to.target, settings)


async def _mail(delivery: Delivery, recipient: str, settings: Settings) -> Attempt:
    def written() -> bytes:
        found = open_report(delivery.body)
        made_at = datetime.fromtimestamp(delivery.made_at, UTC)
        if found.draft is not None:
            unique = unique_id(found.draft, delivery.uri)
            message = compose_draft(found.draft, recipient, unique, made_at)
        else:
            report = found.read.report
            unique = unique_id(report, delivery.uri)
            message = compose(report, delivery.domain, recipient, unique, made_at)
        return settings.signer.sign(message) if settings.signer else message

    try:
        message = await asyncio.to_thread(written)
    except TlsrptError as error:
        return Attempt(False, str(error), hopeless=True)
    try:
        answer = await send_mail(
            settings.route, message, settings.sender.contact, recipient, settings.bcc
        )
    except MailTrouble as trouble:
        return Attempt(False, str(trouble), silent=trouble.silent)
    return Attempt(True, answer)


async def _post(
    delivery: Delivery, url: str, settings: Settings, dns: Dns, contexts: PostContexts
) -> Attempt:
    try:
        posted = await post(
            url,
            delivery.body,
            MEDIA_TYPE_GZIP,
            dns=dns,
            contexts=contexts,
            allow_private=settings.allow_private,
            timeout=POST_SECONDS,
        )
    except NetFailure as failure:
        private = failure.slug == "private-address"
        return Attempt(False, failure.sentence, hopeless=private, silent=not private)
    answer = " ".join(f"{posted.status} {posted.reason}".split())
    if posted.certificate:
        answer = f"{answer} (although {posted.certificate})"
    return Attempt(posted.accepted, answer, wait=posted.retry_after)
