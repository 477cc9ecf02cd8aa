"""Commands about runs: prompt, run, runs. They speak HTTP, and need no Ray here."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from agentray.cli import console
from agentray.cli.command import (
    DEFAULT_TIMEOUT_S,
    JsonOption,
    KeyOption,
    Target,
    TimeoutOption,
    UrlOption,
)
from agentray.cli.exits import ExitCode
from agentray.cli.times import read_seconds, read_time
from agentray.core.lifecycle import TERMINAL, is_settled
from agentray.errors import ConfigurationError, RunFailed
from agentray.ids import new_id
from agentray.protocol.attachments import Attachment
from agentray.protocol.budgets import Budget
from agentray.protocol.event_runs import PromptDurability
from agentray.protocol.runs import EventKind, Run, RunEvent, RunStatus
from agentray.protocol.sessions import SessionPolicy

if TYPE_CHECKING:
    from agentray.client import AsyncAgentClient, PromptOptions, RunPage

TraceOption = Annotated[
    bool, typer.Option("--trace", help="Print the run's events as a tree when it has ended.")
]


_CANCEL_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class _Asking:
    """How a prompt is given, and what is shown of its run."""

    text: str
    agent: str | None
    stream: bool
    as_json: bool
    trace: bool
    wait_s: float
    options: PromptOptions = field(default_factory=lambda: cast("PromptOptions", {}))


def prompt(  # noqa: PLR0913 - the options are read from the signature
    text: Annotated[str | None, typer.Argument(help="What the agent is asked.")] = None,
    *,
    file: Annotated[
        str | None, typer.Option(metavar="PATH", help="Read the text from a file; - is the input.")
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(help="An agent type, or TYPE/KEY (default: the entry of the app)."),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print the run's events as they come.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the run as JSON; with --stream, an event per line."),
    ] = False,
    trace: TraceOption = False,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0, help="Seconds to wait for the end; the run goes on (default: to the end)."
        ),
    ] = None,
    run_timeout: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds after which the run is ended (default: never)."),
    ] = None,
    max_wall: Annotated[
        float | None, typer.Option(min=0.001, help="Budget: seconds of work.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=0, help="Budget: tokens of language models.")
    ] = None,
    max_tool_calls: Annotated[
        int | None, typer.Option(min=0, help="Budget: calls of tools.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="Budget: cost, as its agents count it.")
    ] = None,
    durability: Annotated[
        PromptDurability,
        typer.Option(help="When a host dies: begin again, or go on after the last step."),
    ] = "run",
    delay: Annotated[
        str | None,
        typer.Option(
            "--in", metavar="TIME", help="Begin after 90s, 15m, 2h or 3d; prints the run's id."
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Begin at a time, as 2026-01-31T12:00; prints the id."),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(metavar="ID", help="In a session: its agent is asked, in its turn."),
    ] = None,
    policy: Annotated[
        SessionPolicy,
        typer.Option(
            help="While the session has a run under way: wait, or be refused, or cancel "
            "that run; `rollback` undoes it, too."
        ),
    ] = SessionPolicy.ENQUEUE,
    attach: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Give it a file, too; may be repeated."),
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON Schema that the answer must fit."),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Ask an agent and print its answer.

    Exits with 6 when the run does not succeed, and with 7 when it has not ended within --wait.
    """
    budget = Budget(wall_s=max_wall, tokens=max_tokens, tool_calls=max_tool_calls, cost=max_cost)
    options: PromptOptions = {
        "run_timeout_s": run_timeout,
        "budget": None if budget == Budget() else budget,
        "durability": durability,
        "delay_s": None if delay is None else read_seconds("--in", delay),
        "at": None if at is None else read_time("--at", at),
        "session": session,
        "policy": policy,
        "attachments": [Attachment.of_file(file) for file in attach or ()],
        "output_schema": None if schema is None else _schema(schema),
    }
    _check(options, stream=stream)
    wait_s = (0.0 if delay or at else inf) if wait is None else wait
    given = read_text(text, file)
    asking = _Asking(given, agent, stream, as_json, trace, wait_s, options)
    code = asyncio.run(_prompt(Target(url, key, timeout), asking))
    if code is not ExitCode.OK:
        raise typer.Exit(code)


def _schema(file: Path) -> dict[str, Any]:
    """Read a JSON Schema.

    Raises:
        ConfigurationError: it cannot be read, or is no JSON object.
    """
    try:
        value: object = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigurationError(f"{file} is no JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"{file} is no JSON Schema: it must be a JSON object.")
    return cast("dict[str, Any]", value)


def _check(options: PromptOptions, *, stream: bool) -> None:
    """Refuse what cannot go together.

    Raises:
        ConfigurationError: something does not.
    """
    later = [name for name in ("delay_s", "at") if options.get(name) is not None]
    if len(later) > 1:
        raise ConfigurationError("Give --in or --at, not both.")
    if later and stream:
        raise ConfigurationError("A run that begins later has no events yet: leave out --stream.")
    if options.get("durability") == "step" and options.get("budget") is not None:
        raise ConfigurationError("A run that is durable per step has no budget: leave out --max-*.")


def cancel(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID")],
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait until it has ended.")
    ] = _CANCEL_WAIT_S,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Cancel a run, and wait until it has ended.

    A run that has ended already stays as it is. Exits with 7 when it has not ended within --wait.
    """

    async def ask() -> Run:
        async with Target(url, key, timeout).client() as client:
            return await client.cancel(run_id, wait)

    found = asyncio.run(ask())
    console.write(
        found.model_dump_json(indent=2) if as_json else f"{found.id}: {found.status.value}"
    )
    if found.status not in TERMINAL and wait > 0:
        console.note(f"It is being cancelled; see: agentray run {found.id}")
        raise typer.Exit(ExitCode.UNFINISHED)


def answer(  # noqa: PLR0913 - the options are read from the signature
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID")],
    given: Annotated[
        str, typer.Argument(metavar="ANSWER", help="JSON; what is none is taken as a text.")
    ],
    *,
    text: Annotated[bool, typer.Option("--text", help="It is a text, also if it is JSON.")] = False,
    question: Annotated[
        str | None, typer.Option(metavar="ID", help="The question (default: what is asked now).")
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0, help="Seconds to wait for the end; the run goes on (default: to the end)."
        ),
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Answer what a run waits to be told, and print what comes of it, as `prompt` does.

    `agentray runs --status waiting` lists such runs; `agentray run RUN_ID` shows the question.
    """
    value = given if text else _json_or_text(given)
    asking = _Asking("", None, False, as_json, False, inf if wait is None else wait)

    async def ask() -> ExitCode:
        again = new_id("key")
        async with Target(url, key, timeout).client() as client:
            say = partial(client.answer, run_id, value, question=question, idempotency_key=again)
            found = await say(wait_s=0)
            if not is_settled(found) and asking.wait_s > 0:
                with console.waiting("waiting for the answer"):
                    found = await say(wait_s=asking.wait_s)
        code = _tell(found, asking)
        _raise_if_failed(found)
        return code

    code = asyncio.run(ask())
    if code is not ExitCode.OK:
        raise typer.Exit(code)


def _json_or_text(given: str) -> Any:
    try:
        return json.loads(given)
    except ValueError:
        return given


def run(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID")],
    as_json: JsonOption = False,
    trace: TraceOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show a run."""
    asyncio.run(_show_run(Target(url, key, timeout), run_id, as_json=as_json, trace=trace))


def runs(  # noqa: PLR0913 - the options are read from the signature
    context: typer.Context,
    *,
    status: Annotated[RunStatus | None, typer.Option(help="Only those.")] = None,
    agent: Annotated[
        str | None, typer.Option(help="Only those of this agent type, or TYPE/KEY.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most of them.")] = 20,
    before: Annotated[
        str | None, typer.Option(metavar="RUN_ID", help="Only those older than this run.")
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Runs, newest first; `prune` forgets old ones."""
    if context.invoked_subcommand is not None:
        return

    async def ask() -> RunPage:
        async with Target(url, key, timeout).client() as client:
            return await client.runs(limit=limit, before=before, status=status, agent=agent)

    page = asyncio.run(ask())
    if as_json:
        rows = [found.model_dump(mode="json") for found in page.runs]
        console.write_json({"runs": rows, "next": page.next})
        return
    from agentray.cli import render

    console.out().print(render.runs(page.runs))
    if page.next:
        console.note(f"There are more: --before {page.next}")


def read_text(text: str | None, file: str | None) -> str:
    """Return what an agent is asked.

    Args:
        text: given on the command line.
        file: path of a file, `-` for standard input.

    Raises:
        ConfigurationError: both or none are given, there is nothing in it, or it is no UTF-8 text.
    """
    if (text is None) == (file is None):
        raise ConfigurationError("Give a text, or --file PATH; --file - reads the input.")
    if file is not None:
        text = _read_file(file)
    if text is None or not text.strip():
        raise ConfigurationError("There is nothing to ask: the text is empty.")
    return text


def _read_file(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode()
    except OSError as error:
        raise ConfigurationError(f"{file!r} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file!r} is no text in UTF-8: {error}.") from error


async def _prompt(target: Target, asking: _Asking) -> ExitCode:
    async with target.client() as client:
        said = ""
        if asking.stream:
            found, said = await _stream(client, asking)
        else:
            with console.waiting("waiting for the answer"):
                found = await _ask(client, asking)
        code = _tell(found, asking, said)
        if asking.trace and found.status in TERMINAL:
            await _show_trace(client, found.id, on_stderr=asking.as_json)
    _raise_if_failed(found)
    return code


def _tell(found: Run, asking: _Asking, said: str = "") -> ExitCode:
    """Show what came of a run, or that it goes on."""
    if found.status not in TERMINAL:
        return _unfinished(found, asking)
    _show_end(found, asking, said)
    return ExitCode.OK


def _raise_if_failed(found: Run) -> None:
    if found.status in TERMINAL and found.status is not RunStatus.SUCCEEDED:
        from agentray.cli import results

        why = results.error(found.error) if found.error else "no reason was given"
        raise RunFailed(found.id, found.status.value.replace("_", " "), why)


async def _ask(client: AsyncAgentClient, asking: _Asking) -> Run:
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


async def _stream(client: AsyncAgentClient, asking: _Asking) -> tuple[Run, str]:
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


def _unfinished(found: Run, asking: _Asking) -> ExitCode:
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


def _show_end(found: Run, asking: _Asking, said: str) -> None:
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


async def _show_run(target: Target, run_id: str, *, as_json: bool, trace: bool) -> None:
    async with target.client() as client:
        found = await client.run(run_id)
        if as_json:
            console.write(found.model_dump_json(indent=2))
        else:
            from agentray.cli import results

            console.out().print(results.run(found))
        if trace:
            await _show_trace(client, run_id, on_stderr=as_json)


async def _show_trace(client: AsyncAgentClient, run_id: str, *, on_stderr: bool) -> None:
    """Print a run's trace; beside JSON on standard error, so that the JSON stays JSON."""
    from agentray.cli import results

    spans = await client.trace(run_id)
    (console.err() if on_stderr else console.out()).print(results.trace(run_id, spans))
