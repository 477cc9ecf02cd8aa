"""`/v1/jobs`: programs that Ray runs on the cluster."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import time
import zipfile
from typing import Annotated, Any

from fastapi import Header, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agentray.core.jobs import headline
from agentray.errors import UnknownJob
from agentray.gateway.auth import INVOKE, READ, KeyRing, caller
from agentray.gateway.bodies import check_idempotency_key, openapi_body, read_body
from agentray.gateway.cluster_parts import ClusterParts
from agentray.gateway.openapi import KEY_HEADER
from agentray.gateway.problems import UNAUTHORIZED, UNKNOWN, HttpProblem, from_validation, invalid
from agentray.gateway.routes import Routes
from agentray.gateway.services import Services
from agentray.jobs.book import JobBook, Submitter
from agentray.protocol.jobs import Job, JobReport, JobStatus, JobSubmission
from agentray.runtime.job_keeper import token_digest
from agentray.store.jobs import JobQuery, StoredJob

_PACKAGE = re.compile(r"_ray_pkg_([0-9a-f]{16,64})\.zip")
_METADATA = "metadata."
_SHORT_RECORD = 1000  # characters; one with less has no long message
_LOOK_S = 0.25  # between two looks at a job that somebody waits for
_job_json = TypeAdapter(Job).dump_json

_PACKAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class JobFilter(BaseModel):
    """Which jobs to list, besides `metadata.NAME=VALUE`."""

    model_config = ConfigDict(extra="ignore")

    limit: int = Field(default=1000, ge=1, le=10_000, description="Most jobs to return.")
    before: str | None = Field(
        default=None, max_length=100, description="Id of the last job already seen."
    )
    status: JobStatus | None = None
    source: str | None = Field(
        default=None, description="`agentray`, or `ray`: submitted by Ray's own means."
    )


class JobWait(BaseModel):
    """How to look at one job."""

    wait_s: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait until the job has ended; the gateway cuts what it finds too "
        "long.",
    )


class Package(BaseModel):
    """Files that were uploaded for jobs."""

    uri: str = Field(description="For `working_dir` or `py_modules` of a `runtime_env`.")


class JobSecrets(BaseModel):
    """What a job fetches once."""

    secrets: dict[str, str]


class Jobs:
    """The jobs resource."""

    def __init__(self, services: Services, parts: ClusterParts, keys: KeyRing) -> None:
        self._store = services.store
        self._settings = services.settings
        self._runner = parts.runner
        self._book = JobBook(services.store, parts.runner, parts.views, url=parts.url)
        self.router = self._routes(keys)

    def _routes(self, keys: KeyRing) -> Any:
        routes = Routes("/v1/jobs", "jobs", keys)
        one: dict[int | str, dict[str, Any]] = {200: {"model": Job}}
        made: dict[int | str, dict[str, Any]] = {
            200: {"model": Job, "description": "It is there, and says the same."},
            201: {"model": Job, "description": "It is accepted."},
        }
        page: dict[int | str, dict[str, Any]] = {200: {"model": list[Job]}}
        gone: dict[int | str, dict[str, Any]] = {204: {"description": "It is forgotten."}}
        stop: dict[int | str, dict[str, Any]] = {
            200: {"model": Job, "description": "It has ended."},
            202: {"model": Job, "description": "It is going to end."},
        }
        pack: dict[int | str, dict[str, Any]] = {200: {"model": Package}}
        body = {**openapi_body(JobSubmission), "parameters": [KEY_HEADER]}
        add = routes.add
        submitting = (400, 409, 413, 429)
        add(["POST"], "", self.submit, "submitJob", INVOKE, made, *submitting, openapi_extra=body)
        add(["GET"], "", self.list_jobs, "listJobs", READ, page)
        at = "/{job_id}"
        add(["GET"], at, self.get, "getJob", READ, one, 404)
        add(["DELETE"], at, self.delete, "deleteJob", INVOKE, gone, 404, 409)
        add(["POST"], f"{at}/stop", self.stop, "stopJob", INVOKE, stop, 404)
        package = "/packages/{name}"
        add(
            ["PUT"],
            package,
            self.put_package,
            "putPackage",
            INVOKE,
            pack,
            413,
            openapi_extra=_PACKAGE_BODY,
        )
        add(["GET"], package, self.get_package, "getPackage", READ, pack, 404)
        add(["POST"], f"{at}/report", self.report, "reportJob", None, {})
        add(["POST"], f"{at}/secrets", self.secrets, "takeJobSecrets", None, {})
        return routes.router

    async def submit(self, request: Request) -> Response:
        """Submit a job: a command line that Ray runs on the cluster.

        With a `submission_id`, or an `Idempotency-Key`, repeating the request does no harm: the
        same body is the same job, another one a 409.
        """
        key = check_idempotency_key(request.headers.get("idempotency-key"))
        try:
            submission = JobSubmission.model_validate_json(
                await read_body(request, self._settings.max_body_bytes)
            )
        except ValidationError as error:
            raise from_validation(error.errors(include_input=False), "body") from error
        who = caller(request)
        job, created = await self._book.submit(submission, Submitter(who.owner, who.tenant), key)
        headers = {"Location": f"/v1/jobs/{job.job_id}"}
        return _answer(job, 201 if created else 200, headers)

    async def list_jobs(self, request: Request, wanted: Annotated[JobFilter, Query()]) -> Response:
        """List jobs, newest first; the header `Link` has the next page, where there is one.

        `metadata.NAME=VALUE`, also several times, lists those that were submitted with it. A long
        `message` is one line here, its first and its last; the job itself has all of it.
        """
        params = request.query_params
        metadata = {
            name.removeprefix(_METADATA): value
            for name, value in params.items()
            if name.startswith(_METADATA)
        }
        if any("\0" in text for pair in metadata.items() for text in pair):
            raise invalid("metadata", "query", "NUL characters cannot be stored")
        if wanted.before is not None:
            await self._check_cursor(request, wanted.before)
        query = JobQuery(
            wanted.status, wanted.source, caller(request).tenant, metadata, wanted.before
        )
        found = await self._store.list_jobs(query, limit=wanted.limit + 1)
        shown = found[: wanted.limit]
        headers: dict[str, str] = {}
        if len(found) > len(shown):
            last = Job.model_validate_json(shown[-1]).job_id
            following = request.url.include_query_params(before=last)
            headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
        # They are kept as they are shown: ten thousand of them are put together, not read.
        listed = ",".join(map(_listed, shown))
        return Response(f"[{listed}]", media_type="application/json", headers=headers)

    async def _check_cursor(self, request: Request, before: str) -> None:
        """Refuse to go on behind a job that is not there: an empty page would look like the end."""
        try:
            await self._find(request, before)
        except UnknownJob as error:
            told = f"{error} It may have been deleted since: begin again"
            raise invalid("before", "query", told) from error

    async def get(
        self, request: Request, job_id: str, wanted: Annotated[JobWait, Query()]
    ) -> Response:
        """Look at a job; with `wait_s`, wait that long for its end."""
        stored = await self._find(request, job_id)
        deadline = time.monotonic() + min(wanted.wait_s, self._settings.max_wait_s)
        while not stored.job.status.ended and (left_s := deadline - time.monotonic()) > 0:
            await asyncio.sleep(min(_LOOK_S, left_s))
            stored = await self._find(request, job_id)
        return _answer(stored.job)

    async def _find(self, request: Request, job_id: str) -> StoredJob:
        stored = await self._store.get_job(job_id) if "\0" not in job_id else None
        if stored is None or not caller(request).sees(stored.owner):
            raise UnknownJob(job_id)
        return stored

    async def stop(self, request: Request, job_id: str) -> Response:
        """Ask for the end of a job."""
        await self._find(request, job_id)
        stored = await self._book.stop(job_id)
        return _answer(stored.job, 200 if stored.job.status.ended else 202)

    async def delete(self, request: Request, job_id: str) -> Response:
        """Forget a job that has ended, and what is kept of its log."""
        await self._find(request, job_id)
        await self._book.delete(job_id)
        return Response(status_code=204)

    async def put_package(self, request: Request, name: str) -> Response:
        """Upload files for jobs: a zip whose name has its SHA-256.

        The name is `_ray_pkg_`, 16 or more hexadecimal digits of that, and `.zip`.
        """
        wanted = _digits(name)
        data = await read_body(request, self._settings.max_package_bytes)
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        if not digest.startswith(wanted):
            raise invalid("name", "path", "the content has another SHA-256 than its name says")
        if not await asyncio.to_thread(zipfile.is_zipfile, io.BytesIO(data)):
            raise invalid("body", "body", "the content is no zip")
        if not await self._runner.has_package(name):
            await self._runner.put_package(name, data)
        return JSONResponse({"uri": f"gcs://{name}"})

    async def get_package(self, name: str) -> Response:
        """Ask whether files were uploaded and are still there; then they stay for a while."""
        _digits(name)
        if not await self._runner.has_package(name):
            raise HttpProblem(UNKNOWN, f"There is no package {name}.")
        return JSONResponse({"uri": f"gcs://{name}"})

    # From the inside of a job

    async def report(
        self, request: Request, job_id: str, authorization: Annotated[str, Header()] = ""
    ) -> Response:
        """Keep what a job tells of itself; its own token is asked for."""
        body = await read_body(request, self._settings.max_body_bytes)
        try:
            report = JobReport.model_validate_json(body)
        except ValidationError as error:
            raise from_validation(error.errors(include_input=False), "body") from error
        if "\0" in job_id or not await self._store.report_job(
            job_id, _job_token(authorization), report
        ):
            raise _not_its_token()
        return Response(status_code=204)

    async def secrets(self, job_id: str, authorization: Annotated[str, Header()] = "") -> Response:
        """Give a job its secrets, once."""
        digest = _job_token(authorization)
        found = None if "\0" in job_id else await self._store.take_job_secrets(job_id, digest)
        if found is None:
            raise _not_its_token()
        headers = {"Cache-Control": "no-store"}
        return JSONResponse({"secrets": found}, headers=headers)


def _listed(kept: str) -> str:
    """Return a job as it stands in a list: its message short. Short records are not read."""
    if len(kept) <= _SHORT_RECORD:
        return kept
    job: dict[str, Any] = json.loads(kept)
    if job.get("message"):
        job["message"] = headline(job["message"])
    return json.dumps(job, ensure_ascii=False)


def _digits(name: str) -> str:
    match = _PACKAGE.fullmatch(name)
    if match is None:
        raise invalid("name", "path", "use _ray_pkg_, 16 to 64 hexadecimal digits, and .zip")
    return match[1]


def _job_token(authorization: str) -> str:
    scheme, _, token = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _not_its_token()
    return token_digest(token.strip())


def _not_its_token() -> HttpProblem:
    return HttpProblem(
        UNAUTHORIZED,
        "The token is not this job's, or its secrets were fetched already.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _answer(job: Job, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        _job_json(job), status_code=status, headers=headers, media_type="application/json"
    )
