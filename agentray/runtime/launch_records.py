"""What a launch makes of what was known of an agent before. Decides, and does nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime

from agentray.agent import Agent, AgentOptions, AgentType
from agentray.errors import ConfigurationError, PayloadError
from agentray.protocol.codec import NO_ARGUMENTS, decode
from agentray.protocol.launching import AgentStatus, LaunchOrder
from agentray.store.base import LaunchedAgent


def renewed(known: LaunchedAgent, order: LaunchOrder, now: datetime) -> LaunchedAgent:
    """Return the record of a new life; what the order does not say stays as it was."""
    return replace(
        known,
        launched_at=now,
        status=AgentStatus.RUNNING,
        arguments=known.arguments if order.arguments is None else order.arguments,
        labels=known.labels if order.labels is None else order.labels,
        options=known.options if order.options is None else order.options,
        max_retries=known.max_retries if order.max_retries is None else order.max_retries,
        driver=order.driver or "",
        owner=order.owner,
        last_error="",
    )


def relaunched(known: LaunchedAgent, order: LaunchOrder, status: AgentStatus) -> LaunchedAgent:
    """Return the record of an agent that is registered or running when it is launched again.

    Args:
        known: its record.
        order: what it shall be.
        status: registered or running; a running one stays so.

    Raises:
        ConfigurationError: it is something else already.
    """
    running = known.status is AgentStatus.RUNNING
    if order.arguments is not None and not same_arguments(known.arguments, order.arguments):
        raise ConfigurationError(
            f"{known.agent} was {'launched' if running else 'registered'} before with other "
            "arguments. Give this one another name, or shut that one down first."
        )
    made = replace(
        known,
        labels=known.labels if order.labels is None else order.labels,
        options=known.options if order.options is None else order.options,
        max_retries=known.max_retries if order.max_retries is None else order.max_retries,
        driver=known.driver if order.driver is None else order.driver,
        owner=order.owner or known.owner,
    )
    if not running:
        return replace(made, status=status)
    for what in ("options", "driver", "owner"):
        if getattr(made, what) != getattr(known, what):
            name = "lifetime" if what == "driver" else what
            raise ConfigurationError(
                f"{known.agent} runs already, with another {name}: shut it down first, or launch "
                f"it without {name}."
            )
    return made


def same_arguments(one: bytes, other: bytes) -> bool:
    """Whether two agents would be made alike; pickles of equal values may differ."""
    if one == other:
        return True
    try:
        left, right = decode(one), decode(other)
        if isinstance(left, Agent) and isinstance(right, Agent):
            name_l, name_r = (f"{type(a).__module__}.{type(a).__qualname__}" for a in (left, right))
            return name_l == name_r and bool(vars(left) == vars(right))
        return bool(left == right)
    except PayloadError:
        return False
    except Exception:  # noqa: BLE001 - a comparison of the user's: then they are not equal
        return False


def is_special(launched: LaunchedAgent) -> bool:
    """Whether an agent is made in another way than if nobody had launched it."""
    return (
        launched.arguments != NO_ARGUMENTS
        or bool(launched.options)
        or launched.max_retries is not None
    )


def options_of(agent_type: AgentType, launched: LaunchedAgent) -> AgentOptions | None:
    """Return the options of one agent; None: those of its type."""
    if not launched.options and launched.max_retries is None:
        return None
    of_type = agent_type.options.model_dump()
    options = AgentOptions.model_validate({**of_type, **launched.options})
    if launched.max_retries is None:
        return options
    # Exactly so many, however long they take.
    counted = {"max_restarts": launched.max_retries, "period_s": math.inf}
    return options.model_copy(update={"restart": options.restart.model_copy(update=counted)})
