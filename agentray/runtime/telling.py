"""What handlers tell those who follow their run: text, tool calls, progress.

It goes to the host that works on the run. What an agent says on another host in one turn of the
event loop leaves as one message; a handler has not ended before all that it told has arrived. In a
run that is durable per step it is kept before the handler commits: the Store gives the offsets, and
that commit may be the run's last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentray.context import Context
from agentray.protocol.codec import as_json, decode, encode
from agentray.protocol.envelope import Kind, Reply, ReplyKind
from agentray.protocol.event_runs import STEPS, PartsCall, RunKey, root_of
from agentray.protocol.runs import EventKind
from agentray.runtime.message import Post
from agentray.runtime.scope import scope_of
from agentray.runtime.step_run import StepRun
from agentray.runtime.trace_writer import SPAN_FIELDS
from agentray.runtime.turn import Turn

if TYPE_CHECKING:
    from agentray.runtime.active_run import ActiveRun
    from agentray.runtime.host import Host

_ANYBODY = root_of("default", "")


class Telling:
    """Tells runs, of whichever host, what the agents of this one have to say."""

    def __init__(self, host: Host) -> None:
        self._host = host
        # What was said in this turn of the loop and has not left: by run and agent.
        self._said: dict[tuple[str, str], tuple[Post, list[str]]] = {}

    def text(self, context: Context, text: str) -> None:
        """Tell a piece of text."""
        run = context.run
        if run is None or not text:
            return
        if not text.isascii():
            text = text.encode(errors="replace").decode()  # half of a surrogate pair is no text
        agent = str(context.agent)
        active = self._find(run)
        if active is not None:
            active.log.add_text(agent, text)
        elif self._is_elsewhere(run):
            self._say(run, agent, text, context)

    def _say(self, run: str, agent: str, text: str, context: Context) -> None:
        said = self._said.get((run, agent))
        if said is None:
            said = self._said[run, agent] = (self._message(run, context), [])
            if len(self._said) == 1:
                self._host.loop.call_soon(self._leave)
        said[1].append(text)

    def _leave(self) -> None:
        """Send what was said."""
        said, self._said = self._said, {}
        for (run, agent), (message, texts) in said.items():
            self._send(run, message, agent, "".join(texts))

    def tell(self, context: Context, kind: str, data: Mapping[str, Any]) -> None:
        """Tell of something else.

        Raises:
            PayloadError: the data has no JSON form.
        """
        run = context.run
        if run is None:
            return
        checked = as_json(data, kind)
        active = self._find(run)
        if active is not None:
            active.log.add(kind, checked)
        elif self._is_elsewhere(run):
            self._leave()  # in their order
            self._send(run, self._message(run, context), kind, checked)

    def span(self, context: Context, fields: tuple[Any, ...]) -> None:
        """Tell that a message was handled, in the order of a `Span`'s fields."""
        self.tell(context, EventKind.SPAN, dict(zip(SPAN_FIELDS, fields, strict=True)))

    def _find(self, run: str) -> ActiveRun | None:
        """Return a run that this host works on, and that a message with this key belongs to."""
        if run[0] in STEPS:  # its attempts are one, and what has a correlation of its own is, too
            return self._host.runs.get(RunKey.parse(run).run_id)
        return self._host.parts.find(run)

    def _is_elsewhere(self, run: str) -> bool:
        """Whether another host works on a run; else it has ended, and nobody listens."""
        return run[0] in STEPS or RunKey.parse(run).host != self._host.host_id

    def _message(self, run: str, context: Context) -> Post:
        scope = scope_of(context)

        def ended(_: Reply) -> None:
            scope.ended(message)

        if run[0] in STEPS:  # its key names no host: that of its root looks after it
            message = Post(Kind.PROGRESS, context.root or _ANYBODY, "", b"", ended)
        else:
            message = Post(Kind.RUN_PARTS, _ANYBODY, PartsCall.TELL.value, b"", ended)
        scope.sent(message)  # all of it has arrived when the run has ended
        return message

    def _send(self, run: str, message: Post, what: str, told: Any) -> None:
        message.payload = encode((run, what, told))
        if run[0] in STEPS:
            self._host.channel.post(message)
        else:
            self._host.channel.post_to(RunKey.parse(run).host, message)

    def take(self, turn: Turn) -> None:
        """Take in what another host tells."""
        run, what, told = decode(turn.envelope.payload)
        active = self._find(run)
        if active is not None:
            if isinstance(told, str):
                active.log.add_text(what, told)
            else:
                active.log.add(what, told)
        if active is not None and run[0] in STEPS:
            self._host.tasks.spawn(self._reply_when_kept(turn, active.run.id))
        else:
            turn.reply(ReplyKind.VALUE)

    async def _reply_when_kept(self, turn: Turn, run_id: str) -> None:
        try:
            await self.until_kept(run_id)
        finally:
            turn.reply(ReplyKind.VALUE)

    async def until_kept(self, run_id: str) -> None:
        """Keep what was told of a run that is durable per step, if this host looks after it.

        Raises:
            Fenced: another host does now.
        """
        active = self._host.runs.get(run_id)
        if isinstance(active, StepRun) and active.log:
            # Not cancelled with whoever waits: the Store gives the offsets in this order.
            await asyncio.shield(self._host.tasks.spawn(active.write_events()))
