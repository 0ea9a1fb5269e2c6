"""TLS reports outwards: what happened to our mail, collected, counted and reported (RFC 8460).

The way of a session: a datagram of the MTA (`datagram`, read by `receive`) or lines of its log
(`postfix_log`, `exim_log`, fed by `lines`) -> an `Outcome` -> counted by `aggregate` in memory ->
written in bulk to `store.tallies`.
The way of a report: counts of a day that is over (`schedule` says when) -> `compile` makes the
report -> `making` looks up who wants it (`destinations`) -> kept in `store.outbox` -> one `attempt`
after the other, by `mail` (signed by `dkim`) or HTTPS -> `deliver` goes on until it has arrived.
"""
