"""The HTTP API of a running daemon, byte by byte where bytes matter."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from smtp_sts.config import Config, TcpAddress, UnixAddress, listeners, parse
from smtp_sts.lab.world import World
from smtp_sts.mta.client import ask, explain
from smtp_sts.web import openapi

from .process import COMMAND, daemon, told, until, workers_of

HEAD = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
JSON = "application/json"


def config_of(world: World, workers: int = 1, **policy: object) -> tuple[Path, Path]:
    """A configuration whose daemon speaks HTTP on a unix socket, and that socket."""
    http = world.home / "http.sock"
    settings: dict[str, object] = {
        "workers": workers,
        "listen": f"unix:{world.socket_path}",
        "listen_http": f"unix:{http}",
    }
    return world.config_toml(policy=settings | policy, log={"level": "debug"}), http


async def say(path: Path, data: bytes, *, limit: float = 8.0) -> bytes:
    """What comes back, up to the end of file, for these bytes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(data)
        async with asyncio.timeout(limit):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


class Got(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)


def read(raw: bytes) -> Got:
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Got(int(status.split()[1]), headers, body)


async def get(path: Path, target: str, method: str = "GET") -> Got:
    return read(await say(path, f"{method} {target}".encode() + HEAD))


def test_the_answer_is_that_of_query_json_and_of_the_types_it_is_described_by() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example", mx=["mx.bob.example", "*.bob.example"])
            await world.publish("carol.example", mode="testing")
            await world.publish("xn--bcher-kva.example")
            config, http = config_of(world, 2)
            with daemon(config, world.socket_path):
                for asked, domain, outcome in (
                    ("bob.example", "bob.example", "enforce"),
                    ("BOB.example.", "bob.example", "enforce"),
                    ("[bob.example]:587", "bob.example", "enforce"),
                    ("%5Bbob.example%5D%3a587", "bob.example", "enforce"),
                    ("bob.example?mode=none", "bob.example", "enforce"),
                    ("b%C3%BCcher.example", "xn--bcher-kva.example", "enforce"),
                    ("carol.example", "carol.example", "testing"),
                    ("nobody.example", "nobody.example", "no-policy"),
                ):
                    got = await get(http, f"/v1/policy/{asked}")
                    assert (got.status, got.headers["content-type"]) == (200, JSON), asked
                    answer = msgspec.convert(got.data, openapi.Answer)
                    assert (answer.policy_domain, answer.outcome) == (domain, outcome), asked
                server = UnixAddress(str(world.socket_path))
                same = await explain(server, "bob.example")
                assert (await get(http, "/v1/policy/bob.example")).data == same
                command = [*COMMAND, "query", "--json", "--server", str(server), "bob.example"]
                shown = await asyncio.to_thread(subprocess.check_output, command)
                assert json.loads(shown) == same
                health = msgspec.convert((await get(http, "/v1/health")).data, openapi.Health)
                assert (health.status, health.store) == ("ok", "ok")

    asyncio.run(play())


def test_the_description_is_whole_and_true() -> None:
    async def play() -> None:
        async with World() as world:
            config, http = config_of(world)
            with daemon(config, world.socket_path):
                got = await get(http, "/v1/openapi.json")
                document: Any = got.data
                assert document["openapi"] == "3.1.0"
                schemas = document["components"]["schemas"]
                references = set()
                nodes: list[object] = [document]
                while nodes:
                    node = nodes.pop()
                    nodes += node.values() if isinstance(node, dict) else []
                    nodes += node if isinstance(node, list) else []
                    if isinstance(node, dict) and "$ref" in node:
                        references.add(node["$ref"])
                assert references == {f"#/components/schemas/{name}" for name in schemas}
                answer = (await get(http, "/v1/policy/nobody.example")).data
                assert set(schemas["Answer"]["properties"]) == set(answer)
                for path in document["paths"]:
                    target = path.replace("{next_hop}", "nobody.example")
                    assert set(document["paths"][path]) == {"get", "head"}
                    for method in ("GET", "HEAD"):
                        assert (await get(http, target, method)).status == 200

    asyncio.run(play())


#: target -> status and slug
REFUSED = {
    "/v1/policy/": (400, "next-hop-invalid"),
    "/v1/policy/192.0.2.1": (400, "next-hop-address"),
    "/v1/policy/[IPv6:2001:db8::1]": (400, "next-hop-address"),
    "/v1/policy/.example": (400, "next-hop-parent"),
    "/v1/policy/a..example": (400, "next-hop-invalid"),
    "/v1/policy/%ff.example": (400, "next-hop-invalid"),
    "/v1/policy/%00.example": (400, "next-hop-invalid"),
    "/v1/policy/a%0d%0aX-Evil:%20b.example": (400, "next-hop-address"),
    "/v1/policy/%zz.example": (400, "next-hop-invalid"),
    "/v1/policy/a%2fb.example": (400, "next-hop-invalid"),
    "/v1/policy/" + "x." * 2000: (400, "next-hop-too-long"),
    "/v1/policy/" + "x." * 5000: (431, "request-too-large"),
    "/v1/policy/bob.example/": (404, "unknown-path"),
    "/v1/policy": (404, "unknown-path"),
    "/v1/policy/../health": (404, "unknown-path"),
    "/": (404, "unknown-path"),
    "/" + "x" * 3000: (404, "unknown-path"),
}


def test_refusals_are_json_and_the_connection_goes_on() -> None:
    async def play() -> None:
        async with World() as world:
            config, http = config_of(world)
            with daemon(config, world.socket_path):
                for target, wanted in REFUSED.items():
                    got = await get(http, target)
                    error = msgspec.convert(got.data, openapi.Error)
                    assert (got.status, error.error) == wanted, target[:60]
                    assert got.headers["content-type"] == JSON
                    assert "x-evil" not in got.headers
                    assert len(error.message) < 250
                for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
                    got = await get(http, "/v1/health", method)
                    assert (got.status, got.headers["allow"]) == (405, "GET, HEAD"), method
                    assert got.data["error"] == "method-not-allowed"
                    assert (await get(http, "/v1/nothing", method)).status == 404
                head = await get(http, "/v1/policy/a..example", "HEAD")
                assert (head.status, head.body) == (400, b"")
                head = await get(http, "/v1/policy/nobody.example", "HEAD")
                await get(http, "/v1/policy/nobody.example")
                whole = await get(http, "/v1/policy/nobody.example")
                head = await get(http, "/v1/policy/nobody.example", "HEAD")
                assert (head.body, head.headers["content-length"]) == (b"", str(len(whole.body)))

                line = b"%s /v1/policy/a..example HTTP/1.1\r\nHost: x\r\n\r\n"
                many = line % b"GET" + line % b"POST" + line % b"HEAD" + b"GET /v1/health" + HEAD
                raw = await say(http, many)
                assert raw.count(b"HTTP/1.1 400") == 2
                assert raw.count(b"HTTP/1.1 405") == 1
                assert raw.count(b"HTTP/1.1 200") == 1

    asyncio.run(play())


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"19:postfix bob.example,",
    b"\0" * 100,
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nA\x01: b\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100 + b"\r\n",
    b"GET / HTTP/1.1\r\nA: " + b"x" * 9000 + b"\r\n\r\n",
    b"POST /v1/health HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
]
POST = b"POST /v1/health HTTP/1.1\r\nHost: x\r\n"


def test_law_7_garbage_ends_its_connection_alone_and_bodies_are_bounded() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            config, http = config_of(world)
            with daemon(config, world.socket_path) as process:
                until(lambda: len(workers_of(process)) == 1)
                workers = workers_of(process)
                for garbage in GARBAGE:
                    got = read(await say(http, garbage, limit=2))
                    assert got.status in (400, 431), garbage[:40]
                    assert msgspec.convert(got.data, openapi.Error).error in (
                        "bad-http",
                        "request-too-large",
                    )
                begun = time.monotonic()
                slow, large, small = await asyncio.gather(
                    say(http, POST + b"Content-Length: 50\r\n\r\nhello"),
                    say(http, POST + b"Content-Length: 99999999\r\n\r\n" + b"x" * 200_000),
                    say(http, POST + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello"),
                )
                assert read(slow).data["error"] == "body-too-slow"
                assert time.monotonic() - begun < 4
                assert large == b"" or read(large).data["error"] == "body-too-large"
                assert read(small).status == 405
                expecting = POST + b"Content-Length: 50\r\nExpect: 100-continue\r\n\r\n"
                assert read(await say(http, expecting, limit=1)).status == 405

                _, half = await asyncio.open_unix_connection(str(http))
                half.write(b"GET /v1/hea")
                await half.drain()
                half.close()
                answer = await get(http, "/v1/policy/bob.example")
                assert answer.data["outcome"] == "enforce"
                assert workers_of(process) == workers
                log = await asyncio.to_thread(told, process)
                assert f"bad-http {len(GARBAGE)}" in log
                assert "unfinished-requests 1" in log
                assert "Traceback" not in log

    asyncio.run(play())


def test_law_6_a_domain_that_never_answers_is_let_through_in_time() -> None:
    async def play() -> None:
        async with World() as world:
            world.names.spoil("_mta-sts.silent.example", "timeout")
            config, http = config_of(world)
            with daemon(config, world.socket_path):
                begun = time.monotonic()
                got, health = await asyncio.gather(
                    get(http, "/v1/policy/silent.example"), get(http, "/v1/health")
                )
                assert time.monotonic() - begun < 5
                assert (got.status, got.data["outcome"]) == (200, "no-policy")
                assert got.data["replies"]["postfix"] == "NOTFOUND "
                assert health.status == 200

    asyncio.run(play())


def test_a_drain_answers_what_was_asked_and_ends_soon() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            world.names.spoil("_mta-sts.silent.example", "timeout")
            config, http = config_of(world)
            with daemon(config, world.socket_path) as process:
                idle_reader, idle = await asyncio.open_unix_connection(str(http))
                kept_reader, kept = await asyncio.open_unix_connection(str(http))
                kept.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b"degraded" not in await kept_reader.readuntil(b"}")
                busy_reader, busy = await asyncio.open_unix_connection(str(http))
                busy.write(b"GET /v1/policy/silent.example HTTP/1.1\r\nHost: x\r\n\r\n")
                await asyncio.sleep(0.2)
                begun = time.monotonic()
                process.terminate()
                assert await asyncio.to_thread(process.wait, 5) == 0
                assert time.monotonic() - begun < 2.5
                assert read(await busy_reader.read()).data["reason"] == "discovery-timeout"
                assert await idle_reader.read() == b""
                for writer in (idle, kept, busy):
                    writer.close()
                assert not http.exists()

    asyncio.run(play())


def test_tcp_two_workers_and_their_memory() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            config, http = config_of(
                world, 2, listen_http=[f"127.0.0.1:{port}", f"unix:{world.home / 'http.sock'}"]
            )

            def fetch(_: int) -> str:
                url = f"http://127.0.0.1:{port}/v1/policy/bob.example"
                with urllib.request.urlopen(url, timeout=5) as answer:
                    outcome: str = json.load(answer)["outcome"]
                return outcome

            with daemon(config, world.socket_path) as process:
                got = await asyncio.gather(*(asyncio.to_thread(fetch, n) for n in range(20)))
                assert set(got) == {"enforce"}
                assert world.policy_hosts.fetches["mta-sts.bob.example"] == 1
                for pid in workers_of(process):
                    status = Path(f"/proc/{pid}/status").read_text()
                    kilobytes = int(status.partition("VmRSS:")[2].split()[0])
                    assert kilobytes < 120_000

                text = config.read_text().replace("listen_http", "# listen_http")
                config.write_text(text)
                os.kill(process.pid, signal.SIGHUP)
                await asyncio.to_thread(until, lambda: not http.exists())

    asyncio.run(play())


def test_systemd_hands_over_an_http_socket_by_its_name() -> None:
    async def play() -> None:
        async with World() as world:
            config, http = config_of(world)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(http))
                listener.listen()
                code = (
                    "import os,sys;"
                    f"os.dup2({listener.fileno()},3);os.set_inheritable(3,True);"
                    "os.environ.update(LISTEN_PID=str(os.getpid()),LISTEN_FDS='1',"
                    "LISTEN_FDNAMES='http');"
                    f"os.execv(sys.executable,{[*COMMAND, '--config', str(config), 'serve']!r})"
                )
                process = subprocess.Popen(
                    [COMMAND[0], "-P", "-c", code],
                    pass_fds=[listener.fileno()], stderr=subprocess.PIPE, text=True,
                )  # fmt: skip
            try:
                got = await get(http, "/v1/health")
                assert got.data["status"] == "ok"
            finally:
                await asyncio.to_thread(told, process)

    asyncio.run(play())


def test_aiohttp_is_loaded_only_where_somebody_listens() -> None:
    def loads(process: subprocess.Popen[str]) -> bool:
        return "aiohttp" in Path(f"/proc/{workers_of(process)[0]}/maps").read_text()

    async def play() -> None:
        async with World() as world:
            config, _ = config_of(world, listen_http="")
            with daemon(config, world.socket_path) as process:
                assert await ask(UnixAddress(str(world.socket_path)), "postfix", "nobody.example")
                assert not loads(process)
            config, http = config_of(world)
            with daemon(config, world.socket_path) as process:
                assert await ask(UnixAddress(str(world.socket_path)), "postfix", "nobody.example")
                assert (await get(http, "/v1/health")).status == 200
                assert loads(process)

    asyncio.run(play())


def test_the_configuration_names_http_listeners() -> None:
    assert "http" not in listeners(Config()).values()
    found = listeners(parse('[policy]\nlisten_http = ["127.0.0.1:8464", "unix:/run/h"]'))
    assert found[TcpAddress("127.0.0.1", 8464)] == "http"
    assert found[UnixAddress("/run/h")] == "http"
