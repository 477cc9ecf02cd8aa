"""Commands about schedules. They speak HTTP, and need no Ray here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agentray.cli import console
from agentray.cli.command import (
    DEFAULT_TIMEOUT_S,
    Command,
    JsonOption,
    KeyOption,
    Target,
    TimeoutOption,
    UrlOption,
    ask_gateway,
)
from agentray.cli.times import read_seconds, read_time
from agentray.protocol.schedules import Missed, Overlap

if TYPE_CHECKING:
    from agentray.client import AsyncAgentClient, ScheduleOptions, SchedulePage
    from agentray.protocol.runs import Run
    from agentray.protocol.schedules import Schedule

Id = Annotated[str, typer.Argument(metavar="ID", help="The schedule's id.")]

group = typer.Typer(
    name="schedules",
    help="Schedules: prompts that are given again and again.",
    no_args_is_help=True,
)


def _show(found: Schedule, *, as_json: bool) -> None:
    if as_json:
        console.write(found.model_dump_json(indent=2))
        return
    from agentray.cli import schedule_results as results

    console.out().print(results.schedule(found))


@group.command("list", cls=Command)
def list_(
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most of them.")] = 50,
    after: Annotated[str, typer.Option(metavar="ID", help="Only those after this one.")] = "",
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """List schedules, with when they fire next."""

    async def ask(client: AsyncAgentClient) -> SchedulePage:
        return await client.schedules.list(limit=limit, after=after)

    page = ask_gateway(Target(url, key, timeout), ask)
    if as_json:
        rows = [found.model_dump(mode="json") for found in page.schedules]
        console.write_json({"schedules": rows, "next": page.next})
        return
    from agentray.cli import schedule_results as results

    console.out().print(results.schedules(page.schedules))
    if page.next:
        console.note(f"There are more: --after {page.next}")


@group.command(cls=Command)
def show(
    schedule_id: Id,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show a schedule and its next times."""

    async def ask(client: AsyncAgentClient) -> Schedule:
        return await client.schedules.get(schedule_id)

    _show(ask_gateway(Target(url, key, timeout), ask), as_json=as_json)


@group.command(cls=Command)
def create(  # noqa: PLR0913 - the options are read from the signature
    schedule_id: Id,
    prompt: Annotated[str, typer.Argument(metavar="TEXT", help="What the agent is asked.")],
    *,
    cron: Annotated[
        str | None,
        typer.Option(help="Five fields: minute, hour, day of month, month, day of week."),
    ] = None,
    every: Annotated[
        str | None, typer.Option(metavar="TIME", help="Instead: every 90s, 15m, 2h or 3d.")
    ] = None,
    timezone: Annotated[
        str, typer.Option(help="In which --cron is read, as Europe/Berlin.")
    ] = "UTC",
    agent: Annotated[
        str | None,
        typer.Option(help="An agent type, or TYPE/KEY (default: the entry of the app)."),
    ] = None,
    starts_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Nothing fires before, as 2026-01-31T12:00.")
    ] = None,
    ends_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Nothing fires after.")
    ] = None,
    jitter: Annotated[
        str | None, typer.Option(metavar="TIME", help="Begin up to so much later, as 30s.")
    ] = None,
    missed: Annotated[
        Missed, typer.Option(help="What becomes of firings while the cluster was down.")
    ] = Missed.ONE,
    overlap: Annotated[
        Overlap, typer.Option(help="What becomes of a firing while an earlier run goes on.")
    ] = Overlap.SKIP,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let the schedule of this id say this instead.")
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Make a schedule; one of the same id that says the same is found."""
    options: ScheduleOptions = {
        "timezone": timezone,
        "missed": missed.value,
        "overlap": overlap.value,
    }
    if cron is not None:
        options["cron"] = cron
    if every is not None:
        options["every_s"] = read_seconds("--every", every)
    if jitter is not None:
        options["jitter_s"] = read_seconds("--jitter", jitter)
    if starts_at is not None:
        options["starts_at"] = read_time("--starts-at", starts_at)
    if ends_at is not None:
        options["ends_at"] = read_time("--ends-at", ends_at)

    async def ask(client: AsyncAgentClient) -> Schedule:
        do = client.schedules.replace if replace else client.schedules.create
        return await do(schedule_id, prompt=prompt, agent=agent, **options)

    _show(ask_gateway(Target(url, key, timeout), ask), as_json=as_json)


@group.command(cls=Command)
def pause(
    schedule_id: Id,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Let a schedule make no runs until it is resumed."""

    async def ask(client: AsyncAgentClient) -> Schedule:
        return await client.schedules.pause(schedule_id)

    console.write(f"{ask_gateway(Target(url, key, timeout), ask).id}: paused")


@group.command(cls=Command)
def resume(
    schedule_id: Id,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Let a paused schedule fire again; what it did not do meanwhile is over."""

    async def ask(client: AsyncAgentClient) -> Schedule:
        return await client.schedules.resume(schedule_id)

    found = ask_gateway(Target(url, key, timeout), ask)
    console.write(f"{found.id}: {found.status.value}")


@group.command(cls=Command)
def delete(
    schedule_id: Id,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Forget a schedule; runs that it has made stay."""

    async def ask(client: AsyncAgentClient) -> None:
        await client.schedules.delete(schedule_id)

    ask_gateway(Target(url, key, timeout), ask)
    console.write(f"{schedule_id}: deleted")


@group.command(cls=Command)
def trigger(
    schedule_id: Id,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Make a run of a schedule now, beside its times; prints the run's id."""

    async def ask(client: AsyncAgentClient) -> Run:
        return await client.schedules.trigger(schedule_id)

    console.write(ask_gateway(Target(url, key, timeout), ask).id)
