"""The way to a host on the same machine: a Unix socket, past Ray.

A call of a Ray actor costs about 1 ms of CPU on each side whatever it carries; a request here a few
hundredths of that. It carries the same frames: where a socket fails, the link repeats the request,
and Ray carries it. Only between processes of one machine and one user: the socket's name is in the
abstract namespace of Linux, which is on no network and leaves no file behind, and both sides ask
the kernel who the other one is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from agentray.protocol.envelope import Packet
from agentray.runtime.ports import HostUnreachable
from agentray.runtime.tasks import TaskSet

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("<QBI")
"""Of each request and response: number of the request, what it is, how many parts it has."""

_SIZE = struct.Struct("<Q")
"""Of each part, after the header and before the first part."""

_DELIVER, _COLLECT = 1, 2  # requests
_DONE, _FAILED = 0, 1  # responses

Answering = Callable[[Packet], Awaitable[Packet]]

_PEER = struct.Struct("3i")  # process, user, group


def _name_of(host_id: str) -> str:
    return f"\0agentray/{host_id}"


def _new_socket() -> socket.socket:
    # Made here, because uvloop refuses such names where it is to make the socket by itself.
    made = socket.socket(socket.AF_UNIX)
    made.setblocking(False)
    return made


def _is_ours(connection: socket.socket) -> bool:
    """Whether the other side is a process of the same user."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return _PEER.unpack(peer)[1] == os.getuid()


class _Packets(asyncio.Protocol):
    """Cuts what comes into packets."""

    def __init__(self) -> None:
        self._rest = bytearray()  # the beginning of a packet that has not come whole
        self._awaited = 0  # bytes of it that are known to be needed
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if not self._rest:
            self._rest = bytearray(data[self._take(data) :])
            return
        self._rest += data
        if len(self._rest) >= self._awaited:
            whole, self._rest = bytes(self._rest), bytearray()
            self._rest += whole[self._take(whole) :]

    def _take(self, data: bytes) -> int:
        """Take the packets that are whole; return how many bytes these were."""
        start = 0
        while len(data) - start >= _HEADER.size:
            number, what, count = _HEADER.unpack_from(data, start)
            at = start + _HEADER.size + _SIZE.size * count
            if len(data) < at:
                break
            sizes = [
                _SIZE.unpack_from(data, start + _HEADER.size + _SIZE.size * index)[0]
                for index in range(count)
            ]
            if len(data) < at + sum(sizes):
                self._awaited = at + sum(sizes) - start
                return start
            parts: list[Any] = []
            for size in sizes:
                parts.append(data[at : at + size])
                at += size
            self.packet_received(number, what, parts if count > 1 else parts[0])
            start = at
        self._awaited = 0
        return start

    def packet_received(self, number: int, what: int, packet: Packet) -> None:
        """Take one packet."""
        raise NotImplementedError

    def write(self, number: int, what: int, packet: Packet) -> None:
        """Send one packet."""
        if self.transport is None or self.transport.is_closing():
            return
        if isinstance(packet, bytes):
            header = _HEADER.pack(number, what, 1) + _SIZE.pack(len(packet))
            self.transport.write(header + packet)
            return
        views = [memoryview(part).cast("B") for part in packet]
        header = _HEADER.pack(number, what, len(views))
        sizes = b"".join(_SIZE.pack(view.nbytes) for view in views)
        self.transport.writelines([header + sizes, *views])


def nbytes(packet: Packet) -> int:
    """Return how many bytes a packet has."""
    if isinstance(packet, bytes):
        return len(packet)
    return sum(memoryview(part).nbytes for part in packet)


# The host's side


class SocketServer:
    """Serves a host to processes of this machine."""

    def __init__(self, deliver: Answering, collect: Answering) -> None:
        """Make one; `start` lets it serve.

        Args:
            deliver: the host's, see `ports.HostPort`.
            collect: the host's.
        """
        self._methods: Mapping[int, Answering] = {_DELIVER: deliver, _COLLECT: collect}
        self._server: asyncio.Server | None = None
        self._connections: set[_Served] = set()

    async def start(self, host_id: str) -> None:
        """Begin to listen; elsewhere than on Linux there is nothing to listen at."""
        if sys.platform != "linux":
            return
        listening = _new_socket()
        listening.bind(_name_of(host_id))
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: _Served(self._methods, self._connections), sock=listening
        )

    def close(self) -> None:
        """Take no more requests; those that are under way are not answered."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close()


class _Served(_Packets):
    """One connection, on the host's side."""

    def __init__(self, methods: Mapping[int, Answering], all_: set[_Served]) -> None:
        super().__init__()
        self._methods = methods
        self._all = all_
        self._tasks = TaskSet("machine socket")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection of the same user; refuse any other."""
        if not _is_ours(transport.get_extra_info("socket")):
            logger.warning("another user is refused", extra={"action": "peer_refused"})
            cast("asyncio.Transport", transport).abort()
            return
        super().connection_made(transport)
        self._all.add(self)

    def packet_received(self, number: int, what: int, packet: Packet) -> None:
        """Begin to serve a request."""
        self._tasks.spawn(self._serve(number, what, packet))

    async def _serve(self, number: int, what: int, packet: Packet) -> None:
        try:
            self.write(number, _DONE, await self._methods[what](packet))
        except Exception as error:  # noqa: BLE001 - the other side hears of it, and asks through Ray
            self.write(number, _FAILED, f"{type(error).__name__}: {error}".encode())

    def connection_lost(self, exc: Exception | None) -> None:
        """End what waits for nobody; messages that were accepted go on."""
        del exc
        self._all.discard(self)
        self._tasks.cancel()

    def close(self) -> None:
        """End the connection."""
        if self.transport is not None:
            self.transport.abort()


# The sender's side


class SocketPort(_Packets):
    """A host of this machine, as seen from another process."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0
        self._waiting: dict[int, asyncio.Future[Packet]] = {}
        self.lost = False

    @classmethod
    async def connect(cls, host_id: str) -> SocketPort | None:
        """Return the way to a host; None: it is not on this machine, or not this user's."""
        if sys.platform != "linux":
            return None
        loop = asyncio.get_running_loop()
        connection = _new_socket()
        try:
            await loop.sock_connect(connection, _name_of(host_id))
        except OSError:
            connection.close()
            return None
        if not _is_ours(connection):
            connection.close()
            return None
        _, port = await loop.create_unix_connection(cls, sock=connection)
        return port

    async def deliver(self, packet: Packet) -> Packet:
        """See `ports.HostPort`."""
        return await self._request(_DELIVER, packet)

    async def collect(self, packet: Packet) -> Packet:
        """See `ports.HostPort`."""
        return await self._request(_COLLECT, packet)

    async def _request(self, what: int, packet: Packet) -> Packet:
        if self.lost:
            raise HostUnreachable("The connection to it was lost.")
        self._next += 1
        number = self._next
        answer: asyncio.Future[Packet] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self.write(number, what, packet)
            return await answer
        finally:
            self._waiting.pop(number, None)

    def packet_received(self, number: int, what: int, packet: Packet) -> None:
        """Take a response."""
        answer = self._waiting.get(number)
        if answer is None or answer.done():
            return  # given up meanwhile
        if what == _DONE:
            answer.set_result(packet)
        else:
            answer.set_exception(HostUnreachable(cast("bytes", packet).decode()))

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the link ask again, through Ray, which knows whether the host has died."""
        self.lost = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(HostUnreachable(f"The connection to it was lost: {exc}"))

    def close(self) -> None:
        """End the connection."""
        if self.transport is not None:
            self.transport.abort()
