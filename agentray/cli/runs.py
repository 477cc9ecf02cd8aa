"""Commands about runs: prompt, run, runs. They speak HTTP, and need no Ray here."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentray.cli import console
from agentray.cli.asking import Asking, give, raise_if_failed, show_trace, tell
from agentray.cli.command import JsonOption, Target, asks_gateway, goes_on
from agentray.cli.exits import ExitCode
from agentray.cli.options import AgentOption, LimitOption, OnlyAgentOption, read_object
from agentray.cli.showing import show, show_page
from agentray.cli.times import read_seconds, read_time
from agentray.core.lifecycle import TERMINAL, is_settled
from agentray.errors import ConfigurationError
from agentray.ids import new_id
from agentray.protocol.attachments import Attachment
from agentray.protocol.budgets import Budget
from agentray.protocol.event_runs import PromptDurability
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.sessions import SessionPolicy

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agentray.client import AsyncAgentClient, PromptOptions

RunId = Annotated[str, typer.Argument(metavar="RUN_ID")]
Text = Annotated[str | None, typer.Argument(help="What the agent is asked.")]
TextFile = Annotated[
    str | None, typer.Option(metavar="PATH", help="Read the text from a file; - is the input.")
]
StreamOption = Annotated[
    bool, typer.Option("--stream", help="Print the run's events as they come.")
]
JsonEventsOption = Annotated[
    bool, typer.Option("--json", help="Print the run as JSON; with --stream, an event per line.")
]
TraceOption = Annotated[
    bool, typer.Option("--trace", help="Print the run's events as a tree when it has ended.")
]
WaitOption = Annotated[
    float | None,
    typer.Option(min=0, help="Seconds to wait for the end; the run goes on (default: to the end)."),
]
RunTimeout = Annotated[
    float | None,
    typer.Option(min=0.001, help="Seconds after which the run is ended (default: never)."),
]
MaxWall = Annotated[float | None, typer.Option(min=0.001, help="Budget: seconds of work.")]
MaxTokens = Annotated[int | None, typer.Option(min=0, help="Budget: tokens of language models.")]
MaxToolCalls = Annotated[int | None, typer.Option(min=0, help="Budget: calls of tools.")]
MaxCost = Annotated[float | None, typer.Option(min=0, help="Budget: cost, as its agents count it.")]
DurabilityOption = Annotated[
    PromptDurability,
    typer.Option(help="When a host dies: begin again, or go on after the last step."),
]
Delay = Annotated[
    str | None,
    typer.Option(
        "--in", metavar="TIME", help="Begin after 90s, 15m, 2h or 3d; prints the run's id."
    ),
]
At = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Begin at a time, as 2026-01-31T12:00; prints the id."),
]
SessionOption = Annotated[
    str | None, typer.Option(metavar="ID", help="In a session: its agent is asked, in its turn.")
]
PolicyOption = Annotated[
    SessionPolicy,
    typer.Option(
        help="While the session has a run under way: wait, or be refused, or cancel "
        "that run; `rollback` undoes it, too."
    ),
]
Attach = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Give it a file, too; may be repeated."),
]
Schema = Annotated[
    Path | None, typer.Option(metavar="FILE", help="JSON Schema that the answer must fit.")
]

_CANCEL_WAIT_S = 30.0


@asks_gateway
def prompt(  # noqa: PLR0913 - the options are read from the signature
    target: Target,
    text: Text = None,
    *,
    file: TextFile = None,
    agent: AgentOption = None,
    stream: StreamOption = False,
    as_json: JsonEventsOption = False,
    trace: TraceOption = False,
    wait: WaitOption = None,
    run_timeout: RunTimeout = None,
    max_wall: MaxWall = None,
    max_tokens: MaxTokens = None,
    max_tool_calls: MaxToolCalls = None,
    max_cost: MaxCost = None,
    durability: DurabilityOption = "run",
    delay: Delay = None,
    at: At = None,
    session: SessionOption = None,
    policy: PolicyOption = SessionPolicy.ENQUEUE,
    attach: Attach = None,
    schema: Schema = None,
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
        "output_schema": None if schema is None else read_object("--schema", f"@{schema}"),
    }
    _check(options, stream=stream)
    wait_s = (0.0 if delay or at else inf) if wait is None else wait
    asking = Asking(read_text(text, file), agent, stream, as_json, trace, wait_s, options)
    _exit(target.ask(lambda client: give(client, asking)))


def _exit(code: ExitCode) -> None:
    if code is not ExitCode.OK:
        raise typer.Exit(code)


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


@asks_gateway
def cancel(
    target: Target,
    run_id: RunId,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait until it has ended.")
    ] = _CANCEL_WAIT_S,
    as_json: JsonOption = False,
) -> None:
    """Cancel a run, and wait until it has ended.

    A run that has ended already stays as it is. Exits with 7 when it has not ended within --wait.
    """
    found = target.ask(lambda client: client.cancel(run_id, wait))
    console.write(
        found.model_dump_json(indent=2) if as_json else f"{found.id}: {found.status.value}"
    )
    if found.status not in TERMINAL and wait > 0:
        console.note(f"It is being cancelled; see: agentray run {found.id}")
        raise typer.Exit(ExitCode.UNFINISHED)


@asks_gateway
def answer(
    target: Target,
    run_id: RunId,
    given: Annotated[
        str, typer.Argument(metavar="ANSWER", help="JSON; what is none is taken as a text.")
    ],
    *,
    text: Annotated[bool, typer.Option("--text", help="It is a text, also if it is JSON.")] = False,
    question: Annotated[
        str | None, typer.Option(metavar="ID", help="The question (default: what is asked now).")
    ] = None,
    wait: WaitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer what a run waits to be told, and print what comes of it, as `prompt` does.

    `agentray runs --status waiting` lists such runs; `agentray run RUN_ID` shows the question.
    """
    value = given if text else _json_or_text(given)
    asking = Asking("", None, False, as_json, False, inf if wait is None else wait)

    async def ask(client: AsyncAgentClient) -> ExitCode:
        again = new_id("key")
        say = partial(client.answer, run_id, value, question=question, idempotency_key=again)
        found = await say(wait_s=0)
        if not is_settled(found) and asking.wait_s > 0:
            with console.waiting("waiting for the answer"):
                found = await say(wait_s=asking.wait_s)
        code = tell(found, asking)
        raise_if_failed(found)
        return code

    _exit(target.ask(ask))


def _json_or_text(given: str) -> Any:
    try:
        return json.loads(given)
    except ValueError:
        return given


@asks_gateway
def run(
    target: Target, run_id: RunId, as_json: JsonOption = False, trace: TraceOption = False
) -> None:
    """Show a run."""

    async def ask(client: AsyncAgentClient) -> None:
        show(await client.run(run_id), _whole, as_json=as_json)
        if trace:
            await show_trace(client, run_id, on_stderr=as_json)

    target.ask(ask)


def _whole(found: Run) -> RenderableType:
    from agentray.cli import results

    return results.run(found)


@asks_gateway
def runs(
    target: Target,
    context: typer.Context,
    *,
    status: Annotated[RunStatus | None, typer.Option(help="Only those.")] = None,
    agent: OnlyAgentOption = None,
    limit: LimitOption = 20,
    before: Annotated[
        str | None, typer.Option(metavar="RUN_ID", help="Only those older than this run.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Runs, newest first; `prune` forgets old ones."""
    if goes_on(context):
        return
    page = target.ask(
        lambda client: client.runs(limit=limit, before=before, status=status, agent=agent)
    )
    show_page("runs", page.runs, page.next, _table, as_json=as_json)


def _table(rows: Sequence[Run]) -> RenderableType:
    from agentray.cli import render

    return render.runs(rows)


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
