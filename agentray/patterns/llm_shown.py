"""What those who follow a run see of a language model at work: its text, and the tools it calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentray.context import Context
from agentray.errors import PayloadError
from agentray.protocol.codec import as_json

if TYPE_CHECKING:
    from pydantic_ai.run import AgentRun


class Shown:
    """Shows the steps of a model to those who follow the run of a message."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def show(self, steps: AgentRun[object, Any], node: Any, *, text: bool) -> None:
        """Show what happens in a step, which is taken meanwhile.

        Args:
            steps: that it belongs to.
            node: the step that comes next.
            text: also the model's text.
        """
        import pydantic_ai

        kinds: type[pydantic_ai.Agent[object, Any]] = pydantic_ai.Agent
        if kinds.is_call_tools_node(node):
            async with node.stream(steps.ctx) as events:
                async for event in events:
                    self._tools(event)
        elif text and kinds.is_model_request_node(node):
            async with node.stream(steps.ctx) as response:
                async for said in response:
                    self._text(said)

    def _text(self, event: Any) -> None:
        from pydantic_ai.messages import PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta

        match event:
            case PartStartEvent(part=TextPart(content=text)):
                self._context.stream_text(text)
            case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                self._context.stream_text(text)
            case _:
                return

    def _tools(self, event: Any) -> None:
        from pydantic_ai.messages import FunctionToolCallEvent, FunctionToolResultEvent

        match event:
            case FunctionToolCallEvent(part=part):
                arguments = part.args_as_dict(raise_if_invalid=False)
                self._context.tool_call(part.tool_name, arguments, call_id=part.tool_call_id)
            case FunctionToolResultEvent(part=part):
                self._answered(part)
            case _:
                return

    def _answered(self, part: Any) -> None:
        name = part.tool_name or ""
        # Older versions have a part of its own for what the model shall try again.
        if part.part_kind != "tool-return" or getattr(part, "outcome", "success") != "success":
            error = part.content if isinstance(part.content, str) else str(part.content)
            self._context.tool_result(part.tool_call_id, name, error=error)
            return
        try:
            result: Any = as_json(part.content, "tool's result")
        except PayloadError:
            result = part.model_response_str()  # as the model sees it
        self._context.tool_result(part.tool_call_id, name, result)
