"""Publishing through an app's middleware, for the agents whose app has any with `on_publish`.

Handlers publish without waiting, and hooks may wait. So an event whose hooks wait is published
when they are done, by a task that belongs to the host; what its agent publishes meanwhile waits
behind it, in order. The message that published it is not done before: a hook that raises is an
error of that branch of the run, as if a subscriber had raised.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from agentray import context as contexts
from agentray.context import Context
from agentray.event_payloads import snapshot_of
from agentray.events import Event
from agentray.ids import AgentId
from agentray.middleware import DROP, Middleware
from agentray.protocol.codec import text_of
from agentray.protocol.envelope import Failure, Outcome
from agentray.runtime.passage import name_of, nonsense, until
from agentray.runtime.scope import Scope, scope_of
from agentray.runtime.tasks import being_cancelled

if TYPE_CHECKING:
    from agentray.runtime.host import Host

logger = logging.getLogger(__name__)


class _Publication:
    """An event on its way through the hooks."""

    __slots__ = ("context", "event", "hooks", "next", "scope")

    def __init__(
        self, event: Event, context: Context, scope: Scope, hooks: tuple[Middleware, ...]
    ) -> None:
        self.event = event
        self.context = context
        self.scope = scope
        self.hooks = hooks
        self.next = 0  # whose turn it is

    @property
    def hook(self) -> Middleware:
        """The middleware that has it."""
        return self.hooks[self.next]


class HookedPublishing:
    """Publishes for the agents of one host whose app wants to see their events."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._waiting: dict[
            AgentId, deque[_Publication]
        ] = {}  # by agent, behind one whose hook waits

    def publish(self, event: Event, context: Context) -> Event:
        """Publish an event, now or when its hooks are done.

        Returns:
            The event as the first hook gets it.
        """
        event = context.caused(event)
        scope = scope_of(context)
        hooks = self._host.code.publish_hooks[context.agent.type]
        publication = _Publication(event, context, scope, hooks)
        scope.hold()
        if (queue := self._waiting.get(context.agent)) is not None:
            queue.append(publication)
        elif (waits := self._advance(publication)) is not None:
            self._waiting[context.agent] = deque()
            work = self._publish_all(publication, waits)
            self._host.tasks.spawn(work, name=f"on_publish for {context.agent}")
        return event

    def _advance(self, publication: _Publication) -> Awaitable[Any] | None:
        """Run hooks; return what the next one waits for, None when the event is through or gone."""
        while publication.next < len(publication.hooks):
            try:
                result = publication.hook.on_publish(publication.event)
            except BaseException as error:  # noqa: BLE001 - user code
                self._fail(publication, error)
                return None
            if inspect.isawaitable(result):
                return result
            if not self._take(publication, result):
                return None
        self._send(publication)
        return None

    async def _publish_all(self, publication: _Publication, waits: Awaitable[Any] | None) -> None:
        """Publish an event that waits, and then those that came behind it."""
        contexts.current.set(None)  # what hooks call from here on is not a part of the turn
        agent = publication.context.agent
        queue = self._waiting[agent]
        try:
            while True:
                while waits is not None:
                    waits = await self._wait(publication, waits)
                if not queue:
                    return
                publication = queue.popleft()
                waits = self._advance(publication)
        finally:
            del self._waiting[agent]

    async def _wait(
        self, publication: _Publication, waits: Awaitable[Any]
    ) -> Awaitable[Any] | None:
        what = f"on_publish for {publication.event.event_type} of {publication.context.agent}"
        deadline = publication.context.deadline
        try:
            result = await until(waits, publication.hook, what, deadline)
        except BaseException as error:
            if being_cancelled():
                raise
            self._fail(publication, error)
            return None
        return self._advance(publication) if self._take(publication, result) else None

    def _take(self, publication: _Publication, result: object) -> bool:
        """Take what a hook returned; False when the event goes no further."""
        if result is DROP:
            self._drop(publication)
            return False
        if not isinstance(result, Event):
            self._fail(publication, nonsense(publication.hook, "on_publish", result, "the event"))
            return False
        publication.event = result
        publication.next += 1
        return True

    def _send(self, publication: _Publication) -> None:
        try:
            context = publication.context
            # Once more: hooks may have changed what is in it, or made another one.
            self._host.send_event(snapshot_of(context.caused(publication.event)), context)
        except Exception as error:  # noqa: BLE001 - an error of this branch
            publication.scope.release(self._failure(publication, error, "published"))
        else:
            publication.scope.release()

    def _drop(self, publication: _Publication) -> None:
        self._host.dropped += 1
        extra = {"action": "event_dropped", "agent": str(publication.context.agent)}
        logger.info(
            "%s dropped %s", name_of(publication.hook), publication.event.event_type, extra=extra
        )
        publication.scope.release()

    def _fail(self, publication: _Publication, error: BaseException) -> None:
        where = f"{name_of(publication.hook)}.on_publish"
        publication.scope.release(self._failure(publication, error, where))

    def _failure(self, publication: _Publication, error: BaseException, where: str) -> Outcome:
        """Return an event's error as what its branch came to; outside of runs the log has it."""
        agent = str(publication.context.agent)
        extra = {"action": "event_rejected", "agent": agent}
        logger.warning(
            "%s of %s was not published: %s: %s: %s",
            publication.event.event_type,
            agent,
            where,
            type(error).__name__,
            text_of(error),
            extra=extra,
        )
        step = f"{publication.event.event_type.rpartition('.')[2]} in {where}"
        return Outcome(errors=(Failure(type(error).__name__, text_of(error), agent, (step,)),))
