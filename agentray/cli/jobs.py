"""Commands about jobs: submit, list, get, logs, stop, delete. They speak HTTP, and need no Ray."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentray.cli import console
from agentray.cli.command import (
    DEFAULT_TIMEOUT_S,
    Command,
    JsonOption,
    KeyOption,
    Target,
    TimeoutOption,
    UrlOption,
    ask_gateway,
)
from agentray.cli.exits import ExitCode
from agentray.cli.job_logs import LogPrinter, uploads
from agentray.cli.times import read_seconds
from agentray.errors import ConfigurationError
from agentray.protocol.jobs import JobStatus

if TYPE_CHECKING:
    from agentray.client import AsyncAgentClient, Job, SubmitOptions

group = typer.Typer(
    name="jobs", help="Jobs: programs that Ray runs on the cluster.", no_args_is_help=True
)

JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="See `jobs list`.")]
_FOLLOWING_S = 60.0  # without any sign of the gateway; then following a log is given up


@group.command(cls=Command, context_settings={"ignore_unknown_options": True})
def submit(  # noqa: PLR0913 - the options are read from the signature
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="The command line of the job.")
    ],
    *,
    job_id: Annotated[
        str | None,
        typer.Option("--id", help="Its id (default: a new one). Said again it is the same job."),
    ] = None,
    working_dir: Annotated[
        Path | None, typer.Option(help="A directory in which it runs: it is uploaded.")
    ] = None,
    py_module: Annotated[
        list[Path] | None, typer.Option(help="A directory that it can import; several times.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="What is not uploaded: a name or path, with *; several times."),
    ] = None,
    runtime_env: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="Ray's runtime_env.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable; several times.")
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A variable of this shell that the job gets, and no record; several times.",
        ),
    ] = None,
    pip: Annotated[
        list[str] | None, typer.Option(metavar="PACKAGE", help="A package; several times.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="By which it is found; several times."),
    ] = None,
    num_cpus: Annotated[float | None, typer.Option(min=0, help="CPUs of its command.")] = None,
    num_gpus: Annotated[float | None, typer.Option(min=0, help="GPUs, likewise.")] = None,
    memory: Annotated[int | None, typer.Option(min=0, help="Bytes, likewise.")] = None,
    resource: Annotated[
        list[str] | None, typer.Option(metavar="NAME=AMOUNT", help="Another; several times.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show its log until it has ended.")
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Submit a job and print its id.

    With --follow it exits with 6 when the job does not succeed. Ctrl-C leaves the job alone.
    """
    given = read_environment(runtime_env)
    if variables := read_pairs("--env", env):
        given["env_vars"] = {**given.get("env_vars", {}), **variables}
    if pip:
        given["pip"] = pip
    options: SubmitOptions = {
        "submission_id": job_id,
        "runtime_env": given or None,
        "metadata": read_pairs("--metadata", metadata) or None,
        "entrypoint_num_cpus": num_cpus,
        "entrypoint_num_gpus": num_gpus,
        "entrypoint_memory": memory,
        "entrypoint_resources": read_amounts(resource) or None,
        "secrets": read_secrets(secret) or None,
    }

    async def ask(client: AsyncAgentClient) -> tuple[Job, ExitCode]:
        with uploads() as told:
            job = await client.submit_job(
                shlex.join(command) if len(command) > 1 else command[0],
                working_dir=working_dir,
                py_modules=py_module or (),
                excludes=exclude or (),
                on_upload=told,
                **options,
            )
        if not follow:
            return job, ExitCode.OK
        console.note(f"{job.job_id}: {job.status.value}")
        tail = client.follow_job(job.job_id, _FOLLOWING_S)
        status = await LogPrinter(as_json=False).follow(tail)
        code = ExitCode.OK if status == JobStatus.SUCCEEDED else ExitCode.RUN_FAILED
        return await client.get_job(job.job_id), code

    job, code = ask_gateway(Target(url, key, timeout), ask)
    if as_json:
        console.write(job.model_dump_json(indent=2))
    elif not follow:
        console.write(job.job_id)
    if code is not ExitCode.OK:
        raise typer.Exit(code)


@group.command("list", cls=Command)
def list_(
    *,
    status: Annotated[JobStatus | None, typer.Option(help="Only these.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only with it; several times.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most of them.")] = 20,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Only older ones than this.")
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """List jobs, newest first, also those that Ray's own commands submitted."""
    found = read_pairs("--metadata", metadata)
    page = ask_gateway(
        Target(url, key, timeout), lambda client: client.job_page(limit, before, status, found)
    )
    if as_json:
        rows: list[Any] = [job.model_dump(mode="json") for job in page.jobs]
        console.write_json({"jobs": rows, "next": page.next})
        return
    from agentray.cli import views

    console.out().print(views.jobs(page.jobs))
    if page.next:
        console.note(f"There are more: --before {page.next}")


@group.command(cls=Command)
def get(
    job_id: JobId,
    wait: Annotated[
        str | None, typer.Option(metavar="TIME", help="Until it has ended, at most 90s, 15m, 2h.")
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show a job.

    With --wait it exits with 6 when the job has failed or was stopped, and with 7 when it has not
    ended in time.
    """
    wait_s = 0.0 if wait is None else read_seconds("--wait", wait)

    async def ask(client: AsyncAgentClient) -> Job:
        with console.waiting("waiting for the job") if wait_s else console.nothing():
            return await client.get_job(job_id, wait_s)

    job = ask_gateway(Target(url, key, timeout), ask)
    if as_json:
        console.write(job.model_dump_json(indent=2))
    else:
        from agentray.cli import views

        console.out().print(views.job(job))
    if wait is not None and job.status is not JobStatus.SUCCEEDED:
        raise typer.Exit(ExitCode.RUN_FAILED if job.status.ended else ExitCode.UNFINISHED)


@group.command(cls=Command)
def logs(
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
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = _FOLLOWING_S,
) -> None:
    """Print the log of a job: to a file or pipe byte by byte as it is.

    Broken connections are made again; no line is lost or doubled by that. Exits with 1 when the
    rest of the log is lost.
    """
    if tail is not None and offset:
        raise ConfigurationError("Give --tail or --offset, not both.")

    async def ask(client: AsyncAgentClient) -> str:
        found = client.follow_job(job_id, timeout, offset=offset, tail=tail, follow=follow)
        return await LogPrinter(as_json=as_json).follow(found)

    ask_gateway(Target(url, key, timeout), ask)


@group.command(cls=Command)
def stop(
    job_id: JobId,
    wait: Annotated[
        str | None, typer.Option(metavar="TIME", help="Until it has ended, at most 90s, 15m, 2h.")
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Ask for the end of a job. With --wait it exits with 7 when it has not ended in time."""
    wait_s = 0.0 if wait is None else read_seconds("--wait", wait)

    async def ask(client: AsyncAgentClient) -> Job:
        job = await client.stop_job(job_id)
        if wait_s and not job.status.ended:
            with console.waiting("waiting for its end"):
                job = await client.get_job(job_id, wait_s)
        return job

    job = ask_gateway(Target(url, key, timeout), ask)
    told = job.status.value if job.status.ended else "is going to end"
    console.write(job.model_dump_json(indent=2) if as_json else f"{job.job_id}: {told}")
    if wait is not None and not job.status.ended:
        raise typer.Exit(ExitCode.UNFINISHED)


@group.command(cls=Command)
def delete(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB_ID...", help="See `jobs list`.")],
    *,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Forget jobs that have ended, and their logs."""

    async def ask(client: AsyncAgentClient) -> None:
        for job_id in job_ids:
            await client.delete_job(job_id)
            console.write(f"{job_id}: deleted")

    ask_gateway(Target(url, key, timeout), ask)


def read_pairs(option: str, words: list[str] | None) -> dict[str, str]:
    """Read values as they are written on the command line.

    Raises:
        ConfigurationError: one is not `NAME=VALUE`.
    """
    pairs = [word.partition("=") for word in words or ()]
    if wrong := [name for name, sign, _ in pairs if not sign or not name]:
        raise ConfigurationError(f"{option} {wrong[0]}: write NAME=VALUE.")
    return {name: value for name, _, value in pairs}


def read_amounts(words: list[str] | None) -> dict[str, float]:
    """Read amounts of resources.

    Raises:
        ConfigurationError: one is not `NAME=AMOUNT`.
    """
    found = read_pairs("--resource", words)
    try:
        return {name: float(amount) for name, amount in found.items()}
    except ValueError as error:
        raise ConfigurationError(f"--resource: {error}.") from error


def read_secrets(names: list[str] | None) -> dict[str, str]:
    """Read variables of this shell: their values are on no command line.

    Raises:
        ConfigurationError: one is not set.
    """
    if missing := [name for name in names or () if name not in os.environ]:
        raise ConfigurationError(f"--secret {missing[0]}: no such variable is set in this shell.")
    return {name: os.environ[name] for name in names or ()}


def read_environment(text: str | None) -> dict[str, Any]:
    """Read a runtime_env: JSON, or a file that has it.

    Raises:
        ConfigurationError: it is none.
    """
    if text is None:
        return {}
    try:
        found: Any = json.loads(Path(text[1:]).read_text() if text[:1] == "@" else text)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--runtime-env: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError("--runtime-env: it is no JSON object.")
    return found  # pyright: ignore[reportUnknownVariableType] - JSON: the gateway checks it
