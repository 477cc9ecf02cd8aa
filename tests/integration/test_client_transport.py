"""Ways to a gateway: through proxies, and with certificates of its own."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentray.client import AsyncAgentClient, ConnectionFailed
from tests.support.patience import fails_in_time

Asked = list[str]


@asynccontextmanager
async def answering(asked: Asked, tls: ssl.SSLContext | None = None) -> AsyncGenerator[str]:
    """Serve an empty page of runs, and note what was asked. It takes absolute URLs, as a proxy."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).decode().strip())
        while (await reader.readline()).strip():
            pass
        body = json.dumps({"runs": [], "next": None}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def certificate(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """Make a certificate for 127.0.0.1 that signs itself; return a server and its file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway of a test")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file, private = directory / "ca.pem", directory / "key.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, private)
    return context, file


async def test_a_certificate_of_its_own_is_trusted_where_it_is_named(tmp_path: Path):
    context, file = certificate(tmp_path)
    asked: Asked = []
    async with answering(asked, context) as url:
        async with AsyncAgentClient(url, "k", ca=file) as client:
            assert (await client.runs()).runs == []
        trust = ssl.create_default_context(cafile=str(file))
        async with AsyncAgentClient(url, "k", ca=trust) as client:
            assert (await client.runs()).runs == []

        async def without(timeout: float) -> None:
            async with AsyncAgentClient(url, "k", timeout=timeout) as client:
                await client.runs()

        await fails_in_time(ConnectionFailed, without, "CERTIFICATE_VERIFY_FAILED")
    assert len(asked) == 2


async def test_a_proxy_is_asked_instead(monkeypatch: pytest.MonkeyPatch):
    through: Asked = []
    direct: Asked = []
    async with answering(through) as proxy, answering(direct) as url:
        async with AsyncAgentClient("http://gateway.example/agents", "k", proxy=proxy) as client:
            assert (await client.runs(limit=1)).runs == []
        assert through == ["GET http://gateway.example/agents/v1/runs?limit=1 HTTP/1.1"]
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with AsyncAgentClient("http://other.example", "k") as client:
            await client.runs()
        assert through[-1].startswith("GET http://other.example/v1/runs")
        async with AsyncAgentClient(url, "k") as client:  # this machine needs none
            await client.runs()
    assert (len(through), len(direct)) == (2, 1)
