"""How values are kept: JSON as text, and what both stores check before they write.

JSON is kept as the text that Python makes of it, so whatever `json` can write comes back
equal, also NUL characters, lone surrogates and floats beyond any integer. NaN and infinities are no
JSON. Columns that are plain text (ids, keys, reasons) cannot hold a NUL or a lone surrogate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel
from pydantic_core import to_json

from agentray.core.lifecycle import TERMINAL
from agentray.errors import PayloadError
from agentray.protocol.budgets import Usage
from agentray.protocol.questions import Question
from agentray.protocol.runs import RunError, RunEvent, RunStatus, Span
from agentray.protocol.sessions import Session
from agentray.protocol.topics import TopicSubscription
from agentray.protocol.traces import RunTrace
from agentray.protocol.written import Written
from agentray.store.base import (
    Effects,
    EndedRun,
    LaunchedAgent,
    NewRun,
    RunEnd,
    SlotLease,
)
from agentray.store.letters import StoredLetter
from agentray.store.supervision import AgentFailure

_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def _encoder() -> Callable[[Any], str]:
    """Return what encodes a value as `_ENCODER` does.

    `json` makes its encoder in C anew for each value, which takes as long as a small one itself. So
    it is made once here, without the look for circles, which remembers what it came through when
    it failed: a circle ends with a RecursionError.
    """
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _ENCODER.encode
    texts = json.encoder.encode_basestring_ascii
    chunks = make(None, _ENCODER.default, texts, None, ":", ",", False, False, False)
    return lambda value: "".join(chunks(value, 0))


_encode_json = _encoder()

_M = TypeVar("_M", bound=BaseModel)

KEY_LIFETIME = timedelta(hours=24)
"""How long an idempotency key is kept for its run."""


def encode(value: Any) -> str:
    """Return a value as JSON.

    Raises:
        PayloadError: it has no JSON.
    """
    try:
        return _encode_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"A value has no JSON: {error}") from error


_encode_kind = lru_cache(maxsize=256)(encode)


def encode_object(value: Mapping[str, Any]) -> str:
    """Return a JSON object as its text, which may be at hand.

    Raises:
        PayloadError: it has no JSON.
    """
    return value.text if isinstance(value, Written) else encode(dict(value))


def encode_optional(value: Any) -> str | None:
    """Return a value as JSON, None as None."""
    return None if value is None else encode(value)


def decode(text: str | None) -> Any:
    """Return the value of a JSON text; None has none."""
    return None if text is None else json.loads(text)


def encode_models(values: Sequence[BaseModel]) -> str:
    """Return models as a JSON array.

    Raises:
        PayloadError: one has no JSON.
    """
    return encode([value.model_dump(mode="json") for value in values])


def decode_models(kind: type[_M], text: str | None) -> tuple[_M, ...]:
    """Return the models of a JSON array; None has none."""
    return tuple(kind.model_validate(value) for value in decode(text) or ())


def progress_of(status: RunStatus, questions: str | None, usage: Usage | None) -> dict[str, Any]:
    """Return what is said of a run before its end, as fields of `Run`."""
    waits = status == RunStatus.WAITING
    asked = decode_models(Question, questions) if waits else ()
    return {"question": asked[0] if asked else None, "usage": usage}


def encode_event(event: RunEvent) -> str:
    """Return a run event as JSON."""
    return encode_events((event,))[0]


def encode_events(events: Sequence[RunEvent]) -> list[str]:
    """Return run events, each as JSON."""
    # All times at once: one after the other they take longer than all else.
    times = to_json([event.time for event in events])[1:-1].decode().split(",")
    return [
        f'{{"offset":{event.offset},"kind":{_encode_kind(event.kind)},"time":{time},'
        f'"data":{encode(event.data) if event.data else "{}"}}}'
        for event, time in zip(events, times, strict=False)  # of no events there is one ""
    ]


def decode_event(text: str) -> RunEvent:
    """Return the run event of a JSON text."""
    return RunEvent.model_validate(decode(text))


def encode_errors(errors: Sequence[RunError]) -> str | None:
    """Return errors as JSON: the first one, and with it the others."""
    if not errors:
        return None
    first, *others = [error.model_dump(mode="json") for error in errors]
    return encode({**first, "others": others} if others else first)


def errors_of(status: RunStatus, text: str | None) -> dict[str, Any]:
    """Return what a JSON text of errors says of a run, as fields of `Run`."""
    if text is None:
        return {"error": None, "errors": ()}
    first = decode(text)
    errors = tuple(map(RunError.model_validate, (first, *first.pop("others", ()))))
    return {"error": None if status == RunStatus.SUCCEEDED else errors[0], "errors": errors}


_SPAN_FIELDS = tuple(Span.model_fields)


def encode_spans(spans: Sequence[Span]) -> str:
    """Return spans as JSON."""
    try:
        return to_json(spans, inf_nan_mode="constants").decode()
    except ValueError:  # the text of an error may have half of a surrogate pair
        return _encode_odd_spans(spans)


def _encode_odd_spans(spans: Sequence[Span]) -> str:
    rows = [{name: getattr(span, name) for name in _SPAN_FIELDS} for span in spans]
    for row in rows:
        row["started_at"] = row["started_at"].isoformat()
    return encode(rows)


def decode_spans(text: str | None) -> tuple[Span, ...]:
    """Return the spans of a JSON text, () when there is none."""
    return tuple(Span.model_validate(span) for span in decode(text) or ())


def check_trace(trace: RunTrace) -> None:
    """Check the texts of a trace.

    Raises:
        PayloadError: one cannot be stored.
    """
    about = trace.summary
    check_text("correlation id", about.correlation_id)
    check_text("agent", about.agent)
    for name in (*about.agent_types, *about.events):
        check_text("name of an event or agent type", name)


def check_run(run: NewRun) -> None:
    """Check the texts of a new run.

    Raises:
        PayloadError: one cannot be stored.
    """
    key, correlation_id, owner = run.agent.key, run.correlation_id, run.owner
    together = f"{key}{correlation_id}{owner}{run.idempotency_key or ''}"
    if together.isascii() and "\0" not in together:
        return  # as nearly all are, and it is looked at for each prompt
    texts = {"agent key": key, "correlation id": correlation_id, "owner": owner}
    for name, text in {**texts, "idempotency key": run.idempotency_key or ""}.items():
        check_text(name, text)


def check_session(session: Session) -> None:
    """Check the texts of a session.

    Raises:
        PayloadError: one cannot be stored, or its metadata have no JSON.
    """
    check_text("id", session.id)
    check_text("agent key", session.agent)
    check_text("title", session.title or "")
    check_text("owner", session.owner)
    for name, value in session.labels.items():
        check_text("label", name)
        check_text(f"label {name}", value)
    encode(session.metadata)


def check_leases(leases: Sequence[SlotLease]) -> None:
    """Check that no slot is leased twice at once.

    Raises:
        ValueError: one is.
    """
    if len({(lease.pool, lease.slot) for lease in leases}) < len(leases):
        raise ValueError("A slot can be assigned only once in one call.")


def check_failure(failure: AgentFailure) -> None:
    """Check the texts of an agent's failure.

    Raises:
        PayloadError: one of them has a NUL or a lone surrogate.
    """
    check_text("key", failure.agent.key)
    check_text("error", failure.error)
    check_text("traceback", failure.traceback)


def check_launched(launched: LaunchedAgent) -> None:
    """Check the texts of a launched agent.

    Raises:
        PayloadError: one cannot be stored, or an option has no JSON.
    """
    for agent in (launched.agent, launched.owner):
        check_text("agent key", agent.key if agent else "")
    for name, value in launched.labels.items():
        check_text("label", name)
        check_text(f"label {name}", value)
    check_text("driver", launched.driver)
    check_text("error", launched.last_error)
    encode(dict(launched.options))


def check_letter(stored: StoredLetter) -> None:
    """Check the texts of a dead letter.

    Raises:
        PayloadError: one cannot be stored.
    """
    letter = stored.letter
    check_text("target", letter.target)
    check_text("name", letter.name)
    check_text("sender", letter.sender or "")
    check_text("correlation id", letter.correlation_id)


def check_subscription(subscription: TopicSubscription) -> None:
    """Check the texts of a subscription.

    Raises:
        PayloadError: one cannot be stored.
    """
    check_text("event type", subscription.event_type or "")
    check_text("key", subscription.key)


def check_text(name: str, text: str) -> None:
    """Check that a text can be stored outside JSON.

    Raises:
        PayloadError: it has a NUL or a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PayloadError(f"The {name} {text!r} has a lone surrogate.") from error
    if "\0" in text:
        raise PayloadError(f"The {name} {text!r} has a NUL character.")


class EncodedEnd(NamedTuple):
    """The end of a run as it is stored."""

    status: str
    result: str | None
    error: str | None
    started_at: datetime | None
    finished_at: datetime


class Touch(NamedTuple):
    """What one Effects does to one run."""

    run_id: str
    first_offset: int
    events: Sequence[str]  # each as JSON
    end: EncodedEnd | None


def touches(effects: Effects) -> list[Touch]:
    """Return what the effects do to runs, one element for each run.

    Raises:
        ValueError: the offsets of the events have a gap, or the end is none.
        PayloadError: a value has no JSON.
    """
    end = effects.end
    if end is not None and len(effects.events) == 1 and end.run_id in effects.events:
        # As nearly always.
        return [_touch(end.run_id, effects.events[end.run_id], _encode_end(end))]
    ends = {} if end is None else {end.run_id: _encode_end(end)}
    return [
        _touch(run_id, effects.events.get(run_id, ()), ends.get(run_id))
        for run_id in {**effects.events, **ends}
    ]


def touch_of(ended: EndedRun) -> Touch:
    """Return what the end of a run does that is kept only then.

    Raises:
        ValueError: the offsets of the events have a gap, or the end is none.
        PayloadError: a value has no JSON, or a text cannot be stored.
    """
    check_run(ended.new)
    if ended.events and ended.events[0].offset != 0:
        raise gap(ended.new.id, 0, ended.events[0].offset)
    return _touch(ended.new.id, ended.events, _encode_end(ended.end))


def _touch(run_id: str, events: Sequence[RunEvent], end: EncodedEnd | None) -> Touch:
    first = events[0].offset if events else 0
    for expected, event in enumerate(events, first):
        if event.offset != expected or expected < 0:
            raise gap(run_id, max(expected, 0), event.offset)
    return Touch(run_id, first, encode_events(events), end)


def _encode_end(end: RunEnd) -> EncodedEnd:
    if end.status not in TERMINAL:
        raise ValueError(f"Run {end.run_id} cannot end as {end.status.value}.")
    return EncodedEnd(
        status=end.status.value,
        result=encode_optional(end.result),
        error=encode_errors(end.errors or ([end.error] if end.error else ())),
        started_at=end.started_at,
        finished_at=end.finished_at,
    )


def gap(run_id: str, expected: int, found: int) -> ValueError:
    """Return the error of events that do not continue those of their run."""
    return ValueError(f"The next event of run {run_id} has offset {expected}, not {found}.")
