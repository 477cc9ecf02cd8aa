"""An event with many recipients: serialised once by its sender, and read once by each host.

One that can be changed is read once by each recipient.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest
from pydantic import BaseModel

from agentray import Agent, App, Event, action, on, payloads
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async

RECIPIENTS = 12
counted: Counter[str] = Counter()


class Cargo(BaseModel, frozen=True):
    """Counts how often it is loaded and unloaded."""

    name: str


class Open(BaseModel):
    """Cargo that whoever gets it can change."""

    cargo: Cargo


def _load(cargo: Cargo) -> str:
    counted[f"loaded {cargo.name}"] += 1
    return cargo.name


def _unload(name: str) -> Cargo:
    counted[f"unloaded {name}"] += 1
    return Cargo(name=name)


payloads.register(Cargo, encode=_load, decode=_unload)


class Shipped(Event):
    cargo: Cargo
    opened: Open | None = None


class Ship(Agent):
    @action
    async def leave(self, *names: str, opened: bool = False) -> None:
        for name in names:
            cargo = Cargo(name=name)
            self.context.publish(Shipped(cargo=cargo, opened=Open(cargo=cargo) if opened else None))


class Port(Agent):
    arrived: ClassVar[list[tuple[str, str, int]]] = []

    async def note(self, shipped: Shipped) -> None:
        self.arrived.append((self.id.key, shipped.cargo.name, id(shipped)))


def port(number: int) -> type[Agent]:
    async def note(self: Port, shipped: Shipped) -> None:
        await Port.note(self, shipped)

    note.__name__ = "arrive"
    body = {"arrive": on(Shipped, key=f"key:{number}")(note), "__module__": __name__}
    return type(f"Port{number}", (Port,), body)


@pytest.mark.parametrize("opened", [False, True])
async def test_it_is_serialised_once_and_read_once_by_each_host(opened: bool) -> None:
    Port.arrived.clear()
    counted.clear()
    ports = [port(number) for number in range(RECIPIENTS)]
    async with LocalRuntime(hosts=3) as manager:
        await manager.deploy(App("harbour", [Ship, *ports]))
        await manager.handle(Ship, "s").leave("tea", "wool", opened=opened)

        async def there() -> bool:
            return len(Port.arrived) == 2 * RECIPIENTS

        await eventually_async(there)
    for cargo in ("tea", "wool"):
        assert counted[f"loaded {cargo}"] == 1
        # Not by the host that sent it; what can be changed is read by each, and by its sender.
        assert counted[f"unloaded {cargo}"] <= (RECIPIENTS + 1 if opened else 2)
        assert {key for key, name, _ in Port.arrived if name == cargo} == {
            str(number) for number in range(RECIPIENTS)
        }
        different = len({event for _, name, event in Port.arrived if name == cargo})
        assert opened or different <= 3
