"""A small Internet on loopback: alice who sends, bob who receives, and mallory between them.

Promises: real DNS, HTTPS and SMTP on free ports of 127.0.0.0/8, without root and without a network,
and nothing left behind. Must not: be imported by anything below it, nor reach beyond loopback.
Needs the extra `lab` (aiosmtpd, dnspython).
"""
