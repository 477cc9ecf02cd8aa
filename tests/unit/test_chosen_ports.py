"""Ports of a local cluster that nobody names are chosen so that they are still free when bound."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agentray.runtime import local_cluster


def test_they_are_none_that_a_connection_may_get_meanwhile() -> None:
    chosen = {local_cluster.free_port() for _ in range(200)}
    by_chance = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if by_chance.exists():
        lowest, highest = map(int, by_chance.read_text().split())
        assert not chosen & set(range(lowest, highest + 1))
    assert len(chosen) > 150, "two that choose at once seldom choose the same"


def test_one_that_is_taken_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(local_cluster, "_NAMED_PORTS", range(port, port + 1))
        assert local_cluster.free_port() != port
