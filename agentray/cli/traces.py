"""Commands about traces: trace, traces."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from agentray.cli import console
from agentray.cli.command import JsonOption, Target, ask_manager, asks_gateway
from agentray.cli.times import seconds_of
from agentray.errors import ConfigurationError

if TYPE_CHECKING:
    from agentray.client import AsyncAgentClient
    from agentray.protocol.runs import Run, Span


@asks_gateway
def trace(
    target: Target,
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID")],
    as_json: JsonOption = False,
) -> None:
    """Show what a run set off, as a tree: who handled what, when, where, and what failed."""

    async def ask(client: AsyncAgentClient) -> tuple[Run, list[Span]]:
        return await client.run(run_id), await client.trace(run_id)

    run, spans = target.ask(ask)
    if as_json:
        about = {"run": run.id, "status": run.status.value, "agent": run.agent}
        about["correlation_id"] = run.correlation_id
        rows = [span.model_dump(mode="json") for span in spans]
        console.write_json({**about, "spans": rows})
        return
    from agentray.cli import results

    console.out().print(results.trace(run.id, spans))


def traces(
    agent_type: Annotated[
        str | None, typer.Option("--agent", help="Only those in which this agent type took part.")
    ] = None,
    event: Annotated[
        str | None,
        typer.Option(
            "--type", help="Only those with an event of this type, or an action of this name."
        ),
    ] = None,
    correlation: Annotated[
        str | None, typer.Option(metavar="ID", help="Only those of this conversation.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only those begun since: 90s, 15m, 2h, 3d, or ISO 8601."),
    ] = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="Only those in which something failed.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most of them.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the traces of runs, newest first."""
    begun = None if since is None else read_since(since, datetime.now(UTC))
    found = ask_manager(
        lambda manager: manager.traces(
            agent_type=agent_type,
            event=event,
            correlation_id=correlation,
            since=begun,
            errors=errors or None,
            limit=limit,
        )
    )
    if as_json:
        console.write_json({"traces": [of.model_dump(mode="json") for of in found]})
        return
    from agentray.cli import results

    console.out().print(results.traces(found))


def read_since(text: str, now: datetime) -> datetime:
    """Return a time that is given as such, or as how long ago it was.

    Raises:
        ConfigurationError: it is neither.
    """
    if (seconds := seconds_of(text)) is not None:
        return now - timedelta(seconds=seconds)
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{text!r} is no time: write 90s, 15m, 2h or 3d ago, or 2026-01-31T12:00."
        ) from error
    return time.astimezone(UTC)
