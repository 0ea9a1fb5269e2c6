"""`GET /metrics` for Prometheus (docs/metrics.md lists every one).

Promises: sums over all workers, read from plain counters when asked; label values are bounded, and
none is made of what a client or the network says (law 5). Must not: count anything itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import accumulate, chain
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from smtp_sts import __version__
from smtp_sts.mta.service import Service
from smtp_sts.mta.tally import BOUNDS
from smtp_sts.web import server
from smtp_sts.web.server import Page, Refusal
from smtp_sts.web.totals import Totals

#: slug of `Tally.counts` -> its metric, and the label value where it is one of several.
COUNTED: Final[dict[str, tuple[str, str]]] = {
    "policies-fetched": ("smtp_sts_fetches", "policy-found"),
    "fetch-sts-policy-fetch-error": ("smtp_sts_fetches", "sts-policy-fetch-error"),
    "fetch-sts-policy-invalid": ("smtp_sts_fetches", "sts-policy-invalid"),
    "fetch-sts-webpki-invalid": ("smtp_sts_fetches", "sts-webpki-invalid"),
    "refresh-good": ("smtp_sts_refreshes", "good"),
    "refresh-failed": ("smtp_sts_refreshes", "failed"),
    "dns-error": ("smtp_sts_dns_failures", ""),
    "store-errors": ("smtp_sts_store_errors", ""),
    "worker-deaths": ("smtp_sts_worker_deaths", ""),
    "tls-datagrams": ("smtp_sts_tls_datagrams", ""),
    "tls-outcomes-datagram": ("smtp_sts_tls_sessions", "datagram"),
    "tls-outcomes-log": ("smtp_sts_tls_sessions", "log"),
    "tls-datagram-not-json": ("smtp_sts_tls_malformed", "not-json"),
    "tls-datagram-fields": ("smtp_sts_tls_malformed", "fields"),
    "tls-datagram-domain": ("smtp_sts_tls_malformed", "domain"),
    "tls-datagram-version": ("smtp_sts_tls_malformed", "version"),
    "tls-own-failures": ("smtp_sts_tls_sessions", "own"),
    "tls-looks": ("smtp_sts_tls_looks", "seen"),
    "tls-looks-unseen": ("smtp_sts_tls_looks", "unseen"),
    "tls-looks-refused": ("smtp_sts_tls_looks", "refused"),
    "tls-log-lost-datagrams": ("smtp_sts_tls_lost_datagrams", ""),
}
#: metric -> its label ("" for none) and what it says.
COUNTERS: Final[dict[str, tuple[str, str]]] = {
    "smtp_sts_fetches": ("result", "Policy fetches, by RFC 8460 result type or policy-found."),
    "smtp_sts_refreshes": ("result", "Refreshes of a policy that is in use."),
    "smtp_sts_dns_failures": ("", "Discoveries that ended without an answer of the DNS."),
    "smtp_sts_store_errors": ("", "Reads and writes that the store has refused."),
    "smtp_sts_worker_deaths": ("", "Workers that ended by themselves and were replaced."),
    "smtp_sts_tls_datagrams": ("", "Datagrams of TLS results that came."),
    "smtp_sts_tls_sessions": ("source", "Sessions that were counted for TLS reports."),
    "smtp_sts_tls_malformed": ("reason", "Datagrams that could not be read."),
    "smtp_sts_tls_looks": ("result", "Looks at the MX hosts of domains in testing mode."),
    "smtp_sts_tls_lost_datagrams": ("", "Datagrams that Postfix's log says it could not send."),
}
#: key of `Tally.gauges` -> metric and what it says.
GAUGES: Final[dict[str, tuple[str, str]]] = {
    "ready-replies": ("smtp_sts_ready_replies", "Ready replies in memory, of all workers."),
    "ready-bytes": ("smtp_sts_ready_reply_bytes", "Bytes of ready replies, of all workers."),
    "states": ("smtp_sts_states", "Domains that the workers know something of."),
    "discoveries": ("smtp_sts_discoveries", "Discoveries under way."),
    "connections": ("smtp_sts_connections", "Connections of clients."),
    "unsaved": ("smtp_sts_unsaved_policies", "Policies that wait for a store that refuses them."),
}
#: Slugs that have no metric of their own, listed so that each is there before it happens.
EVENTS: Final = (
    "accept-errors", "answer-deadline", "bad-http", "bad-lines", "bad-netstrings",
    "dane-timeout", "discovery-timeout", "internal-errors", "keys-without-policy", "long-lines",
    "no-record", "overloaded", "policy-too-long", "refused-requests", "slow-clients",
    "store-dropped", "store-full", "store-invalid", "sts-policy-fetch-error",
    "sts-policy-invalid",
    "sts-record-invalid", "sts-webpki-invalid", "unfinished-requests",
)  # fmt: skip


def speaker(
    service: Service, totals: Callable[[], Awaitable[Totals]]
) -> Callable[[], asyncio.BaseProtocol]:
    """What serves the page on a connection."""

    async def page() -> web.Response:
        return server.response(render(await totals(), time.time()), CONTENT_TYPE_PLAIN_0_0_4)

    def find(path: str) -> Page:
        if path != "/metrics":
            raise Refusal(404, "unknown-path", "there is /metrics")
        return page

    return server.speaker(service, find)


def render(totals: Totals, now: float) -> bytes:
    """The page, in the text format of Prometheus; `now` is seconds since the epoch."""
    registry = CollectorRegistry()
    registry.register(_Collector(totals, now))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, totals: Totals, now: float) -> None:
        self._totals = totals
        self._now = now

    def describe(self) -> list[Metric]:
        """Nothing, so that registering does not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric."""
        return chain(self._answers(), self._counters(), self._sizes())

    def _answers(self) -> Iterator[Metric]:
        tally = self._totals.tally
        answers = CounterMetricFamily(
            "smtp_sts_answers", "Answers to MTAs.", labels=("profile", "outcome")
        )
        for kind, number in sorted(tally.answers.items()):
            answers.add_metric(kind.partition(" ")[::2], number)
        yield answers
        hits = CounterMetricFamily(
            "smtp_sts_cache_hits", "Answers that waited for nothing, by cache.", labels=("cache",)
        )
        for cache in ("replies", "policies"):
            hits.add_metric((cache,), tally.sources.get(cache, 0))
        yield hits
        yield CounterMetricFamily(
            "smtp_sts_cache_misses", "Answers that waited for a discovery.",
            value=tally.sources.get("network", 0),
        )  # fmt: skip
        bounds = [*map(str, BOUNDS), "+Inf"]
        waits = HistogramMetricFamily(
            "smtp_sts_lookup_duration_seconds", "Time of answers that waited for a discovery."
        )
        waits.add_metric(
            (), list(zip(bounds, accumulate(tally.waits), strict=True)), sum_value=tally.waited
        )
        yield waits

    def _counters(self) -> Iterator[Metric]:
        counts = self._totals.tally.counts
        families = {
            name: CounterMetricFamily(name, text, labels=(label,) if label else ())
            for name, (label, text) in COUNTERS.items()
        }
        for slug, (name, value) in COUNTED.items():
            families[name].add_metric((value,) if value else (), counts.get(slug, 0))
        yield from families.values()
        events = CounterMetricFamily(
            "smtp_sts_events", "Everything else that is counted.", labels=("event",)
        )
        for slug in sorted({*EVENTS, *counts} - COUNTED.keys()):
            events.add_metric((slug,), counts.get(slug, 0))
        yield events

    def _sizes(self) -> Iterator[Metric]:
        totals = self._totals
        for key, (name, text) in GAUGES.items():
            yield GaugeMetricFamily(name, text, value=totals.tally.gauges.get(key, 0))
        workers = GaugeMetricFamily(
            "smtp_sts_workers", "Workers that are up, by what they do.", labels=("state",)
        )
        workers.add_metric(("serving",), totals.serving)
        workers.add_metric(("retired",), totals.retired)
        yield workers
        yield GaugeMetricFamily(
            "smtp_sts_workers_configured", "Workers there should be.", value=totals.configured
        )
        store = totals.store
        yield GaugeMetricFamily(
            "smtp_sts_store_up", "1 where the store answers.", value=int(store is not None)
        )
        if store is not None:
            yield GaugeMetricFamily(
                "smtp_sts_store_policies", "Policies in the store.", value=store.policies
            )
            yield GaugeMetricFamily(
                "smtp_sts_store_policy_bytes", "What the policies in the store take.",
                value=store.bytes,
            )  # fmt: skip
            yield GaugeMetricFamily(
                "smtp_sts_store_policy_bytes_limit", "What they may take (store.max_megabytes).",
                value=store.limit,
            )  # fmt: skip
            due = store.refresh_at
            yield GaugeMetricFamily(
                "smtp_sts_refresh_overdue_seconds", "How long the oldest due refresh has waited.",
                value=0.0 if due is None else max(0.0, self._now - due),
            )  # fmt: skip
            oldest = store.fetched_at
            yield GaugeMetricFamily(
                "smtp_sts_oldest_policy_age_seconds",
                "How long ago the oldest policy in force was fetched.",
                value=0.0 if oldest is None else max(0.0, self._now - oldest),
            )
        info = InfoMetricFamily("smtp_sts", "What runs.", value={"version": __version__})
        yield info
