"""Pools: sets of equal hosts, with what Ray reserves and prepares for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, cast

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from pydantic.dataclasses import dataclass

from agentray.ids import check_pool_name

_BY_NAME = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
_PREPARED = ("env_vars", "working_dir", "excludes", "pip", "py_modules")
_ARCHIVES = (".zip", ".whl")


def _check_hosts(hosts: int | tuple[int, int]) -> int | tuple[int, int]:
    if isinstance(hosts, tuple) and hosts[0] > hosts[1]:
        raise ValueError(f"hosts={hosts}: the least number comes first, write ({hosts[1]}, …).")
    return hosts


def _check_resources(resources: dict[str, float]) -> dict[str, float]:
    for name in resources:
        if name in _BY_NAME:
            raise ValueError(f"{name} is no resource of its own: write {_BY_NAME[name]}=.")
    return resources


def _check_runtime_env(env: dict[str, Any]) -> dict[str, Any]:
    for name, value in env.items():
        if name not in _PREPARED:
            raise ValueError(
                f"runtime_env has no {name!r} for a pool. It may have: {', '.join(_PREPARED)}."
            )
        _CHECKS[name](value)
    return env


def _check_env_vars(value: Any) -> None:
    pairs = cast("Mapping[Any, Any]", value if isinstance(value, Mapping) else {None: value})
    if not all(isinstance(text, str) for pair in pairs.items() for text in pair):
        raise ValueError(f"runtime_env['env_vars'] maps texts to texts, not {value!r}.")


def _check_place(name: str, value: Any) -> None:
    if not isinstance(value, (str, Path)):
        raise ValueError(f"runtime_env[{name!r}]: {value!r} is neither a directory nor a URI.")  # noqa: TRY004 - pydantic reports ValueErrors
    if "://" in str(value):
        return
    path = Path(value)
    if not (path.is_dir() or (path.is_file() and path.suffix in _ARCHIVES)):
        raise ValueError(f"runtime_env[{name!r}]: there is no directory or archive {str(path)!r}.")


def _check_working_dir(value: Any) -> None:
    _check_place("working_dir", value)


def _check_py_modules(value: Any) -> None:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"runtime_env['py_modules'] is a list, not {value!r}.")  # noqa: TRY004 - pydantic reports ValueErrors
    for module in value:  # pyright: ignore[reportUnknownVariableType]
        _check_place("py_modules", module)


def _check_excludes(value: Any) -> None:
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):  # pyright: ignore[reportUnknownVariableType]
        raise ValueError(f"runtime_env['excludes'] is a list of patterns, not {value!r}.")


def _check_pip(value: Any) -> None:
    packages = value.get("packages") if isinstance(value, Mapping) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if isinstance(packages, str) and Path(packages).is_file():
        return  # a file of requirements
    if not isinstance(packages, (list, tuple)) or not all(isinstance(p, str) for p in packages):  # pyright: ignore[reportUnknownVariableType]
        raise ValueError(
            f"runtime_env['pip'] is a list of requirements, a requirements file that exists, or "
            f"{{'packages': [...]}}, not {value!r}."
        )


_CHECKS = {
    "env_vars": _check_env_vars,
    "working_dir": _check_working_dir,
    "py_modules": _check_py_modules,
    "excludes": _check_excludes,
    "pip": _check_pip,
}


class PoolSettings(TypedDict, total=False):
    """The settings of a `Pool` but for its name, as keywords."""

    hosts: int | tuple[int, int]
    num_cpus: float
    num_gpus: float
    resources: dict[str, float]
    memory: int
    runtime_env: dict[str, Any]
    isolation: Literal["shared", "actor"]
    placement: Literal["pack", "spread"]
    load_per_host: float
    grace_s: float


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Pool:
    """A named set of equal hosts.

    `default` exists from the start; its number of hosts is the operator's `AGENTRAY_HOSTS` unless
    an app declares it.

    Attributes:
        name: letters, digits, `_`, `-` and `.`.
        hosts: how many to keep alive, or the least and the most: then the pool grows with its load
            and shrinks when it has been quiet.
        num_cpus: that Ray reserves per host; 0: agents mostly wait, and share what is there.
        num_gpus: that Ray reserves per host.
        resources: of the cluster's own kinds, reserved per host, such as `{"licence": 1}`.
        memory: bytes that Ray reserves per host; 0: none. A reservation, not a limit.
        runtime_env: what is prepared for each host's process: `env_vars`, `working_dir` (with
            `excludes`), `py_modules` and `pip`, as in Ray. Local directories are packed when the
            pool is declared, and kept with it.
        isolation: `shared`: each host runs many agents. `actor`: each agent that has something to
            do has a host of its own, started with its first message and stopped when it has left
            memory; `hosts` is the most of them.
        placement: `pack`: machines are filled one after the other, each up to its number of CPUs,
            where a host counts as one CPU unless it reserves more or less; `spread`: over as many
            machines as there are. Decided for each host when it is started.
        load_per_host: messages under way and waiting at one host above which a pool with a most
            number of hosts grows.
        grace_s: seconds that agents may take to finish what they do when they move to another host,
            or theirs stops; what comes for them meanwhile waits.
    """

    name: Annotated[str, AfterValidator(check_pool_name)] = "default"
    _: KW_ONLY
    hosts: Annotated[
        PositiveInt | tuple[PositiveInt, PositiveInt], AfterValidator(_check_hosts)
    ] = 2
    num_cpus: NonNegativeFloat = 0.0
    num_gpus: NonNegativeFloat = 0.0
    resources: Annotated[dict[str, PositiveFloat], AfterValidator(_check_resources)] = Field(
        default_factory=dict[str, float]
    )
    memory: NonNegativeInt = 0
    runtime_env: Annotated[dict[str, Any], AfterValidator(_check_runtime_env)] = Field(
        default_factory=dict[str, Any]
    )
    isolation: Literal["shared", "actor"] = "shared"
    placement: Literal["pack", "spread"] = "pack"
    load_per_host: PositiveFloat = 16.0
    grace_s: PositiveFloat = 10.0
