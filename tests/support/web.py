"""What curl does, against a running gateway."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp

Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An answer whose body is JSON; of one that is an error, it is checked that it is a problem."""

    status: int
    body: Json
    headers: dict[str, str]


class SseEvent(NamedTuple):
    """One event of a stream."""

    id: str
    kind: str
    data: Json


class Web:
    """Talks plain HTTP to a gateway."""

    def __init__(self, url: str, key: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._key = key
        self._session = session

    async def ask(
        self,
        method: str,
        path: str,
        *,
        json_body: Json | None = None,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request; an `Authorization` of "" sends none."""
        sent = self._headers(headers)
        if json_body is not None:
            data, sent = (
                json.dumps(json_body).encode(),
                {"Content-Type": "application/json", **sent},
            )
        file = None if data is None else io.BytesIO(data)  # aiohttp warns of large bytes
        request = self._session.request(method, self.url + path, data=file, headers=sent)
        async with request as response:
            body = await response.json(content_type=None)
            answer = Answer(
                response.status, body, {k.lower(): v for k, v in response.headers.items()}
            )
            if answer.status >= 400:
                assert response.content_type == "application/problem+json", answer
                assert body["status"] == answer.status
                assert {"type", "title", "detail"} <= body.keys()
            return answer

    async def get(self, path: str, **headers: str) -> Answer:
        """Send a GET."""
        return await self.ask("GET", path, headers=headers)

    async def prompt(
        self, text: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> Answer:
        """Give a prompt; `more` are further fields of the body."""
        body = {"prompt": text, **more}
        return await self.ask("POST", "/v1/prompts", json_body=body, headers=headers)

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, json_body: Json | None = None, **headers: str
    ) -> AsyncGenerator[tuple[aiohttp.ClientResponse, AsyncGenerator[SseEvent]]]:
        """Open a stream of events: the head of the answer, and the events as they come."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(
            method, self.url + path, json=json_body, headers=self._headers(named)
        ) as response:
            assert (response.status, response.content_type) == (200, "text/event-stream")
            yield response, _events(response)

    def _headers(self, headers: dict[str, str] | None) -> dict[str, str]:
        sent = {"Authorization": f"Bearer {self._key}", **(headers or {})}
        return {name: value for name, value in sent.items() if value}


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[SseEvent]:
    fields: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif not line and fields:
            yield SseEvent(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}
