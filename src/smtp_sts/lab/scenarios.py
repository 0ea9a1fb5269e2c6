"""The scenarios as data: what `scenarios.toml` says, decoded. The only description of any of them.

Promises: `load` gives every scenario, its cases written out, or raises `ScenarioError` that names
the scenario, the step and the key; a scenario is independent of every other one (a domain of its
own). Must not: start, look up or play anything.

In texts `{domain}` is the scenario's domain, `{port}` the port of MX hosts, `{spki}` or
`{spki:HOST}` the SHA-256 of an MX host's public key, `{ca}` that of the lab's authority, `{web}`
the address of all policy hosts, `{closed}` one where nobody listens, `{n}` a number that counts.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from smtp_sts.lab.authority import TlsVersion, Variant
from smtp_sts.lab.names import Defect
from smtp_sts.lab.policyhost import Manner

#: `verified`: bob alone read it, over TLS that alice has verified; `delivered`: bob alone read it;
#: `mallory`: mallory read it; `deferred`: nobody did, alice tries again later.
Outcome = Literal["verified", "delivered", "mallory", "deferred"]

#: What a reply comes to. `open`: no protection asked (not found, `may`); `wait`: mail is deferred.
Answer = Literal["open", "secure", "dane", "wait"]

#: What a wrong answer does to alice's mail. `bypass`: mallory can read it; `load`: others are
#: asked more than they must be; `exposure`: a stranger reaches into alice's own network.
Consequence = Literal["bypass", "lost mail", "delay", "missing report", "load", "exposure"]

#: What a daemon or a mail server may do without: a scenario that needs it is then not supported,
#: not wrong.
Feature = Literal[
    "dane", "tlsrpt", "relay", "san", "wildcard-certificate", "deep-wildcard", "own-dane", "draft00"
]

#: The longest a daemon's answer may take (law 6), seconds.
ANSWER_LIMIT: Final = 5.0


class ScenarioError(ValueError):
    """The declarations cannot be used; the message names the scenario, the step and the key."""


class Publication(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What bob's domain looks like: MX hosts that receive, and a policy where `mode` is given.

    `mx` are the policy's patterns, by default the hosts; `at` is a name below the domain instead
    of the domain; `tlsa` are the hosts with a TLSA record that fits (in a `signed` zone). `draft`
    is a record of the first draft; the URL in it serves the same.
    """

    mode: str = ""
    hosts: tuple[str, ...] = ("mx.{domain}",)
    mx: list[str] = []
    max_age: int = 86400
    id: str = "1"
    at: str = ""
    signed: bool = False
    tlsa: list[str] = []
    draft: str = ""


class Publishes(Publication, frozen=True, forbid_unknown_fields=True, kw_only=True,
                tag_field="does", tag="publishes"):  # fmt: skip
    """bob replaces what he publishes."""

    who: Literal["bob"] = "bob"


class Dns(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True,
          tag_field="does", tag="dns"):  # fmt: skip
    """Another answer for a name: `records` (none: there are none), or a `defect`.

    What mallory rewrites in a signed zone a validating resolver answers with SERVFAIL.
    """

    who: Literal["bob", "mallory"]
    name: str
    type: str = "*"
    records: list[str] = []
    defect: Defect | None = None


class PolicyHost(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True,
                 tag_field="does", tag="policy-host"):  # fmt: skip
    """The policy host answers otherwise; what is not named stays. `mode` writes a whole policy.

    `host` names another host, to which a policy of the first draft leads.
    """

    who: Literal["bob", "mallory"]
    mode: str = ""
    mx: tuple[str, ...] = ("mx.{domain}",)
    max_age: int = 86400
    body: str | None = None
    #: the body is followed by so many bytes of comment
    filling: int = 0
    #: the policy names so many MX hosts besides
    others: int = 0
    at: str = ""
    host: str = ""
    status: int | None = None
    content_type: str | None = None
    location: str | None = None
    manner: Manner | None = None
    certificate: Variant | None = None
    chunked: bool | None = None
    length: int | None = None
    tls: TlsVersion | None = None


class MxHost(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True,
             tag_field="does", tag="mx-host"):  # fmt: skip
    """An MX host behaves otherwise; mallory's change makes it hers."""

    who: Literal["bob", "mallory"]
    host: str = "mx.{domain}"
    starttls: bool | None = None
    certificate: Variant | None = None
    certificate_name: str | None = None
    #: whoever does not name it in the TLS handshake (SNI) is shown another name's certificate
    needs_sni: bool | None = None
    tls: TlsVersion | None = None
    refuses: bool | None = None


class Sends(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True,
            tag_field="does", tag="sends"):  # fmt: skip
    """alice sends a message as the daemon tells her; and another one `without` it, where named."""

    outcome: Outcome
    who: Literal["alice"] = "alice"
    at: str = ""
    #: the relay that alice's configuration names, as Postfix writes it; the domain's MX if empty
    via: str = ""
    without: Outcome | None = None
    answer: Answer | None = None
    within: float = ANSWER_LIMIT
    costs: Consequence | None = None


class Asks(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True,
           tag_field="does", tag="asks"):  # fmt: skip
    """alice's MTA asks the daemon, `times` at once; what the reply must come to, have and lack."""

    answer: Answer
    who: Literal["alice"] = "alice"
    key: str = "{domain}"
    times: int = 1
    has: list[str] = []
    lacks: list[str] = []
    #: the reply carries what Postfix needs for a TLS report
    report: bool = False
    within: float = ANSWER_LIMIT
    costs: Consequence | None = None


class LooksAgain(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True,
                 tag_field="does", tag="looks-again"):  # fmt: skip
    """The daemon, which is asked all the while, looks at the domain again.

    With `fetch` it must also try for the policy. Every answer must come to `answer`; or it has to
    become `until` (and have the text `has`) in time.
    """

    who: Literal["daemon"] = "daemon"
    fetch: bool = False
    answer: Answer | None = None
    until: Answer | None = None
    has: str = ""
    costs: Consequence | None = None


class Owns(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True,
           tag_field="does", tag="owns"):  # fmt: skip
    """mallory has an MX host of her own, all of it good: signed zone, certificate, TLSA record."""

    host: str
    who: Literal["mallory"] = "mallory"


class Crowd(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True,
            tag_field="does", tag="crowd"):  # fmt: skip
    """alice gets mail for `count` domains of mallory's, whose policy hosts never answer; `costly`:
    and have whoever connects make a key of 8,192 bits first (`costly.py`)."""

    count: int
    costly: bool = False
    who: Literal["mallory"] = "mallory"


class Restarts(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True,
               tag_field="does", tag="restarts"):  # fmt: skip
    """The daemon is killed (as by a loss of power) and started again."""

    who: Literal["daemon"] = "daemon"


class Passes(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True,
             tag_field="does", tag="passes"):  # fmt: skip
    """Time passes: `seconds` of waiting, or `days` by which the daemon's clock is moved.

    The domain is asked for all the while where it is `in_use`; not while a clock is moved.
    """

    seconds: float = 0.0
    days: float = 0.0
    who: Literal["time"] = "time"
    in_use: bool = False


class Counts(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True,
             tag_field="does", tag="fetches"):  # fmt: skip
    """How often a policy host has been connected to so far: `least` to `most`."""

    most: int
    who: Literal["world"] = "world"
    least: int = 0
    at: str = ""
    costs: Consequence = "load"


class Withdraws(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True,
                tag_field="does", tag="withdraws"):  # fmt: skip
    """bob deletes his TXT record and his policy."""

    who: Literal["bob"] = "bob"


Step = (
    Publishes | Withdraws | Dns | PolicyHost | MxHost | Owns | Crowd | Sends | Asks | LooksAgain
    | Restarts | Passes | Counts
)  # fmt: skip
_STEPS: Final[dict[str, type[Struct]]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (
        Publishes, Withdraws, Dns, PolicyHost, MxHost, Owns, Crowd, Sends, Asks, LooksAgain,
        Restarts, Passes, Counts,
    )
}  # fmt: skip
_ACTORS: Final = ("alice", "bob", "mallory", "daemon", "time", "world")


class Scenario(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One story: `title` tells what is done, `why` where it bites and what the rule asks for."""

    name: str
    title: str
    #: the specification and its section
    rule: str
    why: str
    steps: list[Step]
    world: Publication = Publication()
    #: the laws of the design that it shows
    laws: list[int] = []
    #: the rows of the list of pitfalls that it shows ("decision 1", "parsing 3")
    pitfalls: list[str] = []
    tags: list[str] = []
    needs: list[Feature] = []
    #: what a real mail server must be able to do for it, whatever the daemon can
    mta_needs: list[Feature] = []
    #: played by a daemon that may not connect to private addresses
    public_only: bool = False

    @property
    def uses(self) -> set[Feature]:
        """What daemon and mail server have to know for it."""
        return {*self.needs, *self.mta_needs}

    @property
    def restarts(self) -> bool:
        """Whether the daemon has to be restarted for it."""
        return any(isinstance(step, Restarts) for step in self.steps)

    @property
    def ages(self) -> bool:
        """Whether the daemon's clock has to be moved for it."""
        return any(isinstance(step, Passes) and step.days for step in self.steps)

    @property
    def domain(self) -> str:
        """The domain in which it plays."""
        return f"{self.name}.bob.example"


def parse(text: str) -> list[Scenario]:
    """The scenarios of a TOML text. Raises ScenarioError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"not valid TOML: {error}") from None
    for key in data:
        _known("the file", key, ["scenario"])
    found: list[Scenario] = []
    for number, declared in enumerate(data.get("scenario", []), 1):
        where = f"scenario {declared.get('name', number)!r}"
        for name, merged in _cases(where, declared):
            found.append(_decode(f"scenario {name!r}", {**merged, "name": name}))
    names = [scenario.name for scenario in found]
    for name in names:
        if names.count(name) > 1:
            raise ScenarioError(f"scenario {name!r} stands twice")
        if len(name) > 63 or not name.replace("-", "").isalnum() or not name.islower():
            raise ScenarioError(f"scenario {name!r}: a name is a lower-case label of a domain")
    return found


def load() -> list[Scenario]:
    """The scenarios of the lab."""
    names = ("scenarios.toml", "draft00.toml")
    return parse(
        "\n".join(files(__package__).joinpath(n).read_text(encoding="utf-8") for n in names)
    )


def choose(scenarios: Sequence[Scenario], wanted: Sequence[str]) -> list[Scenario]:
    """Those of which a name or a tag is `wanted`, all where nothing is. Raises ScenarioError."""
    known = {name for scenario in scenarios for name in (scenario.name, *scenario.tags)}
    for word in wanted:
        if word not in known:
            near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ScenarioError(f"no scenario has the name or the tag {word!r}{hint}")
    return [s for s in scenarios if not wanted or {s.name, *s.tags} & set(wanted)]


def _cases(where: str, declared: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """A declaration with `cases` written out: each case's keys go into the steps marked `case`.

    `told` goes into the title, `mta_needs` into the declaration.
    """
    cases = declared.pop("cases", None)
    name = str(declared.get("name", ""))
    if cases is None:
        return [(name, declared)]
    if not isinstance(cases, dict) or not cases:
        raise ScenarioError(f"{where}: cases is a table of tables")
    steps = declared.get("steps", [])
    if not any("case" in step for step in steps):
        raise ScenarioError(f"{where}: cases without a step that says case = true")
    found = []
    for case, keys in cases.items():
        extra = dict(keys)
        told = extra.pop("told", case.replace("-", " "))
        merged = {**declared, "title": f"{declared.get('title', '')}: {told}"}
        if "mta_needs" in extra:
            merged["mta_needs"] = extra.pop("mta_needs")
        merged["steps"] = [
            {key: value for key, value in {**step, **extra}.items() if key != "case"}
            if step.get("case")
            else step
            for step in steps
        ]
        found.append((f"{name}-{case}", merged))
    return found


def _decode(where: str, declared: dict[str, Any]) -> Scenario:
    known = [field.name for field in msgspec.structs.fields(Scenario)]
    for key in declared:
        _known(where, key, [*known, "cases"])
    for key in declared.get("world", {}):
        _known(f"{where}, world", key, _fields(Publication))
    steps = [
        _step(f"{where}, step {number}", step)
        for number, step in enumerate(declared.get("steps", []), 1)
    ]
    try:
        return msgspec.convert({**declared, "steps": steps}, Scenario)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{where}: {error}") from None


def _step(where: str, declared: Mapping[str, Any]) -> dict[str, Any]:
    """`{ mallory = "dns", ... }` as what msgspec reads: who, what she does, and the rest."""
    actors = [key for key in declared if key in _ACTORS]
    if len(actors) != 1:
        raise ScenarioError(f"{where}: one of {', '.join(_ACTORS)} must do it")
    who, does = actors[0], declared[actors[0]]
    if does not in _STEPS:
        raise ScenarioError(f"{where}: {does!r} is none of {', '.join(sorted(_STEPS))}")
    fields = {key: value for key, value in declared.items() if key != who}
    for key in fields:
        _known(f"{where} ({who} {does})", key, [k for k in _fields(_STEPS[does]) if k != "who"])
    try:
        msgspec.convert({**fields, "who": who, "does": does}, _STEPS[does])
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{where} ({who} {does}): {error}") from None
    return {**fields, "who": who, "does": does}


def _fields(kind: type[Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind)]


def _known(where: str, key: str, known: Sequence[str]) -> None:
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        raise ScenarioError(f"{where}: unknown key {key!r}: {hint}")
