"""When a budget is exceeded, and by what."""

from __future__ import annotations

from agentray.protocol.budgets import Budget, Usage


def exceeded(budget: Budget, usage: Usage) -> str | None:
    """Return which limit a run has exceeded, in words; None: none of them.

    Tokens, calls and cost may be used up to the last one. The time is over when it has passed.
    """
    if budget.wall_s is not None and usage.wall_s >= budget.wall_s:
        return f"Its budget of {budget.wall_s:g} s of work is used up ({usage.wall_s:.1f} s)."
    for what, limit, used in (
        ("tokens", budget.tokens, usage.tokens),
        ("tool calls", budget.tool_calls, usage.tool_calls),
    ):
        if limit is not None and used > limit:
            return f"Its budget of {limit} {what} is exceeded: it used {used}."
    if budget.cost is not None and usage.cost > budget.cost:
        return f"Its budget of cost {budget.cost:g} is exceeded: it used {usage.cost:g}."
    return None
