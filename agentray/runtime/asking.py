"""Questions to people: how a run comes to wait for an answer, and goes on with it.

A handler's question travels to its run as errors and answers do, with the acknowledgements. When
all that the run set off is done and a question is open, the run waits: in the Store, nowhere else.
With the answer it goes on in the same attempt, at the agent that asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentray.context import Context
from agentray.errors import ConfigurationError
from agentray.event_loop import time_of_day
from agentray.event_payloads import payload_of
from agentray.events import Answered, Ask, Event
from agentray.ids import AgentId, new_id
from agentray.protocol.codec import as_json, text_of
from agentray.protocol.envelope import Failure, Outcome
from agentray.protocol.event_runs import STEP_EVENTS, OnError, Recording, RunOptions
from agentray.protocol.questions import Question
from agentray.runtime.event_message import EventMessage
from agentray.runtime.message import Origin
from agentray.runtime.run_answers import check_schema
from agentray.runtime.scope import scope_of
from agentray.runtime.step_emissions import emissions_of
from agentray.store.base import StoredRun

if TYPE_CHECKING:
    from agentray.runtime.active_run import ActiveRun
    from agentray.runtime.host import Host


class Asking:
    """Takes questions in, and lets runs go on with their answers, on one host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def ask(self, event: Ask, context: Context) -> Event:
        """Keep a question for the run that a message belongs to; return it as it went out.

        Raises:
            ConfigurationError: it is asked outside of a run, its schema is none, or the agent has
                no handler for the answer.
            PayloadError: its details have no JSON form.
        """
        agent = context.agent
        loaded = self._host.types.get(agent.type)
        if context.run is None:
            raise ConfigurationError(
                f"{agent} asks {event.question!r} outside of a run: nobody could answer. Ask while "
                "a prompt or a dispatched event is handled."
            )
        if loaded is None or Answered.event_type not in loaded.type.handlers:
            raise ConfigurationError(
                f"{agent} asks and has no handler for the answer: give it one with @on(Answered)."
            )
        schema: dict[str, Any] | None = event.answer
        if schema is not None:
            check_schema(schema)
        published = context.caused(event)
        scope = scope_of(context)
        if self._host.parts.takes(context.run, published, scope):
            question = Question(
                id=new_id("qst"),
                question=event.question,
                answer_schema=schema,
                details=as_json(event.details, "details of a question"),
                agent=str(agent),
                asked_at=time_of_day(),
            )
            scope.ask(question.model_dump(mode="json"))
            if context.run[0] == STEP_EVENTS:
                emissions_of(context).record(published)
        return published

    def resume(self, active: ActiveRun) -> None:
        """Send the last answer of a run to the agent that asked; the run ends with what follows."""
        scope = active.scope
        scope.on_done(active.settled)
        scope.hold()
        try:
            self._send_answer(active)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run is told
            scope.fail(Failure(type(error).__name__, text_of(error), "", ()))
        scope.release()

    def _send_answer(self, active: ActiveRun) -> None:
        event = last_answer(active)
        if not self._host.parts.takes(active.key, event, active.scope):
            return
        agent = AgentId.parse(active.stored.answers[-1].question.agent)
        message = EventMessage((agent,), event, payload_of(event), active.scope, answers=True)
        root = None if active.recording == Recording.NOTHING else active.agent
        message.origin = Origin(
            event.correlation_id,
            None,
            None,
            (),
            root,
            active.trace_context,
            active.key,
            active.options.access,
        )
        active.scope.sent(message)
        self._host.channel.post(message)


def last_answer(active: ActiveRun) -> Answered:
    """Return the answer with which a run goes on, as the agent gets it that asked."""
    answer = active.stored.answers[-1]
    asked = answer.question
    return Answered(
        question=asked.question,
        question_id=asked.id,
        value=answer.value,
        details=asked.details,
        correlation_id=active.conversation,
        source=f"run/{active.run.id}",
    )


def open_questions(
    stored: StoredRun, outcome: Outcome, options: RunOptions
) -> tuple[Question, ...]:
    """Return what a run waits to be told that has come to this; (): it has ended."""
    failed = outcome.errors and options.on_error == OnError.FAIL
    if outcome.answer is not None or failed:
        return ()
    return (*stored.questions, *map(Question.model_validate, outcome.questions))


def without_questions(outcome: Outcome) -> Outcome:
    """Return the outcome of a run that cannot wait: who asks in it has made a mistake."""
    if not outcome.questions or outcome.answer is not None:
        return outcome
    asked: Mapping[str, Any] = outcome.questions[0]
    message = (
        f"It asks {asked['question']!r}, and a run with durability='none' cannot wait for an "
        "answer."
    )
    failure = Failure("ConfigurationError", message, asked["agent"], ())
    return outcome._replace(errors=(*outcome.errors, failure))
