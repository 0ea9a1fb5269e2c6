"""A scenario told in words: who says what to whom, and where the attack bites. No I/O.

Promises: every step of the declaration is told, with the names it really has in the lab.
Must not: know what comes of it.
"""

from __future__ import annotations

import re
from typing import Final

from smtp_sts.lab.scenarios import (
    Answer,
    Asks,
    Counts,
    Crowd,
    Dns,
    LooksAgain,
    MxHost,
    Outcome,
    Owns,
    Passes,
    PolicyHost,
    Publication,
    Restarts,
    Scenario,
    Sends,
    Step,
    Withdraws,
)

_ANSWER: Final[dict[Answer, str]] = {
    "open": "that nothing is asked of her (NOTFOUND, or `may`)",
    "secure": "to verify TLS (`secure match=...`)",
    "dane": "to verify by DANE (`dane-only`)",
    "wait": "to try again later (`TEMP`)",
}
_OUTCOME: Final[dict[Outcome, str]] = {
    "verified": "must reach bob over TLS that alice has verified",
    "delivered": "must reach bob, with no more asked than before",
    "mallory": "goes to mallory, as it would with no policy at all",
    "deferred": "must wait in alice's queue; nobody may read it",
}
_NAKED: Final[dict[Outcome, str]] = {
    "verified": "arrives verified",
    "delivered": "reaches bob",
    "mallory": "is read by mallory",
    "deferred": "waits",
}
_DEFECT: Final = {
    "servfail": "is answered with SERVFAIL",
    "refused": "is answered with REFUSED",
    "nxdomain": "is said not to exist",
    "timeout": "is never answered",
    "truncated": "is truncated over UDP and whole over TCP",
    "cut": "is truncated over UDP, and TCP closes unanswered",
    "bogus": "comes with a signature that does not fit",
    "stale": "comes with a signature that has expired",
}


def tell(scenario: Scenario) -> str:
    """The story, a paragraph a line."""
    lines = [f"{scenario.name}: mallory {scenario.title}" if scenario.title[:7] != "nothing" else
             f"{scenario.name}: {scenario.title.removeprefix('nothing: ')}"]  # fmt: skip
    lines.append(f"  {scenario.rule}" + _list("law", scenario.laws) + _list("", scenario.pitfalls))
    lines += ["", scenario.why, "", "The world", *_world(scenario.world), "", "What happens"]
    lines += [f"  {n}. {tell_step(step)}" for n, step in enumerate(scenario.steps, 1)]
    if scenario.needs:
        lines += ["", f"A daemon without {' and '.join(scenario.needs)} need not know this."]
    return re.sub(r"\{domain\}", scenario.domain, "\n".join(lines))


def _list(word: str, items: list[int] | list[str]) -> str:
    return "".join(f"; {word} {item}".replace(";  ", "; ") for item in items)


def _world(what: Publication) -> list[str]:
    at = f"{what.at}.{{domain}}" if what.at else "{domain}"
    lines = [f"  bob receives mail for {at} at {', '.join(what.hosts) or 'no host'}."]
    if what.signed:
        lines.append("  His zone is signed with DNSSEC.")
    if what.tlsa:
        lines.append(f"  TLSA records vouch for {', '.join(what.tlsa)}.")
    if what.mode:
        lines.append(
            f"  His policy has mode {what.mode}, MX hosts {', '.join(what.mx or what.hosts)}, "
            f"max_age {what.max_age} s, and its record the id {what.id}."
        )
    elif not what.draft:
        lines.append("  He publishes no policy.")
    if what.draft:
        lines.append(f"  His record of the first draft is {what.draft!r}; its URL says the same.")
    return lines


def tell_step(step: Step) -> str:
    """One step in words."""
    if isinstance(step, Publication):
        return "bob publishes anew. " + " ".join(line.strip() for line in _world(step))
    if isinstance(step, Withdraws):
        return "bob deletes his TXT record and his policy."
    if isinstance(step, Dns):
        return _dns(step)
    if isinstance(step, PolicyHost):
        return _policy_host(step)
    if isinstance(step, MxHost):
        return _mx_host(step)
    if isinstance(step, Owns):
        return f"mallory runs {step.host}: signed zone, valid certificate, TLSA record that fits."
    if isinstance(step, Crowd):
        hosts = (
            "policy hosts that want keys of 8,192 bits" if step.costly else "silent policy hosts"
        )
        return f"alice gets mail for {step.count} domains of mallory's with {hosts}."
    if isinstance(step, Sends):
        return _sends(step)
    if isinstance(step, Asks):
        return _asks(step)
    if isinstance(step, LooksAgain):
        return _looks(step)
    if isinstance(step, Restarts):
        return "The daemon is killed and started again."
    if isinstance(step, Passes):
        if step.days:
            return f"{step.days:g} days pass: the daemon's clock is moved."
        use = ", while mail to the domain goes on" if step.in_use else ""
        return f"{step.seconds:g} seconds pass{use}."
    return _counts(step)


def _dns(step: Dns) -> str:
    what = step.name if step.type == "*" else f"the {step.type} record of {step.name}"
    if step.defect:
        return f"{step.who} sees to it that {what} {_DEFECT[step.defect]}."
    if not step.records:
        return f"{step.who} takes {what} away."
    return f"{step.who} makes {what} say: {' | '.join(step.records)}"


def _policy_host(step: PolicyHost) -> str:
    host = step.host or f"mta-sts.{step.at + '.' if step.at else ''}{{domain}}"
    parts = []
    if step.mode:
        parts.append(f"serves a policy of mode {step.mode} for {', '.join(step.mx)}")
    if step.body is not None:
        parts.append(f"serves {step.body!r}")
    if step.others:
        parts.append(f"names {step.others} MX hosts besides")
    if step.filling:
        parts.append(f"adds {step.filling} bytes of comment")
    for name in ("status", "content_type", "location", "manner", "certificate", "chunked",
                 "length", "tls"):  # fmt: skip
        if (value := getattr(step, name)) is not None:
            parts.append(f"{name.replace('_', ' ')} {value!r}".lower())
    begin = "mallory is" if step.who == "mallory" else "bob changes"
    return f"{begin} the policy host {host}: {'; '.join(parts)}."


def _mx_host(step: MxHost) -> str:
    parts = []
    if step.starttls is False:
        parts.append("no STARTTLS is offered")
    if step.certificate:
        parts.append(f"the certificate is {step.certificate}")
    if step.certificate_name:
        parts.append(f"it names {step.certificate_name}")
    if step.needs_sni:
        parts.append("it needs the name in the handshake")
    if step.tls:
        parts.append(f"it speaks TLS {step.tls} alone")
    if step.refuses:
        parts.append("connections are cut")
    begin = "mallory stands at" if step.who == "mallory" else "bob changes"
    return f"{begin} {step.host}: {'; '.join(parts) or 'nothing else changes'}."


def _sends(step: Sends) -> str:
    to = f"bob@{step.at + '.' if step.at else ''}{{domain}}"
    via = f" via {step.via}" if step.via else ""
    told = f" The daemon must tell her {_ANSWER[step.answer]}." if step.answer else ""
    text = f"alice sends to {to}{via}.{told} The message {_OUTCOME[step.outcome]}."
    return text + (f" Without the daemon it {_NAKED[step.without]}." if step.without else "")


def _asks(step: Asks) -> str:
    times = f" {step.times} times at once" if step.times > 1 else ""
    text = f"alice's MTA asks for {step.key!r}{times} and must be told {_ANSWER[step.answer]}"
    text += f", with {' and '.join(step.has)}" if step.has else ""
    text += f", without {' and '.join(step.lacks)}" if step.lacks else ""
    text += ", with all that a report needs" if step.report else ""
    return text + (f", within {step.within:g} s." if step.within < 5 else ".")


def _looks(step: LooksAgain) -> str:
    text = "The daemon, asked all the while, looks at the domain again"
    text += " and tries to fetch the policy" if step.fetch else ""
    if step.until:
        has = f" with {step.has}" if step.has else ""
        return f"{text}; its answer must become: {step.until}{has}."
    return f"{text}; every answer must stay: {step.answer}." if step.answer else f"{text}."


def _counts(step: Counts) -> str:
    if step.most == 0:
        return "The policy host must not have been connected to."
    if step.least == step.most:
        return f"The policy host must have been connected to {step.most} time(s), no more, no less."
    return f"The policy host may have been connected to {step.least} to {step.most} times."
