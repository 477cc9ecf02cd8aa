"""Background work on a host: agents' loops and timers, and what becomes of their errors.

A tick is a message to the agent from itself: it takes a turn of the mailbox like every other, and
ends as every other does, with a commit or with the state as it was. A loop is a task of its own;
within `turn()` it holds such a turn. What an agent without loops and timers costs here: nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from agentray import context as contexts
from agentray.agent import Agent
from agentray.background import BackgroundSpec
from agentray.context import Context, LoopContext
from agentray.core.schedule import next_tick
from agentray.core.supervision import Backoff
from agentray.errors import AgentFailed, ConfigurationError, StoreUnavailable
from agentray.ids import AgentId
from agentray.runtime.activation import backoff_of
from agentray.runtime.flight_record import LOOP, mark_of
from agentray.runtime.own_turn import Once, OwnSink, Unheard, own_turn
from agentray.runtime.tasks import being_cancelled
from agentray.runtime.threads import in_own_thread

if TYPE_CHECKING:
    from agentray.runtime.host import Host
    from agentray.runtime.incarnation import Incarnation

logger = logging.getLogger(__name__)

_FINISH_S = 10.0
"""How long messages under way may take to finish before their agent is restarted."""

_CANCEL_S = 1.0
"""How often what was cancelled and does not end is cancelled again."""

_ON_IDLE_S = 60.0
"""How long an `on_idle` may take."""

_THREAD_END_S = 10.0
"""How long a loop in a thread may take to see that it shall stop."""

_LOOP_END_S = 15.0
"""How long any loop may take to end."""


class BackgroundWork:
    """Runs the loops and timers of a host's agents, and restarts agents whose own work failed."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._of: dict[AgentId, _Background] = {}
        self.errors = 0
        self.missed_ticks = 0

    def start(self, agent: Incarnation) -> None:
        """Start an agent's loops and timers, after its `on_start`."""
        if self._host.find(agent.id) is not agent:
            return  # its slot was lost while it started
        known = self._of.get(agent.id)
        if known is None or known.agent is not agent:
            known = self._of[agent.id] = _Background(agent, self._host, self)
        known.start()

    def keeps(self, agent: Incarnation) -> bool:
        """Whether an agent stays in memory although no message comes."""
        known = self._of.get(agent.id)
        return known is not None and agent.type.options.background_keeps and known.active

    def cancel(self, agent: Incarnation) -> set[asyncio.Task[None]]:
        """Stop an agent's loops and timers without waiting; return the loops that still end."""
        known = self._of.get(agent.id)
        if known is None or known.agent is not agent:
            return set()
        del self._of[agent.id]
        return known.cancel()

    async def ended(self, agent: Incarnation, loops: set[asyncio.Task[None]]) -> None:
        """Return when cancelled loops have ended; one that will not end is told and left."""
        if not loops:
            return
        _, left = await asyncio.wait(loops, timeout=_LOOP_END_S)
        for task in left:
            logger.error(
                "%s: %s goes on although it was cancelled",
                agent.id,
                task.get_name(),
                extra={"action": "loop_not_stopped", "agent": str(agent.id)},
            )

    def forget_errors(self, agent: Incarnation) -> None:
        """Let an agent's restarts be counted from none again."""
        known = self._of.get(agent.id)
        if known is not None and known.agent is agent:
            known.forget_errors()

    def close(self) -> None:
        """Stop all timers; loops end with the host's tasks."""
        for known in self._of.values():
            known.cancel()
        self._of.clear()

    # Turns of loops

    @asynccontextmanager
    async def turn(self, context: Context) -> AsyncGenerator[None]:
        """Hold a turn of the agent that a loop belongs to."""
        agent = self._host.find(context.agent)
        if not isinstance(context, LoopContext):
            raise ConfigurationError(f"{context.agent} has its turn already: turn() is for loops.")
        if agent is None:
            raise ConfigurationError(
                f"{context.agent} has left memory: its loop should have ended."
            )
        grant = _Grant(agent)
        own = await grant.begin()
        token = contexts.current.set(own)
        try:
            yield
        except BaseException as error:
            await grant.finish(error)
            raise
        else:
            await grant.finish(None)
        finally:
            contexts.current.reset(token)

    # Idle

    async def on_idle(self, agent: Incarnation) -> bool:
        """Run an agent's `on_idle`; True when it is still idle and may leave."""
        if agent.refusal is None and agent.type.cls.on_idle is not Agent.on_idle:
            used = agent.used
            sink = Once()

            async def work() -> None:
                async with asyncio.timeout(_ON_IDLE_S):
                    await agent.agent.on_idle()

            agent.offer_own(own_turn(agent.id, "on_idle", work, sink))
            error = await sink.ended
            if error is not None:
                self._host.log_agent_error(agent.id, "on_idle_failed", error)
            if agent.used != used:
                return False
        return agent.idle and self._host.find(agent.id) is agent

    # Errors

    def failed(self, known: _Background, method: str, error: BaseException) -> None:
        """Take an error of a loop or timer: it goes to the agent's restart policy."""
        agent = known.agent
        refusal = agent.refusal
        if refusal is not None and isinstance(error, type(refusal)):
            return  # it had no turn any more, as the agent is shut down
        self.errors += 1
        agent.stats.note(error)
        logger.error(
            "%s: %s failed; the agent %s",
            agent.id,
            method,
            self._what_follows(known, error),
            exc_info=error,
            extra={"action": "background_failed", "agent": str(agent.id), "method": method},
        )
        if refusal is None and self._of.get(agent.id) is known and not known.restarting:
            known.restarting = True
            self._host.tasks.spawn(self._restart(known, error), name=f"restart {agent.id}")

    def _what_follows(self, known: _Background, error: BaseException) -> str:
        """Say what becomes of an agent after an error of a loop or timer."""
        if known.agent.refusal is not None:
            return "ends"
        if known.restarting:
            return "is about to be restarted or given up for an earlier one"
        unavailable = isinstance(error, StoreUnavailable)  # which is no failure of the agent
        gives_up = not unavailable and known.backoff.gives_up(self._host.now())
        return "is given up, as its restart policy says" if gives_up else "is restarted"

    async def _restart(self, known: _Background, error: BaseException) -> None:
        agent = known.agent
        agent.hold()
        await self.ended(agent, known.cancel())
        await agent.until_idle(_FINISH_S)
        while not agent.quiet:
            await agent.until_idle(_CANCEL_S)  # what is left of it would use the next object
        await agent.stop()
        if self._of.get(agent.id) is known:  # else it is ended, by somebody else
            agent.forget()
            await self._host.residents.restart(agent, error, known.backoff)
        known.restarting = False


class _Background:
    """The loops and timers of one agent."""

    __slots__ = (
        "_backoff",
        "_stop",
        "agent",
        "host",
        "restarting",
        "started",
        "tasks",
        "timers",
        "work",
    )

    def __init__(self, agent: Incarnation, host: Host, work: BackgroundWork) -> None:
        self.agent = agent
        self.host = host
        self.work = work
        self.restarting = False
        self.started = False
        self.timers: tuple[_Timer, ...] = ()
        self.tasks: tuple[asyncio.Task[None], ...] = ()  # of its loops
        # Made when they are needed: there may be a great many agents with a timer.
        self._backoff: Backoff | None = None
        self._stop: threading.Event | None = None

    @property
    def backoff(self) -> Backoff:
        """How long to wait before the next restart; it remembers the last ones."""
        if self._backoff is None:
            self._backoff = backoff_of(self.agent.type.options.restart)
        return self._backoff

    def forget_errors(self) -> None:
        """Begin to count anew."""
        self._backoff = None

    @property
    def active(self) -> bool:
        """Whether it has a timer, or a loop that has not ended."""
        return bool(self.timers or self.tasks) or self.restarting

    def start(self) -> None:
        """Start them all, as on the agent's first day; nothing, when they go on."""
        if self.started:
            return
        self.started = True
        self._stop = None
        for spec in self.agent.type.background:
            if spec.every_s is not None:
                self.timers = (*self.timers, _Timer(self, spec, spec.every_s))
            else:
                task = self.host.tasks.spawn(
                    self._loop(spec), name=f"loop {spec.method} of {self.agent.id}"
                )
                self.tasks = (*self.tasks, task)
                task.add_done_callback(self._loop_ended)

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        self.tasks = tuple(other for other in self.tasks if other is not task)

    def cancel(self) -> set[asyncio.Task[None]]:
        """Let no tick begin any more, and ask the loops to end; return those."""
        self.started = False
        if self._stop is not None:
            self._stop.set()
        for timer in self.timers:
            timer.stop()
        self.timers = ()
        for task in self.tasks:
            task.cancel()
        return set(self.tasks)

    async def _loop(self, spec: BackgroundSpec) -> None:
        context = LoopContext(self.agent.id, self.host)
        context.scope = Unheard(self.agent.id)
        contexts.current.set(context)  # of this task alone
        method = getattr(self.agent.agent, spec.method)
        try:
            with self.host.turns.record.under_way(mark_of(self.agent.id, LOOP)):
                if spec.in_thread:
                    await self._in_thread(method, spec.method)
                else:
                    await method()
        except BaseException as error:
            if being_cancelled() and isinstance(error, asyncio.CancelledError):
                raise
            self.work.failed(self, spec.method, error)

    async def _in_thread(self, method: Callable[[threading.Event], Any], name: str) -> None:
        """Run a loop in a thread of its own: it would take one of the pool's for ever."""
        stop = self._stop = self._stop or threading.Event()
        ended = in_own_thread(lambda: method(stop), f"{self.agent.id}.{name}")
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            if not being_cancelled():
                raise
            done, _ = await asyncio.wait((ended,), timeout=_THREAD_END_S)
            if not done:
                logger.error(
                    "%s: the loop %s goes on in its thread: it does not look at its argument",
                    self.agent.id,
                    name,
                    extra={"action": "loop_not_stopped", "agent": str(self.agent.id)},
                )
            elif (error := ended.exception()) is not None:
                self.host.log_agent_error(self.agent.id, "loop_failed_at_end", error)
            raise


class _Timer(OwnSink):
    """Offers its agent a turn whenever a tick is due."""

    __slots__ = ("_all", "_due", "_error", "_every_s", "_handle", "_spec", "_stopped")

    def __init__(self, all_: _Background, spec: BackgroundSpec, every_s: float) -> None:
        super().__init__()
        self._all = all_
        self._spec = spec
        self._every_s = every_s
        self._error: BaseException | None = None
        self._stopped = False
        now = all_.host.now()
        self._due = now if spec.at_once else now + every_s
        self._handle = asyncio.get_running_loop().call_at(self._due, self._tick)

    def stop(self) -> None:
        """Let no tick begin any more; one under way ends by itself."""
        self._stopped = True
        self._handle.cancel()
        for turn in list(self.active.values()):
            if turn.task is None:
                self._all.agent.withdraw(turn)
                turn.drop()

    def _tick(self) -> None:
        agent = self._all.agent
        agent.offer_own(own_turn(agent.id, self._spec.method, self._work, self))

    async def _work(self) -> None:
        try:
            result = getattr(self._all.agent.agent, self._spec.method)()
            if inspect.isawaitable(result):
                await result
        except BaseException as error:
            self._error = error
            raise

    def on_end(self, error: BaseException | None) -> None:
        """Wait for the next tick."""
        raised, self._error = self._error, None
        leaving = self._stopped and (raised is None or isinstance(raised, asyncio.CancelledError))
        if error is not None and not leaving:
            self._all.work.failed(self._all, self._spec.method, raised or error)
        if error is not None or self._stopped:
            return
        now = self._all.host.now()
        self._due, missed = next_tick(self._due, self._every_s, now)
        if missed:
            self._all.agent.stats.missed_ticks += missed
            self._all.work.missed_ticks += missed
        self._handle = asyncio.get_running_loop().call_at(self._due, self._tick)


class _Grant(Once):
    """One turn that a loop holds."""

    __slots__ = ("_agent", "_granted", "_release")

    def __init__(self, agent: Incarnation) -> None:
        super().__init__()
        self._agent = agent
        loop = asyncio.get_running_loop()
        self._granted: asyncio.Future[Context | None] = loop.create_future()
        self._release: asyncio.Future[None] = loop.create_future()

    async def begin(self) -> Context | None:
        """Wait for the turn; return its context."""
        turn = own_turn(self._agent.id, "turn", self._hold, self)
        self._agent.offer_own(turn)
        try:
            await asyncio.wait((self._granted, self.ended), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if turn.task is None:
                self._agent.withdraw(turn)
                turn.drop()
            self._release.cancel()
            raise
        if not self._granted.done():
            raise self.ended.result() or AgentFailed(str(self._agent.id), "it leaves memory")
        return self._granted.result()

    async def _hold(self) -> None:
        """Be the handler: it takes as long as the loop's block."""
        self._granted.set_result(contexts.current.get())
        await self._release

    async def finish(self, error: BaseException | None) -> None:
        """End the turn; raise what went wrong with its commit."""
        if self._release.done():
            pass  # the turn was taken away
        elif error is None:
            self._release.set_result(None)
        elif isinstance(error, StopIteration):
            self._release.set_exception(RuntimeError("the turn raised StopIteration"))
        else:
            self._release.set_exception(error)
        failed = await self.ended
        if error is None and failed is not None:
            raise failed
