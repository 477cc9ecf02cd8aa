"""Commands about jobs: submit, list, get, logs, stop, delete, and the policy that lets them in.

They speak HTTP, and need no Ray.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from agentray.cli import console
from agentray.cli.command import Command, JsonOption, Target, asks_gateway
from agentray.cli.exits import ExitCode
from agentray.cli.job_logs import LogPrinter, uploads
from agentray.cli.options import (
    BeforeOption,
    ManyOption,
    UntilEndedOption,
    read_amounts,
    read_object,
    read_pairs,
)
from agentray.cli.showing import show, show_page
from agentray.cli.times import read_seconds
from agentray.errors import ConfigurationError
from agentray.protocol.jobs import JobStatus

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agentray.client import (
        AsyncAgentClient,
        AsyncLogTail,
        Job,
        LogEvent,
        RuntimePolicy,
        SubmitOptions,
    )

group = typer.Typer(
    name="jobs", help="Jobs: programs that Ray runs on the cluster.", no_args_is_help=True
)

JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="See `jobs list`.")]
Words = Annotated[
    list[str], typer.Argument(metavar="-- COMMAND...", help="The command line of the job.")
]
NewId = Annotated[
    str | None,
    typer.Option("--id", help="Its id (default: a new one). Said again it is the same job."),
]
WorkingDir = Annotated[
    Path | None, typer.Option(help="A directory in which it runs: it is uploaded.")
]
PyModules = Annotated[
    list[Path] | None, typer.Option(help="A directory that it can import; several times.")
]
Excludes = Annotated[
    list[str] | None,
    typer.Option(help="What is not uploaded: a name or path, with *; several times."),
]
RuntimeEnv = Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="Ray's runtime_env.")]
Variables = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable; several times.")
]
Secrets = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A variable of this shell that the job gets, and no record; several times.",
    ),
]
Packages = Annotated[
    list[str] | None, typer.Option(metavar="PACKAGE", help="A package; several times.")
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="By which it is found; several times."),
]
Resources = Annotated[
    list[str] | None, typer.Option(metavar="NAME=AMOUNT", help="Another; several times.")
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Show its log until it has ended.")]

_FOLLOWING_S = 60.0  # without any sign of the gateway; then following a log is given up


@dataclass(frozen=True, slots=True)
class _Files:
    """What is uploaded for a job."""

    working_dir: Path | None
    py_modules: Sequence[Path]
    excludes: Sequence[str]


@group.command(cls=Command, context_settings={"ignore_unknown_options": True})
@asks_gateway
def submit(  # noqa: PLR0913 - the options are read from the signature
    target: Target,
    command: Words,
    *,
    job_id: NewId = None,
    working_dir: WorkingDir = None,
    py_module: PyModules = None,
    exclude: Excludes = None,
    runtime_env: RuntimeEnv = None,
    env: Variables = None,
    secret: Secrets = None,
    pip: Packages = None,
    metadata: Metadata = None,
    num_cpus: Annotated[float | None, typer.Option(min=0, help="CPUs of its command.")] = None,
    num_gpus: Annotated[float | None, typer.Option(min=0, help="GPUs, likewise.")] = None,
    memory: Annotated[int | None, typer.Option(min=0, help="Bytes, likewise.")] = None,
    resource: Resources = None,
    follow: Follow = False,
    as_json: JsonOption = False,
) -> None:
    """Submit a job and print its id.

    With --follow it exits with 6 when the job does not succeed. Ctrl-C leaves the job alone.
    """
    if command[0].startswith("-"):  # no program: a misspelt option would become the job's command
        raise typer.BadParameter(f"There is no option {command[0]}.")
    options: SubmitOptions = {
        "submission_id": job_id,
        "runtime_env": read_environment(runtime_env, env, pip) or None,
        "metadata": read_pairs("--metadata", metadata) or None,
        "entrypoint_num_cpus": num_cpus,
        "entrypoint_num_gpus": num_gpus,
        "entrypoint_memory": memory,
        "entrypoint_resources": read_amounts("--resource", resource) or None,
        "secrets": read_secrets(secret) or None,
    }
    line = shlex.join(command) if len(command) > 1 else command[0]
    files = _Files(working_dir, py_module or (), exclude or ())
    job, code = target.ask(lambda client: _submit(client, line, files, options, follow=follow))
    if as_json:
        console.write(job.model_dump_json(indent=2))
    elif not follow:
        console.write(job.job_id)
    _exit(code)


async def _submit(
    client: AsyncAgentClient, line: str, files: _Files, options: SubmitOptions, *, follow: bool
) -> tuple[Job, ExitCode]:
    """Submit a job; where its log is followed, return it as it has ended."""
    with uploads() as told:
        job = await client.submit_job(
            line,
            working_dir=files.working_dir,
            py_modules=files.py_modules,
            excludes=files.excludes,
            on_upload=told,
            **options,
        )
    if not follow:
        return job, ExitCode.OK
    console.note(f"{job.job_id}: {job.status.value}")
    code = await _print_log(client.follow_job(job.job_id, _FOLLOWING_S), as_json=False)
    return await client.get_job(job.job_id), code


async def _print_log(tail: AsyncLogTail[LogEvent], *, as_json: bool) -> ExitCode:
    """Print a log to its end, and return what the end of its job means."""
    status = await LogPrinter(as_json=as_json).follow(tail)
    return ExitCode.OK if status == JobStatus.SUCCEEDED else ExitCode.RUN_FAILED


def _exit(code: ExitCode) -> None:
    if code is not ExitCode.OK:
        raise typer.Exit(code)


@group.command("list", cls=Command)
@asks_gateway
def list_(
    target: Target,
    *,
    status: Annotated[
        JobStatus | None, typer.Option(case_sensitive=False, help="Only these.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only with it; several times.")
    ] = None,
    limit: ManyOption = 20,
    before: BeforeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first, also those that Ray's own commands submitted."""
    wanted = read_pairs("--metadata", metadata)
    page = target.ask(lambda client: client.job_page(limit, before, status, wanted))
    show_page("jobs", page.jobs, page.next, _table, as_json=as_json)


def _table(rows: Sequence[Job]) -> RenderableType:
    from agentray.cli import views

    return views.jobs(rows)


def _whole(found: Job) -> RenderableType:
    from agentray.cli import views

    return views.job(found)


@group.command(cls=Command)
@asks_gateway
def get(
    target: Target, job_id: JobId, wait: UntilEndedOption = None, as_json: JsonOption = False
) -> None:
    """Show a job.

    With --wait it exits with 6 when the job has failed or was stopped, and with 7 when it has not
    ended in time.
    """
    wait_s = 0.0 if wait is None else read_seconds("--wait", wait)

    async def ask(client: AsyncAgentClient) -> Job:
        with console.waiting("waiting for the job") if wait_s else console.nothing():
            return await client.get_job(job_id, wait_s)

    job = target.ask(ask)
    show(job, _whole, as_json=as_json)
    if wait is not None and job.status is not JobStatus.SUCCEEDED:
        raise typer.Exit(ExitCode.RUN_FAILED if job.status.ended else ExitCode.UNFINISHED)


@group.command(cls=Command)
@partial(asks_gateway, timeout_s=_FOLLOWING_S)
def logs(
    target: Target,
    job_id: JobId,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as it grows, until the job has ended.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Begin N lines before the end.")
    ] = None,
    offset: Annotated[
        int, typer.Option(min=0, metavar="BYTE", help="Begin at this byte of the log.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON for each piece, with its offset.")
    ] = False,
) -> None:
    """Print the log of a job: to a file or pipe byte by byte as it is.

    Broken connections are made again; no line is lost or doubled by that. With --follow it exits
    with 6 when the job has failed or was stopped, as `submit --follow` does; without, what is there
    was asked for, whatever became of the job. Exits with 1 when the rest of the log is lost.
    """
    if tail is not None and offset:
        raise ConfigurationError("Give --tail or --offset, not both.")

    async def ask(client: AsyncAgentClient) -> ExitCode:
        found = client.follow_job(job_id, target.timeout_s, offset=offset, tail=tail, follow=follow)
        return await _print_log(found, as_json=as_json)

    code = target.ask(ask)
    if follow:
        _exit(code)


@group.command(cls=Command)
@asks_gateway
def stop(
    target: Target, job_id: JobId, wait: UntilEndedOption = None, as_json: JsonOption = False
) -> None:
    """Ask for the end of a job. With --wait it exits with 7 when it has not ended in time."""
    wait_s = 0.0 if wait is None else read_seconds("--wait", wait)

    async def ask(client: AsyncAgentClient) -> Job:
        job = await client.stop_job(job_id)
        if wait_s and not job.status.ended:
            with console.waiting("waiting for its end"):
                job = await client.get_job(job_id, wait_s)
        return job

    job = target.ask(ask)
    told = job.status.value if job.status.ended else "is going to end"
    console.write(job.model_dump_json(indent=2) if as_json else f"{job.job_id}: {told}")
    if wait is not None and not job.status.ended:
        raise typer.Exit(ExitCode.UNFINISHED)


@group.command(cls=Command)
@asks_gateway
def delete(
    target: Target,
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB_ID...", help="See `jobs list`.")],
) -> None:
    """Forget jobs that have ended, and their logs."""

    async def ask(client: AsyncAgentClient) -> None:
        for job_id in job_ids:
            await client.delete_job(job_id)
            console.write(f"{job_id}: deleted")

    target.ask(ask)


@group.command(cls=Command)
@asks_gateway
def policy(
    target: Target,
    *,
    max_jobs: Annotated[
        int | None, typer.Option(min=0, help="Jobs under way at once; 0: any number.")
    ] = None,
    max_cpu: Annotated[
        float | None, typer.Option(min=0.01, max=100, help="Percent of all CPUs; 100: no limit.")
    ] = None,
    max_memory: Annotated[
        float | None, typer.Option(min=0.01, max=100, help="Percent of all memory, likewise.")
    ] = None,
    max_gpu: Annotated[
        float | None, typer.Option(min=0.01, max=100, help="Percent of all GPUs, likewise.")
    ] = None,
    enabled: Annotated[
        bool | None, typer.Option("--on/--off", help="Whether any of the limits hold.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what lets jobs in; with options change it, for the next submission on."""
    given = {
        "max_concurrent_jobs": max_jobs,
        "cpu_max_utilization_percent": max_cpu,
        "memory_max_utilization_percent": max_memory,
        "gpu_max_utilization_percent": max_gpu,
        "gatekeeping_enabled": enabled,
    }
    change = {name: value for name, value in given.items() if value is not None}

    async def ask(client: AsyncAgentClient) -> RuntimePolicy:
        if change:
            return await client.update_runtime_policy(change)
        return await client.get_runtime_policy()

    show(target.ask(ask), _policy, as_json=as_json)


def _policy(found: RuntimePolicy) -> RenderableType:
    from agentray.cli import views

    return views.policy(found)


def read_secrets(names: list[str] | None) -> dict[str, str]:
    """Read variables of this shell: their values are on no command line.

    Raises:
        ConfigurationError: one is not set.
    """
    if missing := [name for name in names or () if name not in os.environ]:
        raise ConfigurationError(f"--secret {missing[0]}: no such variable is set in this shell.")
    return {name: os.environ[name] for name in names or ()}


def read_environment(
    text: str | None, variables: list[str] | None, packages: list[str] | None
) -> dict[str, Any]:
    """Read a runtime_env, and what is said beside it.

    Raises:
        ConfigurationError: it is no JSON object, or a variable is not `NAME=VALUE`.
    """
    env = {} if text is None else read_object("--runtime-env", text)
    if more := read_pairs("--env", variables):
        known: object = env.get("env_vars", {})
        if not isinstance(known, dict | None):
            raise ConfigurationError("--runtime-env: its env_vars are no JSON object.")
        env["env_vars"] = cast("dict[str, Any]", known or {}) | more
    if packages:
        env["pip"] = packages
    return env
