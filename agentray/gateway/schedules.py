"""`/v1/schedules`: prompts that are given again and again."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from agentray.errors import InvalidSchedule, UnknownSchedule
from agentray.gateway.auth import INVOKE, READ, KeyRing, caller
from agentray.gateway.bodies import read_body
from agentray.gateway.openapi import run_content
from agentray.gateway.problems import from_validation, invalid
from agentray.gateway.routes import Routes
from agentray.gateway.runs import run_response
from agentray.gateway.services import Services
from agentray.gateway.webhooks import PromptWebhooks
from agentray.ids import AgentId
from agentray.protocol.schedules import (
    Schedule,
    ScheduleSpec,
    ScheduleTimes,
    check_schedule_id,
)
from agentray.runtime.schedule_book import ScheduleBook
from agentray.runtime.session_book import SessionBook

_EXAMPLE: dict[str, JsonValue] = {
    "id": "nightly",
    "prompt": "Summarise what came in today.",
    "agent": "reporter/daily",
    "cron": "30 2 * * *",
    "timezone": "Europe/Berlin",
    "overlap": "skip",
}


class ScheduleBody(ScheduleTimes):
    """What a schedule does, and when."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    prompt: str = Field(min_length=1, description="What the agent is asked.")
    agent: str | None = Field(
        default=None,
        description="Who is asked: an agent type (a fresh instance each time) or type/key. Left "
        "out: the entry of the deployed app.",
    )

    @field_validator("prompt", "agent")
    @classmethod
    def _check_text(cls, text: str | None) -> str | None:
        if text is not None and "\0" in text:
            raise ValueError("NUL characters cannot be stored")
        return text

    def spec(self) -> ScheduleSpec:
        """Return it as it is kept."""
        return ScheduleSpec.model_validate(self.model_dump(exclude={"id"}))


class NewScheduleBody(ScheduleBody):
    """A schedule to be made."""

    id: str | None = Field(
        default=None, description="1 to 100 letters, digits, `.`, `-`, `_`. Left out: a new one."
    )

    @field_validator("id")
    @classmethod
    def _check_id(cls, schedule_id: str | None) -> str | None:
        if schedule_id is not None:
            check_schedule_id(schedule_id)
        return schedule_id


class SchedulePage(BaseModel):
    """Some schedules, in the order of their ids."""

    schedules: list[Schedule]
    next: str | None = Field(description="Give it as `after` for the next page; null: the last.")


class ScheduleFilter(BaseModel):
    """Which schedules to list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=200, description="Most schedules to return.")
    after: str = Field(default="", max_length=100, description="Id of the last one already seen.")


class Schedules:
    """The schedules resource."""

    def __init__(
        self, services: Services, keys: KeyRing, sessions: SessionBook, hooks: PromptWebhooks
    ) -> None:
        self._book = ScheduleBook(services.store, services.dispatcher)
        self._sessions = sessions
        self._hooks = hooks
        self._max_bytes = services.settings.max_body_bytes
        self.router = self._routes(keys)

    def _routes(self, keys: KeyRing) -> APIRouter:
        add = (routes := Routes("/v1/schedules", "schedules", keys)).add
        one: dict[int | str, dict[str, Any]] = {200: {"model": Schedule}}
        made: dict[int | str, dict[str, Any]] = {
            200: {"model": Schedule, "description": "It was there, and says the same."},
            201: {"model": Schedule, "description": "It is made."},
        }
        page: dict[int | str, dict[str, Any]] = {200: {"model": SchedulePage}}
        gone: dict[int | str, dict[str, Any]] = {204: {"description": "It is forgotten."}}
        run: dict[int | str, dict[str, Any]]
        run = {202: {"description": "The run.", "content": run_content("queued")}}
        reading = (400, 404, 413)
        add(
            ["POST"], "", self.create, "createSchedule", INVOKE, made, *reading, 409,
            body=NewScheduleBody,
        )  # fmt: skip
        add(["GET"], "", self.list_schedules, "listSchedules", READ, page)
        at = "/{schedule_id}"
        add(["GET"], at, self.get, "getSchedule", READ, one, 404)
        add(["PUT"], at, self.replace, "replaceSchedule", INVOKE, one, *reading, body=ScheduleBody)
        add(["DELETE"], at, self.delete, "deleteSchedule", INVOKE, gone, 404)
        add(["POST"], f"{at}/pause", self.pause, "pauseSchedule", INVOKE, one, 404)
        add(["POST"], f"{at}/resume", self.resume, "resumeSchedule", INVOKE, one, 404)
        add(["POST"], f"{at}/trigger", self.trigger, "triggerSchedule", INVOKE, run, 404)
        return routes.router

    async def create(self, request: Request) -> Response:
        """Make a schedule: an agent is prompted again and again, by `cron` or every `every_s`.

        Each firing is one run, once, also when the cluster was down at its time: `missed` says what
        happens then. Repeating the request with an `id` does no harm; another schedule under the
        same id is a 409.
        """
        try:
            body = NewScheduleBody.model_validate_json(
                await read_body(request, self._max_bytes), strict=True
            )
        except ValidationError as error:
            raise from_validation(error.errors(), "body") from error
        await self._check_body(body, request)
        owner = caller(request).owner
        try:
            schedule, created = await self._book.create(body.id, body.spec(), owner)
        except InvalidSchedule as error:
            raise invalid(error.field, "body", error.problem) from error
        status = 201 if created else 200
        headers = {"Location": f"/v1/schedules/{schedule.id}"}
        return _answer(schedule, status, headers)

    async def list_schedules(
        self, request: Request, wanted: Annotated[ScheduleFilter, Query()]
    ) -> Response:
        """List schedules, in the order of their ids."""
        tenant = caller(request).tenant or None
        found = await self._book.list(wanted.after, wanted.limit + 1, tenant=tenant)
        shown = found[: wanted.limit]
        more = shown[-1].id if len(found) > wanted.limit else None
        page = SchedulePage(schedules=shown, next=more)
        return Response(page.model_dump_json(), media_type="application/json")

    async def get(self, request: Request, schedule_id: str) -> Response:
        """Look at a schedule, and when it fires next."""
        return _answer(await self._find(schedule_id, request))

    async def replace(self, schedule_id: str, request: Request) -> Response:
        """Let a schedule say something else from now on; it stays paused if it is."""
        try:
            body = ScheduleBody.model_validate_json(
                await read_body(request, self._max_bytes), strict=True
            )
        except ValidationError as error:
            raise from_validation(error.errors(), "body") from error
        await self._check(schedule_id, request)
        await self._check_body(body, request)
        try:
            return _answer(await self._book.replace(schedule_id, body.spec()))
        except InvalidSchedule as error:
            raise invalid(error.field, "body", error.problem) from error

    async def delete(self, request: Request, schedule_id: str) -> Response:
        """Forget a schedule; runs that it has made stay, also those that have not begun."""
        await self._check(schedule_id, request)
        await self._book.delete(schedule_id)
        return Response(status_code=204)

    async def pause(self, request: Request, schedule_id: str) -> Response:
        """Let a schedule make no runs until it is resumed."""
        await self._check(schedule_id, request)
        return _answer(await self._book.pause(schedule_id))

    async def resume(self, request: Request, schedule_id: str) -> Response:
        """Let a paused schedule fire again, from now on: what was not done meanwhile is over."""
        await self._check(schedule_id, request)
        return _answer(await self._book.resume(schedule_id))

    async def trigger(self, request: Request, schedule_id: str) -> Response:
        """Make a run of a schedule now, beside its times, whether or not it is paused."""
        await self._check(schedule_id, request)
        run = await self._book.trigger(schedule_id)
        headers = {"Location": f"/v1/runs/{run.id}"}
        return run_response(run, status_code=202, headers=headers)

    async def _find(self, schedule_id: str, request: Request) -> Schedule:
        schedule = await self._book.get(schedule_id)
        if not caller(request).sees(schedule.owner):
            raise UnknownSchedule(schedule_id)
        return schedule

    async def _check_body(self, body: ScheduleBody, request: Request) -> None:
        """Let the caller prompt the agent that a schedule names, and tell whom it names."""
        if body.webhook is not None:
            await self._hooks.check(body.webhook, caller(request))
        tenant = caller(request).tenant
        if tenant and body.agent and "/" in body.agent:
            await self._sessions.check_agent(AgentId.parse(body.agent), tenant)

    async def _check(self, schedule_id: str, request: Request) -> None:
        """Let the caller go on to do something with a schedule."""
        if caller(request).tenant:
            await self._find(schedule_id, request)


def _answer(
    schedule: Schedule, status_code: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(
        schedule.model_dump_json(),
        status_code=status_code,
        headers=headers,
        media_type="application/json",
    )
