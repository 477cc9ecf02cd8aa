"""The shape of a `runtime_env`, looked at when it is submitted.

Ray looks when it prepares the environment: the job would wait, and then fail with a traceback.
Fields that are not known here may be those of a plugin, and are left to Ray.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from agentray.errors import JobRejected

_Check = Callable[[str, Any], None]
"""Raises when a field has a value that it cannot have."""

_VARIABLE = re.compile(r"[^=\0]+")
_INSTALLERS = ("pip", "uv", "conda")
_BESIDE_AN_IMAGE = frozenset({"config", "env_vars"})


def check_environment(env: Mapping[str, Any]) -> None:
    """Make sure that Ray can read a `runtime_env`.

    Raises:
        JobRejected: it cannot; the error names the field.
    """
    given = {name: value for name, value in env.items() if value is not None}
    for name, value in given.items():
        if _has_nul(name) or _has_nul(value):
            raise _wrong(name[:40], "NUL characters cannot be in it.")
        if name in _CHECKS:
            _CHECKS[name](name, value)
    installers = [name for name in _INSTALLERS if given.get(name)]
    if len(installers) > 1:
        raise _wrong(installers[1], f"{' and '.join(installers)} do not go together.")
    for image in ("container", "image_uri"):
        others = sorted(given.keys() - _BESIDE_AN_IMAGE - {image})
        if given.get(image) and others:
            told = f"{image} goes with config and env_vars alone, not with {others[0]}."
            raise _wrong(image, told)


def _wrong(field: str, told: str) -> JobRejected:
    return JobRejected(told, f"runtime_env.{field}")


def _has_nul(value: Any) -> bool:
    match value:
        case str():
            return "\0" in value
        case dict():
            pairs = cast("dict[str, Any]", value).items()
            return any(_has_nul(name) or _has_nul(item) for name, item in pairs)
        case list():
            return any(_has_nul(item) for item in cast("list[Any]", value))
        case _:
            return False


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, str) for item in cast("list[Any]", value)
    )


def _check_text(field: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _wrong(field, f"{field} must be a text.")


def _check_texts(field: str, value: Any) -> None:
    if not _is_texts(value):
        raise _wrong(field, f"{field} must be a list of texts.")


def _check_packages(field: str, value: Any) -> None:
    """Check what pip or uv is to install."""
    if isinstance(value, str):
        raise _wrong(field, f"{field} must be a list of packages: no file is read on the cluster.")
    if not isinstance(value, dict):
        _check_texts(field, value)
        return
    more = cast("dict[str, Any]", value)
    if "packages" not in more:
        raise _wrong(f"{field}.packages", f"{field} does not say which packages.")
    options = "uv_pip_install_options" if field == "uv" else "pip_install_options"
    checks: Mapping[str, _Check] = {
        "packages": _check_texts,
        f"{field}_check": _check_flag,
        f"{field}_version": _check_text,
        options: _check_texts,
    }
    _check_fields(field, more, checks)


def _check_fields(field: str, value: dict[str, Any], checks: Mapping[str, _Check]) -> None:
    for name, part in value.items():
        if name not in checks:
            told = f"{field} has no {name[:40]!r}, only {', '.join(checks)}."
            raise _wrong(f"{field}.{name[:40]}", told)
        checks[name](f"{field}.{name}", part)


def _check_flag(field: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise _wrong(field, f"{field} must be true or false.")


def _check_seconds(field: str, value: Any) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not (value == -1 or 0 < value < 2**31):
        raise _wrong(field, f"{field} must be whole seconds above 0, or -1 for any time.")


def _check_conda(field: str, value: Any) -> None:
    if isinstance(value, str) and value.endswith((".yaml", ".yml")):
        raise _wrong(field, "conda must have what is in the file: none is read on the cluster.")
    if not isinstance(value, str | dict):
        raise _wrong(field, "conda must be the name of an environment, or its description.")


def _check_object(field: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise _wrong(field, f"{field} must be an object.")


def _check_config(field: str, value: Any) -> None:
    _check_object(field, value)
    checks: Mapping[str, _Check] = {
        "setup_timeout_seconds": _check_seconds,
        "eager_install": _check_flag,
        "log_files": _check_texts,
    }
    _check_fields(field, cast("dict[str, Any]", value), checks)


def _check_variables(field: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise _wrong(field, "env_vars must be texts by name.")
    for name, text in cast("dict[str, Any]", value).items():
        if not isinstance(text, str):
            raise _wrong(field, "env_vars must be texts by name.")
        if not _VARIABLE.fullmatch(name):
            raise _wrong(field, f"{name[:40]!r} is no name of an environment variable.")


def _check_place(field: str, where: Any) -> None:
    if not (isinstance(where, str) and "://" in where):
        told = f"{str(where)[:100]!r} is no URI: upload a package first, or name a remote one."
        raise _wrong(field, told)


def _check_modules(field: str, value: Any) -> None:
    if not isinstance(value, list):
        raise _wrong(field, "py_modules must be a list of URIs.")
    for module in cast("list[Any]", value):
        _check_place(field, module)


_CHECKS: Mapping[str, _Check] = {
    "pip": _check_packages,
    "uv": _check_packages,
    "conda": _check_conda,
    "env_vars": _check_variables,
    "working_dir": _check_place,
    "py_modules": _check_modules,
    "excludes": _check_texts,
    "java_jars": _check_texts,
    "py_executable": _check_text,
    "image_uri": _check_text,
    "worker_process_setup_hook": _check_text,
    "container": _check_object,
    "config": _check_config,
}
