"""TLS reports outwards: what happened to our mail, collected and counted (RFC 8460).

The way of a session: a datagram of the MTA (`datagram`, read by `receive`) or lines of its log
(`postfix_log`, `exim_log`, fed by `lines`) -> an `Outcome` -> counted by `aggregate` in memory ->
written in bulk to `store.tallies`.
"""
