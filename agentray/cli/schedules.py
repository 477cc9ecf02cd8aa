"""Commands about schedules. They speak HTTP, and need no Ray here."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentray.cli import console
from agentray.cli.command import Command, JsonOption, Target, asks_gateway
from agentray.cli.options import AgentOption, LimitOption
from agentray.cli.showing import show, show_page
from agentray.cli.times import read_seconds, read_time
from agentray.protocol.schedules import Missed, Overlap

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agentray.client import AsyncAgentClient, ScheduleOptions
    from agentray.protocol.schedules import Schedule
    from agentray.protocol.webhooks import WebhookSpec

Id = Annotated[str, typer.Argument(metavar="ID", help="The schedule's id.")]
Cron = Annotated[
    str | None,
    typer.Option(help="Five fields: minute, hour, day of month, month, day of week."),
]
Every = Annotated[
    str | None, typer.Option(metavar="TIME", help="Instead: every 90s, 15m, 2h or 3d.")
]
Zone = Annotated[str, typer.Option(help="In which --cron is read, as Europe/Berlin.")]
StartsAt = Annotated[
    str | None, typer.Option(metavar="TIME", help="Nothing fires before, as 2026-01-31T12:00.")
]
EndsAt = Annotated[str | None, typer.Option(metavar="TIME", help="Nothing fires after.")]
Jitter = Annotated[
    str | None, typer.Option(metavar="TIME", help="Begin up to so much later, as 30s.")
]
MissedOption = Annotated[
    Missed, typer.Option(help="What becomes of firings while the cluster was down.")
]
WebhookOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Tell it of the end of each run, signed with the secret `default`."
    ),
]
OverlapOption = Annotated[
    Overlap, typer.Option(help="What becomes of a firing while an earlier run goes on.")
]

group = typer.Typer(
    name="schedules",
    help="Schedules: prompts that are given again and again.",
    no_args_is_help=True,
)


def _read_webhook(url: str) -> WebhookSpec:
    from pydantic import ValidationError

    from agentray.errors import ConfigurationError
    from agentray.protocol.webhooks import WebhookSpec

    try:
        return WebhookSpec(url=url)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"--webhook {url!r}: {problem}.") from error


def _whole(found: Schedule) -> RenderableType:
    from agentray.cli import schedule_results as results

    return results.schedule(found)


def _table(rows: Sequence[Schedule]) -> RenderableType:
    from agentray.cli import schedule_results as results

    return results.schedules(rows)


@group.command("list", cls=Command)
@asks_gateway
def list_(
    target: Target,
    limit: LimitOption = 50,
    after: Annotated[str, typer.Option(metavar="ID", help="Only those after this one.")] = "",
    as_json: JsonOption = False,
) -> None:
    """List schedules, with when they fire next."""
    page = target.ask(lambda client: client.schedules.list(limit=limit, after=after))
    show_page("schedules", page.schedules, page.next, _table, as_json=as_json, option="--after")


@group.command("show", cls=Command)
@asks_gateway
def show_one(target: Target, schedule_id: Id, as_json: JsonOption = False) -> None:
    """Show a schedule and its next times."""
    show(target.ask(lambda client: client.schedules.get(schedule_id)), _whole, as_json=as_json)


@group.command(cls=Command)
@asks_gateway
def create(  # noqa: PLR0913 - the options are read from the signature
    target: Target,
    schedule_id: Id,
    prompt: Annotated[str, typer.Argument(metavar="TEXT", help="What the agent is asked.")],
    *,
    cron: Cron = None,
    every: Every = None,
    timezone: Zone = "UTC",
    agent: AgentOption = None,
    starts_at: StartsAt = None,
    ends_at: EndsAt = None,
    jitter: Jitter = None,
    missed: MissedOption = Missed.ONE,
    overlap: OverlapOption = Overlap.SKIP,
    webhook: WebhookOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let the schedule of this id say this instead.")
    ] = False,
    as_json: JsonOption = False,
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

    if webhook is not None:
        options["webhook"] = _read_webhook(webhook)

    def work(client: AsyncAgentClient) -> Coroutine[Any, Any, Schedule]:
        make = client.schedules.replace if replace else client.schedules.create
        return make(schedule_id, prompt=prompt, agent=agent, **options)

    show(target.ask(work), _whole, as_json=as_json)


@group.command(cls=Command)
@asks_gateway
def pause(target: Target, schedule_id: Id) -> None:
    """Let a schedule make no runs until it is resumed."""
    found = target.ask(lambda client: client.schedules.pause(schedule_id))
    console.write(f"{found.id}: paused")


@group.command(cls=Command)
@asks_gateway
def resume(target: Target, schedule_id: Id) -> None:
    """Let a paused schedule fire again; what it did not do meanwhile is over."""
    found = target.ask(lambda client: client.schedules.resume(schedule_id))
    console.write(f"{found.id}: {found.status.value}")


@group.command(cls=Command)
@asks_gateway
def delete(target: Target, schedule_id: Id) -> None:
    """Forget a schedule; runs that it has made stay."""
    target.ask(lambda client: client.schedules.delete(schedule_id))
    console.write(f"{schedule_id}: deleted")


@group.command(cls=Command)
@asks_gateway
def trigger(target: Target, schedule_id: Id) -> None:
    """Make a run of a schedule now, beside its times; prints the run's id."""
    console.write(target.ask(lambda client: client.schedules.trigger(schedule_id)).id)
