"""Gives a prompt for the command line, waits for its run, and shows what came of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING, cast

from agentray.cli import console
from agentray.cli.exits import ExitCode
from agentray.core.lifecycle import TERMINAL, is_settled
from agentray.errors import RunFailed
from agentray.ids import new_id
from agentray.protocol.runs import EventKind, Run, RunEvent, RunStatus

if TYPE_CHECKING:
    from agentray.client import AsyncAgentClient, PromptOptions


@dataclass(frozen=True, slots=True)
class Asking:
    """How a prompt is given, and what is shown of its run."""

    text: str
    agent: str | None
    stream: bool
    as_json: bool
    trace: bool
    wait_s: float
    options: PromptOptions = field(default_factory=lambda: cast("PromptOptions", {}))


async def give(client: AsyncAgentClient, asking: Asking) -> ExitCode:
    """Give a prompt, and show what comes of it.

    Raises:
        RunFailed: its run did not succeed.
        ClientError: the gateway refuses, or cannot be reached.
    """
    said = ""
    if asking.stream:
        found, said = await _stream(client, asking)
    else:
        with console.waiting("waiting for the answer"):
            found = await _ask(client, asking)
    code = tell(found, asking, said)
    if asking.trace and found.status in TERMINAL:
        await show_trace(client, found.id, on_stderr=asking.as_json)
    raise_if_failed(found)
    return code


def tell(found: Run, asking: Asking, said: str = "") -> ExitCode:
    """Show what came of a run, or that it goes on."""
    if found.status not in TERMINAL:
        return _unfinished(found, asking)
    _show_end(found, asking, said)
    return ExitCode.OK


def raise_if_failed(found: Run) -> None:
    """Raise when a run has ended otherwise than well.

    Raises:
        RunFailed: it has.
    """
    if found.status in TERMINAL and found.status is not RunStatus.SUCCEEDED:
        from agentray.cli import results

        why = results.error(found.error) if found.error else "no reason was given"
        raise RunFailed(found.id, found.status.value.replace("_", " "), why)


async def _ask(client: AsyncAgentClient, asking: Asking) -> Run:
    """Give the prompt, and return its run when it has ended or is waited for no longer.

    In two steps: a gateway that does not answer is known as soon as the first fails, not after the
    time that a run may take. The same key finds the same run, and needs no leave to read runs.
    """
    again = new_id("key")
    ask = partial(
        client.prompt,
        asking.text,
        asking.agent,
        idempotency_key=again,
        **asking.options,
    )
    found = await ask(wait_s=0)
    if is_settled(found) or asking.wait_s == 0:
        return found
    return await ask(wait_s=asking.wait_s)


async def _stream(client: AsyncAgentClient, asking: Asking) -> tuple[Run, str]:
    """Show the run's events until its end, or as long as is waited for.

    Returns:
        The run, and what it said meanwhile.
    """
    again = new_id("key")
    printer = _EventPrinter(as_json=asking.as_json)
    wait_s = None if asking.wait_s == inf else asking.wait_s
    events = client.stream(
        asking.text,
        asking.agent,
        idempotency_key=again,
        **asking.options,
    )
    try:
        async with asyncio.timeout(wait_s), aclosing(events):
            async for event in events:
                printer.show(event)
    except TimeoutError:
        console.note(f"Nobody waits any more: {wait_s:g} s are over.")
    printer.end_line()
    # As in `_ask`: the events do not tell the run's id.
    found = await client.prompt(
        asking.text,
        asking.agent,
        wait_s=0,
        idempotency_key=again,
        **asking.options,
    )
    return found, printer.said


class _EventPrinter:
    """Prints events as they come: the answer to standard output, all else to standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._within_line = False
        self.said = ""

    def show(self, event: RunEvent) -> None:
        from agentray.cli import results

        if self._as_json:
            console.write(event.model_dump_json())
        elif event.kind == EventKind.TEXT_DELTA:
            said = results.said(event)
            console.write(said, end="")
            self.said += said
            self._within_line = not said.endswith("\n")
        else:
            self.end_line()
            console.note(results.event(event))

    def end_line(self) -> None:
        """Let what comes next begin a line of its own."""
        if self._within_line:
            console.write("")
            self._within_line = False


def _unfinished(found: Run, asking: Asking) -> ExitCode:
    """Tell that the run goes on; where nobody wanted to wait, that is as it should be."""
    if asking.as_json and not asking.stream:
        console.write(found.model_dump_json(indent=2))
    elif not asking.as_json and asking.wait_s == 0:
        console.write(found.id)
    if found.question is not None:
        console.note(f"{found.id} asks: {found.question.question}")
        console.note(f"Answer it: agentray answer {found.id} ANSWER")
        return ExitCode.UNFINISHED
    console.note(f"{found.id} is {found.status.value}; see: agentray run {found.id}")
    return ExitCode.OK if asking.wait_s == 0 else ExitCode.UNFINISHED


def _show_end(found: Run, asking: Asking, said: str) -> None:
    """Show what came of a run; an error is told at the very end, by who ends the command."""
    if asking.as_json:
        if not asking.stream:
            console.write(found.model_dump_json(indent=2))
        return
    if found.status is not RunStatus.SUCCEEDED:
        return
    if isinstance(found.result, str):
        if found.result.rstrip("\n") != said.rstrip("\n"):  # it was shown already
            console.write(found.result)
        return
    from agentray.cli import results

    console.out().print(results.result(found.result))


async def show_trace(client: AsyncAgentClient, run_id: str, *, on_stderr: bool) -> None:
    """Print a run's trace; beside JSON on standard error, so that the JSON stays JSON."""
    from agentray.cli import results

    spans = await client.trace(run_id)
    (console.err() if on_stderr else console.out()).print(results.trace(run_id, spans))
