"""Tables of what runs: pure functions from data to what rich can print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentray.cli.console import visible
from agentray.core.room import amounts
from agentray.ids import SLOTS
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.webhooks import Webhook, WebhookState

if TYPE_CHECKING:
    from agentray.cli.stack import Started
    from agentray.cli.status import ClusterStatus
    from agentray.config import ClusterRecord
    from agentray.protocol.letters import DeadLetter
    from agentray.protocol.topics import TopicSubscription

_STYLES = {
    RunStatus.QUEUED: "yellow",
    RunStatus.RUNNING: "cyan",
    RunStatus.WAITING: "magenta",
    RunStatus.SUCCEEDED: "green",
    RunStatus.CANCELLED: "dim",
}
_GOOD = {"live", "deployed", "ready", "idle", "running"}


def text(value: object, style: str = "") -> Text:
    """Return a value as text that is safe on a terminal; None is a dash."""
    return Text("-" if value is None else visible(str(value)), style=style)


def short(told: str, most: int = 60) -> str:
    """Return a text in one line, cut to so many characters."""
    line = " ".join(told.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def pairs(rows: Iterable[tuple[str, RenderableType | None]]) -> Table:
    """Return names and values beside each other."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(text(name), text(value) if value is None or isinstance(value, str) else value)
    return table


def seconds(value: float) -> str:
    """Return a duration as people say it: 12 ms, 3.4 s, 2 min 5 s, 3 h 20 min."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


# Up


def started(result: Started) -> RenderableType:
    """Return what `agentray up` has put up."""
    heading = Text(f"agentray is up ({seconds(result.seconds)}).", style="bold green")
    return Group(heading, _entrance(result.record, str(result.key_file), new_key=result.new_key))


def already_up(record: ClusterRecord, key_file: str, import_string: str) -> RenderableType:
    """Return what is up, for an `agentray up` that came second."""
    parts: list[RenderableType] = [
        Text("agentray is up already.", style="bold green"),
        _entrance(record, key_file, new_key=False),
    ]
    if record.app != import_string:
        command = f"agentray deploy {visible(import_string)}"
        parts.append(Text(f"It was started with another app; this one comes with: {command}"))
    return Group(*parts)


def _entrance(record: ClusterRecord, key_file: str, *, new_key: bool) -> Table:
    return pairs(
        [
            ("gateway", record.url),
            ("API key", f"in {key_file}{' (new)' if new_key else ''}"),
            ("dashboard", record.dashboard_url or None),
            ("logs", _logs(record)),
            ("app", record.app),
            ("next", 'agentray prompt "Your text"'),
        ]
    )


def _logs(record: ClusterRecord) -> str | None:
    session = record.local_cluster.get("session_dir")
    return f"{session}/logs" if session else None


# Status


def status(found: ClusterStatus) -> RenderableType:
    """Return the state of a cluster."""
    ready = not found.missing
    gateway = text("ready" if ready else "; ".join(found.missing), _good_or_bad(ready))
    rows = [("gateway", Text.assemble(found.url, "  ", gateway)), ("runs", run_counts(found))]
    if letters := found.manager.get("dead_letters"):
        reasons = found.manager.get("dead_letters_by_reason", {})
        why = ", ".join(f"{many} {reason.replace('_', ' ')}" for reason, many in reasons.items())
        told = f"{letters}: {why}; see: agentray dead-letters list"
        rows.append(("dead letters", text(told, "yellow")))
    return Group(
        pairs(rows),
        Text(),
        apps(found.manager["apps"]),
        pools(found.manager["pools"]),
        hosts(found.manager["hosts"]),
        *([host_deaths(lost)] if (lost := found.manager.get("host_deaths")) else []),
    )


def run_counts(found: ClusterStatus) -> Text:
    """Return how many runs there are, by status."""
    if found.runs is None:
        return Text("unknown", style="dim")
    now = [f"{count} {status}" for status, count in found.runs.unfinished.items()]
    last = [f"{count} {status}" for status, count in found.runs.latest_ended.items()]
    ended = f"of the latest: {', '.join(last)}" if last else "none has ended yet"
    return Text(f"{', '.join(now)}; {ended}")


def apps(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the deployed apps."""
    if not rows:
        return Text("No app is deployed: agentray deploy MODULE:APP", style="yellow")
    table = columns("App", "Status", "Agent types", "Entry", "Deployed")
    for row in rows:
        table.add_row(
            text(row["name"]),
            text(row["status"], _good_or_bad(row["status"] in _GOOD)),
            text(", ".join(row["agents"])),
            text(row["entry"]),
            text(moment(datetime.fromisoformat(row["deployed_at"]))),
        )
    return table


def pools(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the pools: how many hosts they have and should have, and what keeps them from it."""
    table = columns("Pool", "Status", "Hosts", "Each has", "Load", "Slots leased", "Trouble")
    for row in rows:
        complete = row["hosts"] >= row["wanted"]
        default = " (default)" if row["default"] and row["name"] != "default" else ""
        least, most = row["min_hosts"], row["max_hosts"]
        limits = f" ({least} to {most})" if least != most else ""
        if row.get("scaled_to") is not None:
            limits = " (scaled by hand)"
        trouble = row["pending"] or row["last_error"]
        if row.get("rollout") is not None:
            trouble = f"new code has {row['rollout']} of {SLOTS} slots. {trouble}".rstrip()
        table.add_row(
            text(f"{row['name']}{default}"),
            text(row["status"], "yellow" if row["pending"] else _good_or_bad(complete)),
            text(f"{row['hosts']} of {row['wanted']}{limits}", _good_or_bad(complete)),
            text(amounts(row["resources"]) if row["resources"] else None),
            text(f"{row['load']:g}"),
            text(row["slots"]),
            text(trouble or None, "yellow" if row["pending"] else "red"),
        )
    return table


def hosts(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the hosts."""
    table = columns("Host", "Pool", "Status", "Process", "Slots", "Agents", "Runs", "Handled")
    for row in rows:
        leaves = ", leaves" if row.get("leaves") else ""
        table.add_row(
            text(row["id"]),
            text(row["pool"]),
            text(f"{row['status']}{leaves}", _good_or_bad(row["status"] in _GOOD)),
            *(text(row.get(name)) for name in ("pid", "slots", "agents", "runs", "handled")),
        )
    return table


def nodes(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the machines."""
    table = columns("Node", "Address", "Status", "Hosts", "Has")
    for row in rows:
        table.add_row(
            text(row["id"]),
            text(row["address"]),
            text(row["status"], _good_or_bad(row["status"] == "active")),
            text(len(row["hosts"])),
            text(amounts(row["resources"]) if row["resources"] else None),
        )
    return table


def agents(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return launched agents and agents in memory."""
    if not rows:
        return Text("There are no such agents in memory, and none was launched.")
    table = columns(
        "Agent", "Status", "Launched", "Labels", "Queued", "Active", "Idle", "Host", "Last error"
    )
    for row in rows:
        table.add_row(
            text(row["agent"]),
            text(row["status"], _good_or_bad(row["status"] in _GOOD)),
            text(row["launched"]),
            text(" ".join(f"{name}={value}" for name, value in row["labels"].items()) or None),
            text(row["queued"]),
            *(text(None if row[n] is None else seconds(row[n])) for n in ("active_s", "idle_s")),
            text(row["host"]),
            text(row["last_error"] or None, "red" if row["last_error"] else ""),
        )
    return table


def failed_agents(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return agents that have failed or are quarantined."""
    if not rows:
        return Text("No agent has failed.")
    table = columns("Agent", "Status", "Since", "Host deaths", "Last error")
    for row in rows:
        table.add_row(
            text(row["agent"]),
            text(row["status"], "red"),
            text(row["failed_at"]),
            text(row["host_deaths"]),
            text(row["last_error"], "red"),
        )
    return table


def agent(told: Mapping[str, Any]) -> RenderableType:
    """Return how an agent is; a traceback stands below."""
    lines = [f"{name}: {value}" for name, value in told.items() if name != "traceback"]
    return Text("\n".join([*lines, *(["", told["traceback"]] if told.get("traceback") else [])]))


def host_deaths(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the last deaths of hosts."""
    table = columns("Lost host", "Pool", "At", "Cause", "Reason")
    for row in rows:
        table.add_row(*(text(row[name]) for name in ("host", "pool", "at", "cause", "reason")))
    return table


# Events


def subscriptions(rows: Sequence[TopicSubscription]) -> RenderableType:
    """Return subscriptions made at run time."""
    if not rows:
        return Text("There are no subscriptions but those of the agents' classes.")
    table = columns("Subscription", "Topic", "Agent type", "Events", "Key", "Created")
    for row in rows:
        table.add_row(
            text(row.id),
            text(row.topic),
            text(row.agent_type),
            text(row.event_type or "all that it handles"),
            text(row.key),
            text(moment(row.created_at)),
        )
    return table


def dead_letters(rows: Sequence[DeadLetter]) -> RenderableType:
    """Return dead letters as a table."""
    if not rows:
        return Text("There are no dead letters.")
    table = columns("Dead letter", "Time", "Kind", "For", "Name", "Reason", "Error", "Retried as")
    for row in rows:
        table.add_row(
            text(row.id),
            text(moment(row.created_at)),
            text(row.kind.value),
            text(row.target),
            text(row.name),
            text(row.reason.value.replace("_", " "), "red"),
            text(row.error and f"{row.error.type}: {row.error.message}"),
            text(row.retried_as),
        )
    return table


def webhooks(rows: Sequence[Webhook]) -> RenderableType:
    """Return webhooks as a table."""
    if not rows:
        return Text("There are no webhooks.")
    table = columns("Webhook", "Time", "Run", "State", "Tries", "Next", "Last error")
    for row in rows:
        table.add_row(
            text(row.id),
            text(moment(row.created_at)),
            text(row.run_id),
            text(row.state.value, "red" if row.state is WebhookState.DEAD else ""),
            text(row.attempts),
            text(row.due_at and moment(row.due_at)),
            text(row.last_error),
        )
    return table


# Runs


def runs(rows: Sequence[Run]) -> RenderableType:
    """Return runs as a table."""
    if not rows:
        return Text("There are no such runs.")
    table = columns("Run", "Status", "Agent", "Attempt", "Created", "Took", "Error")
    for run in rows:
        table.add_row(
            text(run.id),
            run_status(run),
            text(run.agent),
            text(run.attempt),
            text(moment(run.created_at)),
            text(took(run)),
            text(_why(run)),
        )
    return table


def _why(run: Run) -> str | None:
    """Return what there is to say of a run beside its status."""
    if run.question is not None:
        return f"asks: {run.question.question}"
    return run.error and f"{run.error.type}: {run.error.message}"


def run_status(run: Run) -> Text:
    """Return a run's status in its colour."""
    return status_text(run.status)


def status_text(status: RunStatus) -> Text:
    """Return a status in its colour."""
    return Text(status.value, style=_STYLES.get(status, "red"))


def took(run: Run) -> str | None:
    """Return how long a run took from when it might begin to its end; None: it has not ended."""
    if run.finished_at is None:
        return None
    since = max(run.created_at, run.not_before or run.created_at)
    return seconds(max(0.0, (run.finished_at - since).total_seconds()))


def moment(time: datetime) -> str:
    """Return a time as this machine's clock shows it."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def columns(*names: str) -> Table:
    """Return a table without rows."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        # Ids are for copying: rather broken into two lines than cut.
        table.add_column(name, overflow="fold")
    return table


def _good_or_bad(good: bool) -> str:
    return "green" if good else "red"
