"""Models that are made past their validation are those that it would have made."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from agentray.protocol.runs import RunEvent, Span
from agentray.protocol.trusted import trusted
from agentray.store.codec import decode_spans, encode_spans

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def span(error: str | None) -> Span:
    return trusted(
        Span,
        {
            "id": "1",
            "parent": None,
            "event": "app.Found",
            "agent": "finder/ada",
            "host": "host_1",
            "started_at": NOW,
            "duration_ms": 1.25,
            "size_bytes": None,
            "error": error,
            "waited_ms": 0.5,
        },
    )


def test_they_are_equal_to_validated_ones_and_as_frozen():
    made = trusted(
        RunEvent, {"offset": 3, "kind": "event", "time": NOW, "data": {"a": 1}, "attempt": None}
    )
    checked = RunEvent(offset=3, kind="event", time=NOW, data={"a": 1}, attempt=None)
    assert made == checked
    assert made.model_dump_json() == checked.model_dump_json()
    assert made.model_fields_set == checked.model_fields_set
    assert made.model_copy(update={"attempt": 2}).attempt == 2
    with pytest.raises(ValidationError):
        made.offset = 4


@pytest.mark.parametrize("error", [None, "Boom: ü", "NUL \0", "half of a pair \ud800", "NaN"])
def test_spans_come_back_as_they_were_kept(error: str | None):
    assert decode_spans(encode_spans([span(error), span(None)])) == (span(error), span(None))
