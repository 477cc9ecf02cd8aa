"""What came of a run, readable: its result, its error, its events, its trace. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, cast

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from agentray.cli.render import moment, pairs, run_status, status_text, text, took
from agentray.protocol.budgets import Usage
from agentray.protocol.letters import DeadLetter
from agentray.protocol.questions import Question
from agentray.protocol.runs import Run, RunError, RunEvent, Span
from agentray.protocol.traces import TraceSummary

_LONGEST = 200  # characters of arguments and results of tools
_SHORT_CHARS = 60  # a value of up to this many stands beside its name, a longer one below it


def run(found: Run) -> RenderableType:
    """Return a run with its result or error."""
    facts = pairs(
        [
            ("run", found.id),
            ("status", run_status(found)),
            ("agent", found.agent),
            ("attempt", str(found.attempt)),
            ("correlation", found.correlation_id),
            ("created", moment(found.created_at)),
            ("begins", found.not_before and moment(found.not_before)),
            ("schedule", found.schedule),
            ("started", found.started_at and moment(found.started_at)),
            ("took", took(found)),
            ("used", _used(found.usage)),
        ]
    )
    if found.question is not None:
        return Group(facts, Text(), *_question(found.question))
    if found.error is not None:
        return Group(facts, Text(), text(error(found.error), "red"))
    return facts if found.result is None else Group(facts, Text(), result(found.result))


def _question(found: Question) -> Iterator[RenderableType]:
    """Yield what a run asks, and what the answer must be."""
    yield text(found.question, "bold")
    if found.details is not None:
        yield result(found.details)
    if found.answer_schema is not None:
        yield text(f"The answer: {json.dumps(found.answer_schema, ensure_ascii=False)}", "dim")


def _used(usage: Usage | None) -> str | None:
    """Return what a run has used in one line; None: nobody counted."""
    if usage is None:
        return None
    counted = [f"{usage.wall_s:.1f} s of work"]
    counted += [f"{usage.tokens} tokens"] * (usage.tokens > 0)
    counted += [f"{usage.tool_calls} tool calls"] * (usage.tool_calls > 0)
    counted += [f"cost {usage.cost:g}"] * (usage.cost > 0)
    return ", ".join(counted)


def error(found: RunError) -> str:
    """Return a run's error in one line: what, where, and by which causes."""
    where = f" in {found.agent}" if found.agent else ""
    causes = f" (by way of {' → '.join(found.path)})" if found.path else ""
    return f"{found.type}: {found.message}{where}{causes}"


def dead_letter(found: DeadLetter) -> RenderableType:
    """Return a dead letter with what it carried."""
    facts = pairs(
        [
            ("dead letter", found.id),
            ("kind", found.kind.value),
            ("for", found.target),
            ("name", found.name),
            ("reason", text(found.reason.value.replace("_", " "), "red")),
            ("error", None if found.error is None else text(error(found.error), "red")),
            ("sender", found.sender),
            ("correlation", found.correlation_id or None),
            ("run", found.run_id),
            ("attempts", str(found.attempts)),
            ("time", moment(found.created_at)),
            ("retryable", "yes" if found.retryable else "no, its content was not kept"),
            ("retried as", found.retried_as),
        ]
    )
    return Group(facts, Text(), result(found.payload)) if found.payload else facts


# Results: any JSON


def result(value: Any) -> RenderableType:
    """Return a run's result: an object as sections, a text as itself."""
    match value:
        case None:
            return text("The run has no result.", "dim")
        case dict() if value:
            return Group(*_sections(cast("dict[str, Any]", value)))
        case _:
            return _body(value)


def _sections(value: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield short values beside their names, and long ones below them, with space between."""
    for number, (short, items) in enumerate(groupby(value.items(), lambda item: _short(item[1]))):
        if short:
            yield from [Text()] * (number > 0)
            yield pairs([(_heading(name), text(_inline(part))) for name, part in items])
            continue
        for position, (name, part) in enumerate(items):
            yield from [Text()] * (number > 0 or position > 0)
            yield text(_heading(name), "bold")
            yield Padding(_body(part), (0, 0, 0, 2))


def _body(value: Any) -> RenderableType:
    match value:
        case dict() if value:
            rows = cast("dict[str, Any]", value)
            return pairs([(_heading(name), text(_inline(part))) for name, part in rows.items()])
        case list() if value:
            return _list(cast("list[Any]", value))
        case _:
            return text(_inline(value))


def _list(values: Sequence[Any]) -> RenderableType:
    if all(isinstance(value, dict) for value in values):
        return _rows(cast("Sequence[Mapping[str, Any]]", values))
    bullets = Table.grid(padding=(0, 1))
    for value in values:
        bullets.add_row("•", text(_inline(value)))
    return bullets


def _rows(values: Sequence[Mapping[str, Any]]) -> Table:
    """Return objects as a table; one that lacks a field has a dash there."""
    names = list(dict.fromkeys(name for value in values for name in value))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in names:
        table.add_column(text(_heading(name)), overflow="fold")
    for value in values:
        table.add_row(*(text(_inline(value.get(name))) for name in names))
    return table


def _short(value: Any) -> bool:
    if isinstance(value, dict | list):
        return not value
    return not isinstance(value, str) or (len(value) <= _SHORT_CHARS and "\n" not in value)


def _inline(value: Any) -> str:
    if value is None or value in ([], {}):
        return "-"
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            # Three decimals say enough, but a small number must not become zero.
            return f"{value:.3g}" if abs(value) < 0.01 else f"{round(value, 3)}"
        case str() | int():
            return str(value)
        case _:
            return json.dumps(value, ensure_ascii=False)


def _heading(name: str) -> str:
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:] or '""'


# Events


def event(found: RunEvent) -> str:
    """Return an event that is no text as one line."""
    match found.kind:
        case "tool_call":
            return f"{found.data.get('name', '')}({_text(found.data.get('arguments'))})"
        case "tool_result":
            came_to = found.data.get("error") or _text(found.data.get("result"))
            return f"{found.data.get('name', '')}: {came_to}"
        case "span":
            took = found.data.get("duration_ms", 0)
            return f"{found.data.get('agent', '')} handled {found.data.get('event', '')}: {took} ms"
        case "attempt_lost":
            return f"attempt lost: {found.data.get('reason', '')}"
        case "progress":
            current, total = found.data.get("current"), found.data.get("total")
            far = "" if current is None else f" {current:g}" + (f"/{total:g}" if total else "")
            return f"{found.data.get('message', '')}{far}"
        case "waiting":
            asked: Any = found.data.get("question") or {}
            return f"waiting: {asked.get('question', '')}"
        case _:
            return found.kind


def said(found: RunEvent) -> str:
    """Return what a piece of text adds to the answer."""
    text = found.data.get("text")
    return text if isinstance(text, str) else ""


def _text(value: object) -> str:
    told = json.dumps(value, ensure_ascii=False)
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}…"


# Traces


def trace(run_id: str, spans: Sequence[Span]) -> Tree:
    """Return what handled a run's messages, as a tree of causes."""
    root = Tree(text(run_id, "bold"), guide_style="dim")
    begun = min((span.started_at for span in spans), default=None)
    nodes = {span.id: Tree(_span(span, begun or span.started_at)) for span in spans}
    for span in spans:
        # A trace is bounded: where a cause was left out, its effects hang on the run.
        parent = nodes.get(span.parent or "", root)
        parent.children.append(nodes[span.id])
    if not spans:
        root.add(text("nothing was traced", "dim"))
    return root


def _span(span: Span, begun: datetime) -> Text:
    """Return one handled message: what, who, where, when from the beginning on, how long."""
    after_ms = (span.started_at - begun).total_seconds() * 1000
    facts = [f"at {after_ms:.1f} ms", f"took {span.duration_ms:.1f} ms"]
    if span.waited_ms:
        facts.append(f"waited {span.waited_ms:.1f} ms")
    if span.size_bytes is not None:
        facts.append(_bytes(span.size_bytes))
    line = Text.assemble(
        text(span.event, "bold"),
        " → ",
        text(span.agent, "cyan"),
        text(f"  {span.host}  ", "dim"),
        text(", ".join(facts)),
    )
    if span.error:
        line.append_text(text(f"  {span.error}", "red"))
    return line


def _bytes(number: int) -> str:
    """Return a size as people say it: 120 B, 3.4 KiB, 2.0 MiB."""
    if number < 1024:
        return f"{number} B"
    if number < 1024**2:
        return f"{number / 1024:.1f} KiB"
    return f"{number / 1024**2:.1f} MiB"


def traces(found: Sequence[TraceSummary]) -> RenderableType:
    """Return traces as a table."""
    if not found:
        return text("There are no such traces.")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("Run", "Status", "Agent", "Started", "Took", "Messages", "Errors", "Types"):
        table.add_column(name, overflow="fold")
    for of in found:
        more = f" (+{of.dropped_spans})" if of.dropped_spans else ""
        table.add_row(
            text(of.run),
            status_text(of.status),
            text(of.agent),
            text(moment(of.started_at)),
            text(f"{of.duration_ms:.1f} ms"),
            text(f"{of.spans}{more}"),
            text(of.errors or None, "red"),
            text(", ".join(of.agent_types)),
        )
    return table
