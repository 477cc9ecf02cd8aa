"""Answers to runs that wait: checked, kept once, and then the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from agentray.core.answers import Verdict, judge
from agentray.errors import AnswerInvalid, ConfigurationError, NotWaiting, UnknownRun
from agentray.event_loop import time_of_day
from agentray.ids import AgentId
from agentray.protocol.codec import as_json
from agentray.protocol.questions import Answer, Question
from agentray.protocol.runs import Run, RunEvent
from agentray.store.base import Store, StoredRun
from agentray.store.run_progress import Resumption

_WHY = {
    Verdict.NOT_WAITING: "it does not wait for an answer",
    Verdict.OTHER_QUESTION: "it waits for the answer to another question",
    Verdict.ANSWERED: "the question was answered before, and otherwise",
}


class RunAnswers:
    """Takes answers."""

    def __init__(self, store: Store, go_on: Callable[[AgentId, str], None]) -> None:
        """Make one.

        Args:
            store: of the runs.
            go_on: hands a run that was answered to the host of its agent.
        """
        self._store = store
        self._go_on = go_on

    async def answer(self, run_id: str, value: Any, *, question: str | None, key: str) -> Run:
        """Answer what a run asks; return it as it is then: about to go on.

        Args:
            run_id: the run.
            value: the answer, as JSON.
            question: id of the question; None: the one that it asks now.
            key: the same key and answer again change nothing; "": so do question and answer.

        Raises:
            UnknownRun: there is none of this id.
            NotWaiting: it does not wait for this answer.
            AnswerInvalid: the answer is not what the question wants.
            PayloadError: it has no JSON.
        """
        value = as_json(value, "answer")
        while True:
            stored = await self._store.get_run(run_id)
            if stored is None:
                raise UnknownRun(run_id)
            verdict = judge(
                stored.run.status,
                stored.questions,
                stored.answers,
                question_id=question,
                key=key,
                value=value,
            )
            if verdict is Verdict.REPEATED:
                return stored.run
            if verdict is not Verdict.TAKEN:
                raise NotWaiting(run_id, stored.run.status.value, _WHY[verdict])
            check_answer(stored.questions[0], value)
            if await self._store.resume_run(_resumption(stored, value, key)):
                self._go_on(stored.agent, run_id)
                resumed = await self._store.get_run(run_id)
                return stored.run if resumed is None else resumed.run


def _resumption(stored: StoredRun, value: Any, key: str) -> Resumption:
    asked, *left = stored.questions
    now = time_of_day()
    answer = Answer(question=asked, value=value, key=key, answered_at=now)
    data = {"question": asked.id, "value": value}
    told = RunEvent(offset=stored.events, kind="answered", time=now, data=data)
    return Resumption(stored.run.id, left, (*stored.answers, answer), told)


def check_schema(schema: Mapping[str, Any]) -> None:
    """Check the JSON Schema of an answer.

    Raises:
        ConfigurationError: it is none.
    """
    # Here, since few processes ever need it.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        cast("Any", Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        raise ConfigurationError(
            f"The answer of a question is no JSON Schema: {error.message}"
        ) from error


def check_answer(question: Question, value: Any) -> None:
    """Check an answer against what its question wants.

    Raises:
        AnswerInvalid: it is something else; names the field.
    """
    if question.answer_schema is None:
        return
    from jsonschema import Draft202012Validator

    validator = cast("Any", Draft202012Validator)(question.answer_schema)
    # The first one in the order of the answer: it names the innermost field that is wrong.
    error: Any = next(iter(validator.iter_errors(value)), None)
    if error is not None:
        field = ".".join(map(str, ("answer", *error.absolute_path)))
        raise AnswerInvalid(field, str(error.message))
