"""The command: `python -m tests.chaos.run --seed 7 --seconds 120`, or `make chaos ARGS="…"`.

Drives load on a cluster of its own, kills at random, and judges what was told by what is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import agentray
from agentray import ManagerClient
from agentray.store.base import Store
from agentray.store.embedded import EmbeddedPostgres
from agentray.store.memory import MemoryStore
from agentray.store.postgres import PostgresStore
from agentray.testing import LocalRuntime
from agentray.testing import run as run_in_virtual_time
from tests.chaos.agents import app
from tests.chaos.blows import CLUSTER, LOCAL, Blow, plan
from tests.chaos.fists import ClusterFists, LocalFists
from tests.chaos.history import broken_promises
from tests.chaos.load import Load
from tests.chaos.reading import read_back
from tests.support.cluster import Cluster, running_cluster, until_complete
from tests.support.outage import Outage

_AFTERWARDS_S = 120.0
"""How long runs may take to their ends when all is quiet again."""

_SHOWN = 20


class Fists(Protocol):
    """Who deals blows."""

    async def deal(self, blow: Blow) -> str:
        """Do it, and say what was done; "" when there was nobody to do it to."""
        ...

    async def rest(self) -> None:
        """Undo what lasts."""
        ...


@dataclass(slots=True)
class Verdict:
    """What one chaos came to.

    Attributes:
        seed: from which it can be had again.
        found: broken promises, each in one sentence.
        dealt: how often each thing happened.
        done: how often each kind of load had success.
        errors: how often each error was told.
        runs: that were accepted.
    """

    seed: int
    found: list[str] = field(default_factory=list[str])
    dealt: Counter[str] = field(default_factory=Counter[str])
    done: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    runs: int = 0

    def table(self) -> str:
        """Say it in a few lines."""
        lines = [f"seed {self.seed}: {self.runs} runs accepted"]
        for title, counted in (
            ("happened", self.dealt),
            ("succeeded", self.done),
            ("errors told", self.errors),
        ):
            lines.append(f"  {title}:")
            lines += [f"    {what:<24}{many:>7}" for what, many in sorted(counted.items())]
        lines.append(f"  broken promises: {len(self.found)}")
        lines += [f"    {what}" for what in self.found[:_SHOWN]]
        if len(self.found) > _SHOWN:
            lines.append(f"    and {len(self.found) - _SHOWN} more")
        return "\n".join(lines)


async def chaos(
    load: Load,
    fists: Fists,
    blows: list[Blow],
    seconds: float,
    until_whole: Callable[[], Awaitable[object]],
    tell: Callable[[str], None] = print,
) -> Verdict:
    """Let things happen while there is load, then wait until all is whole and quiet again.

    Args:
        load: is started and stopped.
        fists: deal the blows.
        blows: in their order.
        seconds: that it lasts.
        until_whole: returns when the cluster is complete; an AssertionError is a broken promise.
        tell: is told what happens.
    """
    loop = asyncio.get_running_loop()
    verdict = Verdict(0)
    begin = loop.time()
    load.start()
    try:
        for blow in blows:
            await asyncio.sleep(max(0.0, begin + blow.at_s - loop.time()))
            what = await fists.deal(blow)
            tell(f"{loop.time() - begin:6.1f} s  {blow.what}: {what or 'there is none'}")
            verdict.dealt[blow.what] += bool(what)
        await asyncio.sleep(max(0.0, begin + seconds - loop.time()))
    finally:
        await fists.rest()
        try:
            await until_whole()
        except AssertionError as error:
            verdict.found.append(f"The cluster did not become whole again: {error}")
        await load.stop()
    tell(f"{loop.time() - begin:6.1f} s  all is quiet")
    return verdict


async def judge(verdict: Verdict, load: Load, store: Store, manager: ManagerClient) -> Verdict:
    """Compare what was told with what is kept."""
    await read_back(load, store, manager, _AFTERWARDS_S)
    verdict.found += [*load.surprises, *broken_promises(load.history)]
    verdict.found += [f"No {kind} had success." for kind in load.kinds if not load.done[kind]]
    verdict.done, verdict.errors = load.done, load.errors
    verdict.runs = len({told.run for told in load.history.told})
    return verdict


async def on_cluster(
    cluster: Cluster,
    manager: ManagerClient,
    seed: int,
    seconds: float,
    kinds: Mapping[str, int] = CLUSTER,
) -> Verdict:
    """Let chaos come over a running cluster; the app of it is gone afterwards."""
    await manager.deploy(app)
    await until_complete(manager)
    async with cluster.client() as client:
        load = Load(manager, client, random.Random(seed))
        verdict = await chaos(
            load,
            ClusterFists(cluster),
            plan(seed, seconds, kinds),
            seconds,
            lambda: until_complete(manager),
        )
    verdict.seed = seed
    store = PostgresStore(EmbeddedPostgres(cluster.settings.postgres_dir).url, max_connections=2)
    await store.open()
    try:
        await judge(verdict, load, store, manager)
    finally:
        await store.close()
    await manager.stop(app.name)
    return verdict


async def locally(seed: int, seconds: float, tell: Callable[[str], None] = print) -> Verdict:
    """Let chaos come over a runtime in this process, for some seconds of virtual time."""
    outage, memory = Outage(), MemoryStore()
    runtime = LocalRuntime(hosts=3, store=outage.behind(memory))
    async with runtime as manager:
        await manager.deploy(app)
        load = Load(manager, None, random.Random(seed))
        verdict = await chaos(
            load,
            LocalFists(runtime, outage),
            plan(seed, seconds, LOCAL),
            seconds,
            lambda: until_complete(manager),
            tell,
        )
        verdict.seed = seed
        return await judge(verdict, load, memory, manager)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=__doc__)
    parser.add_argument("--seed", type=int, help="of all that is left to chance; else a new one")
    parser.add_argument("--seconds", type=float, default=60.0, help="that things are killed for")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="in what happens")
    parser.add_argument(
        "--local", action="store_true", help="in this process, without Ray, in virtual time"
    )
    return parser.parse_args()


def main() -> int:
    """Do it; 0 when all promises were kept."""
    given = _arguments()
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    print(f"seed {seed}, {given.seconds:g} s")  # noqa: T201 - a program's output
    if given.local:
        verdict = run_in_virtual_time(locally(seed, given.seconds), at_most_s=100_000)
    else:
        for name in [n for n in os.environ if n.startswith(("AGENTRAY_", "RAY_"))]:
            del os.environ[name]
        with running_cluster() as cluster:
            verdict = agentray.run(_connected(cluster, given, seed))
    print(verdict.table())  # noqa: T201
    return 1 if verdict.found else 0


async def _connected(cluster: Cluster, given: argparse.Namespace, seed: int) -> Verdict:
    kinds = {
        what: often
        for what, often in CLUSTER.items()
        if not given.only or any(word in what for word in given.only)
    }
    async with agentray.connect(settings=cluster.settings) as manager:
        return await on_cluster(cluster, manager, seed, given.seconds, kinds)


if __name__ == "__main__":
    sys.exit(main())
