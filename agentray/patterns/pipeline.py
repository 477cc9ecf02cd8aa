"""Pipelines: what one stage returns, the next one gets."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Literal, cast

from agentray.errors import ConfigurationError, PayloadError
from agentray.handle import RemoteAction
from agentray.patterns.fan_out import gather


class Pipeline:
    """Functions and agents' actions, one after the other.

    ::

        analyse = Pipeline(str.split, manager.handle(Counter, "c").count, max)
        assert await analyse("to be or not to be") == 2

    An error of a stage is raised with a note that names the stage.
    """

    def __init__(self, *stages: Callable[[Any], Any], name: str = "pipeline") -> None:
        """Put stages together.

        Args:
            stages: functions, `async` or not, handles' actions, or other pipelines; each takes one
                value and returns one.
            name: for errors.

        Raises:
            ConfigurationError: there are none, or one cannot be called.
        """
        wrong = [stage for stage in stages if not callable(stage)]
        if not stages or wrong:
            told = f"{wrong[0]!r} cannot be called" if wrong else "it has no stages"
            raise ConfigurationError(f"{name}: {told}. Pipeline(first, second, …).")
        self.name = name
        self._stages = stages

    async def __call__(self, value: Any) -> Any:
        """Send a value through all stages, and return what the last one returns."""
        for number, stage in enumerate(self._stages, 1):
            try:
                value = await _value(stage(value))
            except Exception as error:
                where = f"stage {number} of {len(self._stages)} ({_name(stage)})"
                error.add_note(f"In {where} of {self.name}.")
                raise
        return value

    async def map(
        self,
        values: Iterable[Any],
        *,
        limit: int = 64,
        timeout: float | None = None,
        on_error: Literal["raise", "collect"] = "raise",
    ) -> list[Any]:
        """Send many values through, `limit` at once; the arguments are those of `gather`."""
        if on_error == "raise":
            return await gather(values, self, limit=limit, timeout=timeout)
        return await gather(values, self, limit=limit, timeout=timeout, on_error=on_error)

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(map(_name, self._stages))}, name={self.name!r})"


async def _value(result: Any) -> Any:
    if inspect.isawaitable(result):
        result = cast("object", await result)
    if isinstance(result, AsyncIterator):
        raise PayloadError("A stage yields its values: it returns one value.")
    return result


def _name(stage: Callable[[Any], Any]) -> str:
    if isinstance(stage, RemoteAction | Pipeline):
        return repr(stage)
    return getattr(stage, "__qualname__", repr(stage))
