"""The Internet beyond alice's server: MX hosts and policy hosts, run as a program.

    python internet.py DESCRIPTION.json

Promises: every receiver writes what it sees (EHLO, MAIL, DATA) as one JSON line to the events file
before it answers, so that "mallory has seen nothing" can be asked of the file; `ready` is printed
once all sockets listen. Must not: be imported by tests for its servers (they run in a namespace).
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP


def server_context(certificate: str) -> ssl.SSLContext:
    """A TLS server's context from one PEM file that holds certificate and key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


class Receiver:
    """An aiosmtpd handler that takes every message and writes down what it saw."""

    def __init__(self, host: str, events: Path) -> None:
        """`host`: the name that stands in the events."""
        self.host = host
        self.events = events

    def _saw(self, event: str, session: Any, **more: object) -> None:
        line = {"host": self.host, "event": event, "tls": session.ssl is not None, **more}
        with self.events.open("a") as file:
            file.write(json.dumps(line) + "\n")

    async def handle_EHLO(
        self, _server: Any, session: Any, _envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        """Note that somebody has connected."""
        session.host_name = hostname
        self._saw("EHLO", session)
        return responses

    async def handle_MAIL(
        self, _server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        """Note the sender: a message has begun to leave."""
        self._saw("MAIL", session, sender=address)
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:
        """Note the message."""
        content = envelope.content.decode("utf-8", "replace")
        self._saw("DATA", session, recipients=envelope.rcpt_tos, content=content)
        return "250 taken"


async def answer_policy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, policies: dict[str, str]
) -> None:
    """One HTTP exchange: the policy of the host asked for, or 404; then close."""
    try:
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1")
        request, *fields = head.split("\r\n")
        host = next((f[5:].strip() for f in fields if f.lower().startswith("host:")), "")
        found = request.startswith("GET /.well-known/mta-sts.txt ") and host in policies
        body = policies[host].encode() if found else b""
        status = "200 OK" if found else "404 Not Found"
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        await writer.drain()
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        pass  # a client that went away is the client's business
    finally:
        writer.close()


async def serve(description: dict[str, Any]) -> None:
    """Start everything the description names, say `ready`, and go on until ended."""
    loop = asyncio.get_running_loop()
    events = Path(description["events"])
    for receiver in description["receivers"]:
        certificate = receiver["certificate"]
        context = server_context(certificate) if certificate else None
        handler = Receiver(receiver["host"], events)

        def session(
            handler: Receiver = handler, context: ssl.SSLContext | None = context
        ) -> asyncio.Protocol:
            # No AUTH: Sendmail would add AUTH= to its MAIL, which aiosmtpd offers and then refuses.
            made: asyncio.Protocol = SMTP(
                handler,
                hostname=handler.host,
                tls_context=context,
                auth_exclude_mechanism=["LOGIN", "PLAIN"],
                loop=loop,
            )
            return made

        await loop.create_server(session, receiver["address"], 25)

    contexts = {host: server_context(pem) for host, pem in description["policy_pems"].items()}
    policies: dict[str, str] = description["policies"]
    front = server_context(next(iter(description["policy_pems"].values())))

    def choose(connection: ssl.SSLObject, name: str, _context: ssl.SSLContext) -> int | None:
        if name not in contexts:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = contexts[name]
        return None

    front.sni_callback = choose
    await asyncio.start_server(
        lambda r, w: answer_policy(r, w, policies), description["policy_address"], 443, ssl=front
    )
    print("ready", flush=True)
    await loop.create_future()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(Path(sys.argv[1]).read_text())))
