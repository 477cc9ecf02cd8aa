"""HAProxy as Serve configures it and we mend it: what is answered for a replica that dies.

The real program, with a configuration of Serve's own template; replicas are plain sockets.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp

from agentray.runtime.local_cluster import serve_environment
from tests.support.cluster import free_port, make_home, remove_home
from tests.support.eventually import eventually_async

_CONFIGURE = """
import json, sys
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

told = json.loads(sys.argv[1])
config = HAProxyConfig(
    http_options=HTTPOptions(host="127.0.0.1", port=told["port"]),
    has_received_routes=True,
    has_received_servers=True,
)
servers = [ServerConfig(**server) for server in told["servers"]]
backend = BackendConfig(name="app", path_prefix="/", app_name="app", servers=servers)
HAProxyApi(config, {"app": backend}, told["file"])._generate_config_file_internal()
"""
"""What Serve does before it starts its program."""


class Replica:
    """Answers each request with its name; one that is `dying` hangs up instead."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dying = False
        self.asked: list[str] = []

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := (await reader.readuntil(b"\r\n")).decode():
                headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = headers.partition("content-length: ")[2].split("\r\n")[0]
                await reader.readexactly(int(length or 0))
                if "/-/healthz" not in line:
                    self.asked.append(line.rpartition(" ")[0])
                    if self.dying:
                        return
                body = self.name.encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        except (OSError, EOFError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def proxied(*replicas: Replica) -> AsyncGenerator[str]:
    """Serve replicas behind HAProxy, which is started as Serve starts it; yields its URL."""
    directory = make_home()
    environment = serve_environment(directory)
    program = environment["RAY_SERVE_HAPROXY_BINARY_PATH"]
    port = free_port()
    servers = [await asyncio.start_server(replica.take, "127.0.0.1", 0) for replica in replicas]
    file = environment["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]
    told = {
        "file": file,
        "port": port,
        "servers": [
            {"name": replica.name, "host": "127.0.0.1", "port": at.sockets[0].getsockname()[1]}
            for replica, at in zip(replicas, servers, strict=True)
        ],
    }
    # Ray's modules are not written for a process in which warnings are errors.
    env = {**os.environ, **environment}
    writing = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CONFIGURE, json.dumps(told), env=env
    )
    assert await writing.wait() == 0
    process = await asyncio.create_subprocess_exec(
        program, "-db", "-f", file, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session:

            async def listens() -> bool:
                try:
                    async with session.get(f"{url}/-/healthz") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            await eventually_async(listens, timeout_s=20)
        yield url
    finally:
        process.kill()
        await process.wait()
        for server in servers:
            server.close()
        remove_home(directory)


_CASES = [  # a request, whether it bears a key, whether it is repeated at another replica
    ("POST", "/v1/prompts", True, True),
    ("POST", "/agents/v1/responses/", True, True),
    ("POST", "/repo/v1/agent/chat/async/start", True, True),
    ("GET", "/v1/runs/run_1", False, True),
    ("POST", "/v1/prompts", False, False),
    ("POST", "/v1/sessions", True, False),
    ("DELETE", "/v1/sessions/s", False, False),
]


async def test_what_a_dying_replica_was_asked_goes_to_another_where_that_does_no_harm():
    dying, other = Replica("dying"), Replica("other")
    dying.dying = True
    async with proxied(dying, other) as url, aiohttp.ClientSession() as session:
        for method, path, keyed, repeated in _CASES:
            dying.asked.clear()
            other.asked.clear()
            told: list[tuple[int, str]] = []
            how: tuple[str, str | None] = ("", None)
            headers = {"Idempotency-Key": "k"} if keyed else {}
            while not dying.asked:  # HAProxy chooses
                async with session.request(
                    method, url + path, data=b"x" * 4000, headers=headers
                ) as answer:
                    told.append((answer.status, await answer.text()))
                    how = answer.content_type, answer.headers.get("Retry-After")
            assert dying.asked == [f"{method} {path}"]
            if repeated:
                assert set(told) == {(200, "other")}, (method, path)
                assert len(other.asked) == len(told)
            else:
                assert told[-1][0] == 503, (method, path)
                assert how == ("application/problem+json", "1")
                assert set(told[:-1]) <= {(200, "other")}
                assert len(other.asked) == len(told) - 1
        other.dying = True  # and now there is nobody left
        async with session.get(f"{url}/v1/runs") as answer:
            assert (answer.status, answer.content_type) == (503, "application/problem+json")
            problem = await answer.json()
        assert (problem["status"], problem["type"]) == (503, "urn:agentray:problem:unavailable")
