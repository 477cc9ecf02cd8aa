"""What the package shows: its names, what importing it costs, and that each module stands alone."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import agentray

ROOT = Path(agentray.__file__).parent

MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if path.name != "__main__.py"
)

HEAVY = ("ray", "asyncpg", "fastapi", "starlette", "uvicorn", "pydantic_ai")

IMPORT_EACH_ANEW = """
import importlib, json, sys
import agentray

first = set(sys.modules)  # what the package itself imports comes first whatever is imported
failed = {}
for name in sys.argv[1:]:
    for loaded in [m for m in sys.modules if m.startswith("agentray.") and m not in first]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = f"{type(error).__name__}: {error}"
print("\\n" + json.dumps(failed))
"""


def run(program: str, *arguments: str) -> Any:
    """Run a program in an interpreter of its own and read the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_all_is_sorted_and_holds_no_name_twice() -> None:
    # Constants first, as ruff wants it.
    assert agentray.__all__ == sorted(set(agentray.__all__), key=lambda n: (not n.isupper(), n))


def test_all_is_exactly_what_the_package_binds() -> None:
    public = {
        name
        for name, value in vars(agentray).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert set(agentray.__all__) == public


@pytest.mark.parametrize("name", agentray.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(agentray, name))


def test_the_client_shows_what_it_imports_and_nothing_else() -> None:
    from agentray import client

    assert client.__all__ == sorted(set(client.__all__))
    public = {
        name
        for name, value in vars(client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert set(client.__all__) == public


@pytest.mark.parametrize(
    "module",
    ["agentray", "agentray.client", "agentray.client.async_client", "agentray.client.sync_client"],
)
def test_importing_it_imports_neither_cluster_nor_database_nor_web_framework(module: str) -> None:
    program = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    loaded = {name.partition(".")[0] for name in run(program)}
    assert module.partition(".")[0] in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_modules_that_are_looked_at_are_all_there_are() -> None:
    assert {"agentray", "agentray.agent", "agentray.core.mailbox", "agentray.cli.main"} < set(
        MODULES
    )


def test_every_module_can_be_imported_alone_and_first() -> None:
    # In one test, and so in one process: hundreds of imports anew are all that it costs.
    assert run(IMPORT_EACH_ANEW, *MODULES) == {}


def test_a_module_that_cannot_be_imported_would_be_found() -> None:
    assert run(IMPORT_EACH_ANEW, "agentray.ids", "agentray.nowhere") == {
        "agentray.nowhere": "ModuleNotFoundError: No module named 'agentray.nowhere'"
    }
