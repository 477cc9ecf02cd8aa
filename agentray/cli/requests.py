"""Commands about typed requests and their jobs. They speak HTTP, and need no Ray here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Annotated

import typer

from agentray.cli import console
from agentray.cli.command import Command, JsonOption, Target, asks_gateway
from agentray.cli.exits import ExitCode
from agentray.cli.options import AgentOption, read_object
from agentray.cli.showing import show_all
from agentray.ids import new_id
from agentray.protocol.async_jobs import JobState

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agentray.client import AsyncAgentClient
    from agentray.client.calls.jobs import JobOptions
    from agentray.protocol.async_jobs import JobStatus, JobType

TypeName = Annotated[str, typer.Argument(metavar="TYPE", help="The type of the request.")]
Token = Annotated[str, typer.Argument(metavar="TOKEN", help="That it was started with.")]
WaitOption = Annotated[
    float | None,
    typer.Option(min=0, help="Seconds to wait for the end; it goes on (default: to the end)."),
]
_LOOK_S = 20.0

group = typer.Typer(
    name="requests",
    help="Typed requests: what agents answer beside prompts; each is a job.",
    no_args_is_help=True,
)


@group.command("types", cls=Command)
@asks_gateway
def types(target: Target, *, as_json: JsonOption = False) -> None:
    """List the types of requests that agents answer."""
    found = target.ask(lambda client: client.requests.types())
    show_all(found, _table, as_json=as_json)


def _table(rows: Sequence[JobType]) -> RenderableType:
    from agentray.cli.render import columns, text

    if not rows:
        return text("No agent answers requests.")
    shown = columns("Type", "Agents", "Fields", "What")
    for row in rows:
        about = row.doc.partition("\n")[0]
        told = (row.name, ", ".join(row.agents), ", ".join(_fields(row)), about)
        shown.add_row(*map(text, told))
    return shown


def _fields(row: JobType) -> list[str]:
    return list(row.request_schema.get("properties", {}))


@group.command(cls=Command)
@asks_gateway
def send(  # noqa: PLR0913 - the options are read from the signature
    target: Target,
    request_type: TypeName,
    request: Annotated[
        str, typer.Argument(metavar="JSON|@FILE", help="Its fields: a JSON object.")
    ] = "{}",
    *,
    agent: AgentOption = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="Of a prompt: the session it is given in.")
    ] = None,
    run_timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds after which it is ended.")
    ] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="It completes although parts fail, and tells them.")
    ] = False,
    wait: WaitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a request, and print its response when it has ended.

    With --wait 0 its token is printed. Exits with 6 when it fails, and with 7 when it has not ended
    within --wait.
    """
    fields, key = read_object("REQUEST", request), new_id("key")
    options: JobOptions = {"agent": agent, "session": session, "timeout_s": run_timeout}
    if collect:
        options["on_error"] = "collect"

    async def start(client: AsyncAgentClient) -> str:
        return await client.requests.start(request_type, fields, idempotency_key=key, **options)

    token = target.ask(start)
    if wait == 0:
        console.write(token)
        return
    _tell(_look(target, request_type, token, wait), as_json=as_json)


@group.command(cls=Command)
@asks_gateway
def get(
    target: Target,
    request_type: TypeName,
    token: Token,
    *,
    wait: WaitOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Look at the job of a request, and print its response when it has ended."""
    _tell(_look(target, request_type, token, wait), as_json=as_json)


@group.command(cls=Command)
@asks_gateway
def cancel(
    target: Target, request_type: TypeName, token: Token, *, as_json: JsonOption = False
) -> None:
    """End the job of a request; one that has ended stays as it is."""
    found = target.ask(lambda client: client.requests.cancel(request_type, token))
    console.write(found.model_dump_json(indent=2) if as_json else f"{token}: {found.state.value}")


def _look(target: Target, request_type: str, token: str, wait: float | None) -> JobStatus:
    """Wait for a job, and say what is new of its progress."""
    deadline = time.monotonic() + (inf if wait is None else wait)
    after: int | None = None
    told = ""

    async def look(client: AsyncAgentClient) -> JobStatus:
        # The first look tells where its events are: from there on news end the wait, too.
        wait_s = 0.0 if after is None else max(0.0, min(_LOOK_S, deadline - time.monotonic()))
        return await client.requests.get(request_type, token, wait_s=wait_s, after=after)

    while True:
        job = target.ask(look)
        progress, after = job.progress, job.cursor
        if progress is not None and progress.message != told:
            told = progress.message
            of = (
                "" if progress.total is None else f" ({progress.current or 0:g}/{progress.total:g})"
            )
            console.note(f"{told}{of}")
        ended = job.state is not JobState.PROCESSING or job.question is not None
        if ended or time.monotonic() >= deadline:
            return job


def _tell(job: JobStatus, *, as_json: bool) -> None:
    """Print a job, and end as it did."""
    if as_json:
        console.write(job.model_dump_json(indent=2))
    elif job.state is JobState.COMPLETE:
        response = job.response
        if isinstance(response, str):
            console.write(response)
        else:
            console.write_json(response)
        for failure in job.failures:
            console.note(f"a part failed: {failure.type}: {failure.message}")
    elif job.question is not None:
        console.write(f"{job.token} asks: {job.question}")
        console.note(f"Answer it: agentray answer {job.token} ANSWER")
    elif job.error is not None:
        console.complain(f"{job.token} has failed: {job.error.type}: {job.error.message}")
    else:
        console.write(f"{job.token}: {job.state.value}")
    if job.state is JobState.FAILED:
        raise typer.Exit(ExitCode.RUN_FAILED)
    if job.state is JobState.PROCESSING:
        raise typer.Exit(ExitCode.UNFINISHED)
