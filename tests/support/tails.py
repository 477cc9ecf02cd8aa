"""Follows the log of a job as a client does, and puts the file together again."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.support.gateway import KEY, Http, Json


class Rebuilt:
    """The file, put together again from frames as a client does it, over any number of streams."""

    def __init__(self, offset: int = 0, *, most: int = 10_240) -> None:
        self._most = most
        self.begin = self.next = offset
        self._data: bytearray = bytearray()
        self.others: list[Json] = []
        self.end: Json | None = None

    def take(self, text: str) -> None:
        frame: Json = json.loads(text)
        assert len(text) < self._most
        if frame["type"] == "end":
            assert self.end is None
            self.end = frame
        if frame["type"] not in {"lines", "text"}:
            self.others.append(frame)
            return
        assert frame["offset"] == self.next
        self._data += frame.get("text", "").encode()
        for entry in frame.get("lines", ()):
            offset, shown, flag = int(entry[0]), str(entry[1]), "".join(entry[2:])
            assert offset == self.begin + len(self._data)
            self._data += base64.b64decode(shown) if "b" in flag else shown.encode()
            self._data += b"" if "+" in flag else b"\n"
        self.next = self.begin + len(self._data)
        assert frame["next"] == self.next

    @property
    def data(self) -> bytes:
        return bytes(self._data)

    @property
    def reason(self) -> str:
        assert self.end is not None
        return self.end["reason"]


async def tail(
    http: Http,
    protocol: str,
    job_id: str = "a",
    rebuilt: Rebuilt | None = None,
    *,
    key: str = KEY,
    **query: Any,
) -> Rebuilt:
    """Follow a log to its end, as frames unless the query says otherwise."""
    rebuilt = rebuilt or Rebuilt(query.get("offset", 0))
    params = {"format": "frames", **{name: str(value) for name, value in query.items()}}
    base = f"{http.url}/v1/jobs/{job_id}/logs"
    headers = {"Authorization": f"Bearer {key}"}
    if protocol == "http":
        url = f"{base}/stream"
        async with http.session.get(url, params=params, headers=headers) as answer:
            assert answer.status == 200
            async for line in answer.content:
                rebuilt.take(line.decode())
    else:
        async with http.session.ws_connect(f"{base}/", params=params, headers=headers) as socket:
            async for message in socket:
                rebuilt.take(message.data)
    return rebuilt
