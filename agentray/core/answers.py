"""Whether an answer is taken: decided by what a run asks and what it was told already."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from agentray.protocol.questions import Answer, Question
from agentray.protocol.runs import RunStatus


class Verdict(StrEnum):
    """What becomes of an answer."""

    TAKEN = "taken"  # the run goes on with it
    REPEATED = "repeated"  # it was taken before
    NOT_WAITING = "not_waiting"  # the run waits for none
    OTHER_QUESTION = "other_question"  # the run waits for the answer to another question
    ANSWERED = "answered"  # the question was answered otherwise before


def judge(
    status: RunStatus,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    *,
    question_id: str | None,
    key: str,
    value: Any,
) -> Verdict:
    """Judge an answer.

    Args:
        status: of the run.
        questions: that are open, the one that is asked now first.
        answers: that were taken, in their order.
        question_id: that is answered; None: the one that is asked now.
        key: by which a repetition is known; "": by question and value.
        value: the answer.
    """
    for answer in answers:
        if key and answer.key == key:
            same = answer.value == value and question_id in {None, answer.question.id}
            return Verdict.REPEATED if same else Verdict.ANSWERED
        if question_id == answer.question.id:
            return Verdict.REPEATED if answer.value == value else Verdict.ANSWERED
    if status == RunStatus.WAITING and questions:
        asked = question_id in {None, questions[0].id}
        return Verdict.TAKEN if asked else Verdict.OTHER_QUESTION
    if question_id is None and not key and answers and answers[-1].value == value:
        return Verdict.REPEATED
    return Verdict.NOT_WAITING
