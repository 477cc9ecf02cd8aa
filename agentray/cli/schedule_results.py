"""Schedules, readable. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from agentray.cli.render import columns, moment, pairs, text
from agentray.protocol.schedules import Schedule


def schedule(found: Schedule) -> RenderableType:
    """Return a schedule with its next times."""
    spec = found.spec
    counts = f"{found.fired} runs" + (f", {found.skipped} fell out" if found.skipped else "")
    late = f"{spec.missed.value} (grace {spec.grace_s:g} s)"
    return pairs(
        [
            ("schedule", found.id),
            ("status", found.status.value),
            ("when", when(found)),
            ("who", spec.agent or f"event {spec.lineage[0]}"),
            ("prompt", spec.prompt),
            ("next", "\n".join(moment(at) for at in found.next_times) or None),
            ("last run", found.last_run),
            ("so far", counts),
            ("missed", late),
            ("overlap", spec.overlap.value),
            ("starts", spec.starts_at and moment(spec.starts_at)),
            ("ends", spec.ends_at and moment(spec.ends_at)),
            ("jitter", f"{spec.jitter_s:g} s" if spec.jitter_s else None),
            ("waits", found.last_error),
        ]
    )


def when(found: Schedule) -> str:
    """Return when a schedule fires, in a few words."""
    spec = found.spec
    return f"{spec.cron} ({spec.timezone})" if spec.cron else f"every {spec.every_s:g} s"


def schedules(rows: Sequence[Schedule]) -> RenderableType:
    """Return schedules as a table."""
    if not rows:
        return text("There are no schedules.")
    shown = columns("Schedule", "Status", "When", "Who", "Next", "Runs", "Fell out")
    for found in rows:
        shown.add_row(
            text(found.id),
            text(found.status.value),
            text(when(found)),
            text(found.spec.agent or f"event {found.spec.lineage[0]}"),
            text(found.next_at and moment(found.next_at)),
            text(found.fired),
            text(found.skipped),
        )
    return shown
