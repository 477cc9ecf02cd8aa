"""What clients do to runs: `POST /v1/runs/{id}/cancel` and `…/answer`."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from agentray.core.lifecycle import TERMINAL, is_settled
from agentray.errors import PayloadError, UnknownRun
from agentray.gateway.auth import INVOKE, KeyRing, RequireScope, caller
from agentray.gateway.bodies import (
    AnswerBody,
    CancelBody,
    check_idempotency_key,
    check_wait,
    openapi_body,
    parse_answer,
    parse_cancel,
    read_body,
)
from agentray.gateway.openapi import KEY_HEADER, problems, run_content
from agentray.gateway.problems import invalid
from agentray.gateway.runs import RunReader, run_response
from agentray.gateway.services import Services
from agentray.protocol.runs import Run
from agentray.runtime.run_answers import RunAnswers
from agentray.runtime.run_ends import RunEnder
from agentray.runtime.tasks import TaskSet

_BRACKETS = re.compile(r"\['?(.*?)'?\]")
"""Steps of a path in Python's words, such as `['approved'][0]`."""

_CANCEL = """\
Ends a run: its handlers are cancelled, wherever they work, and what waits is withdrawn. The wish is
kept before anything is done about it, so it holds whatever dies meanwhile.

- Ended within `wait_s`: **200** with the run. A run that had ended before is returned as it is.
- Still going, since a handler cleans up: **202** with the run. Ask again, or look at the run.

Also for runs that no host works on. The body may be left out.
"""


_ANSWER = """\
Answers what a run that is `waiting` asks; the run then goes on where it asked.

- Ended within `wait_s`, or waiting for the next answer: **200** with the run.
- Still going: **202** with the run.

An answer that is not what the question's schema wants is a 422 that names the field. With an
`Idempotency-Key` the request may be repeated; so may the same answer to the same `question`. A run
that does not wait, or not for this question, is a 409.
"""


class RunEnds:
    """Cancellations under way in this replica. A client that hangs up stops none."""

    def __init__(self, services: Services) -> None:
        self._store = services.store
        self._ender = RunEnder(services.store, services.dispatcher.cancel)
        self._tasks = TaskSet("cancellations")
        self._under_way: dict[str, asyncio.Task[Run]] = {}

    async def cancel(self, run_id: str, wait_s: float) -> Run | None:
        """End a run; return it when it has ended, None after `wait_s`: the wish is kept then.

        Raises:
            UnknownRun: there is none of this id.
            StoreUnavailable: the wish could not be kept.
        """
        stored = await self._store.request_cancel(run_id, datetime.now(UTC))
        if stored is None:
            raise UnknownRun(run_id)
        if stored.run.status in TERMINAL:
            return stored.run
        task = self._under_way.get(run_id)
        if task is None:
            task = self._tasks.spawn(self._ender.cancel(run_id), name=f"cancel {run_id}")
            self._under_way[run_id] = task
            task.add_done_callback(lambda _: self._under_way.pop(run_id, None))
        await asyncio.wait((task,), timeout=wait_s)
        return task.result() if task.done() else None

    async def close(self) -> None:
        """Let go of them: what was asked for is kept, hosts and manager go on with it."""
        await self._tasks.close()


class RunActions:
    """The actions of the runs resource."""

    def __init__(self, services: Services, keys: KeyRing, reader: RunReader, ends: RunEnds) -> None:
        self._settings = services.settings
        self._reader = reader
        self._ends = ends
        self._answers = RunAnswers(services.store, services.dispatcher.go_on)
        self.router = self._routes(keys)

    def _routes(self, keys: KeyRing) -> APIRouter:
        router = APIRouter(
            prefix="/v1/runs",
            tags=["runs"],
            dependencies=[Depends(RequireScope(keys, INVOKE))],
        )
        router.add_api_route(
            "/{run_id}/cancel",
            self.cancel,
            methods=["POST"],
            operation_id="cancelRun",
            summary="Cancel a run",
            description=_CANCEL,
            response_class=Response,
            responses={
                200: {"description": "The run has ended.", "content": run_content("succeeded")},
                202: {
                    "description": "The run is being cancelled and has not ended yet.",
                    "content": run_content("queued"),
                },
                **problems(400, 401, 403, 404, 413, 421, 422, 500, 503),
            },
            openapi_extra=_optional(openapi_body(CancelBody)),
        )
        router.add_api_route(
            "/{run_id}/answer",
            self.answer,
            methods=["POST"],
            operation_id="answerRun",
            summary="Answer a run's question",
            description=_ANSWER,
            response_class=Response,
            responses={
                200: {
                    "description": "The run has ended, or waits for the next answer.",
                    "content": run_content("succeeded"),
                },
                202: {"description": "The run goes on.", "content": run_content("queued")},
                **problems(400, 401, 403, 404, 409, 413, 421, 422, 500, 503),
            },
            openapi_extra={**openapi_body(AnswerBody), "parameters": [KEY_HEADER]},
        )
        return router

    async def answer(self, run_id: str, request: Request) -> Response:
        """Answer what a run asks, and answer as `create` does for a prompt.

        Raises:
            HttpProblem: the request is wrong.
            UnknownRun, NotWaiting, AnswerInvalid: the answer is not taken.
        """
        body = parse_answer(await read_body(request, self._settings.max_body_bytes))
        wait_s = check_wait(body.wait_s, self._settings.max_wait_s)
        key = check_idempotency_key(request.headers.get("idempotency-key"))
        await self._reader.check(run_id, caller(request))
        try:
            run = await self._answers.answer(
                run_id, body.answer, question=body.question, key=key or ""
            )
        except PayloadError as error:
            field = error.what + _BRACKETS.sub(r".\1", error.path)
            raise invalid(field, "body", str(error)) from error
        run = await self._reader.wait(run, wait_s)
        return run_response(run, status_code=200 if is_settled(run) else 202)

    async def cancel(self, run_id: str, request: Request) -> Response:
        """End a run, and answer when it has ended or nobody waits any longer."""
        body = parse_cancel(await read_body(request, self._settings.max_body_bytes))
        wait_s = check_wait(body.wait_s, self._settings.max_wait_s)
        asks = caller(request)
        await self._reader.check(run_id, asks)
        run = await self._ends.cancel(run_id, wait_s) or await self._reader.get(run_id, asks)
        return run_response(run, status_code=200 if run.status in TERMINAL else 202)


def _optional(described: dict[str, Any]) -> dict[str, Any]:
    described["requestBody"]["required"] = False
    return described
