"""Who deals the blows: with signals on a cluster, by what tests may do in one process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import psutil

from agentray.testing import LocalRuntime
from tests.chaos.blows import Blow
from tests.support.cluster import Cluster, postmaster
from tests.support.outage import Outage

_HOST = "ray::HostActor"
_TITLES = {
    "kill a host": _HOST,
    "stop a host": _HOST,
    "kill all hosts": _HOST,
    "kill the manager": "ray::ManagerActor",
    "kill the gateway": "ray::ServeReplica:agentray:gateway",
}


class ClusterFists:
    """Sends signals to a cluster's processes."""

    def __init__(self, cluster: Cluster) -> None:
        """Make one."""
        self._cluster = cluster
        self._stopped: dict[int, psutil.Process] = {}

    async def deal(self, blow: Blow) -> str:
        """Do it, and say what was done; "" when there was nobody to do it to."""
        victims = await asyncio.to_thread(self._victims, blow.what)
        if victims and not blow.what.endswith("all hosts"):
            victims = [victims[blow.victim % len(victims)]]
        lasts = blow.what.startswith("stop")
        hit = [p for p in victims if _send(p, signal.SIGSTOP if lasts else signal.SIGKILL)]
        for process in hit if lasts else []:
            self._stopped[process.pid] = process
            asyncio.get_running_loop().call_later(blow.for_s, self._go_on, process.pid)
        who = " ".join(str(process.pid) for process in hit)
        return f"{who} for {blow.for_s:.1f} s" if who and lasts else who

    def _victims(self, what: str) -> list[psutil.Process]:
        if what == "kill the database":
            pid = postmaster(self._cluster.home)
            return [psutil.Process(pid)] if pid and psutil.pid_exists(pid) else []
        return sorted(self._cluster.processes(_TITLES[what]), key=lambda p: p.pid)

    def _go_on(self, pid: int) -> None:
        if (process := self._stopped.pop(pid, None)) is not None:
            _send(process, signal.SIGCONT)

    async def rest(self) -> None:
        """Let go of everybody who is held."""
        for pid in list(self._stopped):
            self._go_on(pid)


def _send(process: psutil.Process, what: signal.Signals) -> bool:
    try:
        process.send_signal(what)  # not to another one that has its number by now
    except psutil.NoSuchProcess:
        return False
    return True


class LocalFists:
    """Does to a runtime in this process what may happen to a cluster."""

    def __init__(self, runtime: LocalRuntime, outage: Outage) -> None:
        """Make one."""
        self._runtime = runtime
        self._outage = outage
        self._later: dict[Callable[[], None], asyncio.TimerHandle] = {}

    async def deal(self, blow: Blow) -> str:
        """Do it, and say what was done; "" when there was nobody to do it to."""
        hosts = self._runtime.hosts
        match blow.what:
            case "take the database away":
                self._outage.away = True
                self._undo(blow.for_s, self._database_is_back)
                return f"for {blow.for_s:.1f} s"
            case "kill the manager":
                if self._outage.away:
                    return ""  # it comes back at once here, which takes the database
                await self._runtime.restart_manager()
                return "it is back"
            case "kill all hosts":
                for host in hosts:
                    await self._runtime.kill_host(host)
                return " ".join(hosts)
            case _ if not hosts:
                return ""
            case "kill a host":
                await self._runtime.kill_host(hosts[blow.victim % len(hosts)])
                return hosts[blow.victim % len(hosts)]
            case "cut a host off":
                host = hosts[blow.victim % len(hosts)]
                self._runtime.cut_off(host)
                self._undo(blow.for_s, lambda: self._runtime.cut_off(host, cut=False))
                return f"{host} for {blow.for_s:.1f} s"
            case _:
                raise ValueError(blow.what)

    def _undo(self, after_s: float, undo: Callable[[], None]) -> None:
        def now() -> None:
            del self._later[undo]
            undo()

        self._later[undo] = asyncio.get_running_loop().call_later(after_s, now)

    def _database_is_back(self) -> None:
        self._outage.away = False

    async def rest(self) -> None:
        """Undo what lasts."""
        for undo, timer in self._later.items():
            timer.cancel()
            undo()
        self._later.clear()
