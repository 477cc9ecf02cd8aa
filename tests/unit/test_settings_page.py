"""The tables of settings say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic.fields import FieldInfo

from agentray import AgentOptions, Settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guide" / "settings.md"
README = ROOT / "README.md"

_NAME = re.compile(r"^\| `AGENTRAY_([A-Z_]+)` \|", re.MULTILINE)

OF_EXAMPLES = {"MODEL"}
"""Variables that are read by examples, not by agentray."""


def default_of(field: FieldInfo) -> str:
    """Return a default as the page shows it."""
    if field.default_factory is not None:
        return "`~/.agentray`"  # the only one that depends on the machine
    return "unset" if field.default is None else f"`{field.default}`"


def rows() -> dict[str, str]:
    """Return the lines of tables that there should be, by what they begin with."""
    settings = {
        f"AGENTRAY_{name.upper()}": (default_of(field), field.description)
        for name, field in Settings.model_fields.items()
    }
    options = {
        name: (default_of(AgentOptions.model_fields[name]), AgentOptions.model_fields[name])
        for name in ("concurrency", "mailbox", "fair_runs", "idle_timeout_s")
    }
    told = {name: (default, field.description) for name, (default, field) in options.items()}
    return {n: f"| `{n}` | {d} | {text} |" for n, (d, text) in {**settings, **told}.items()}


def test_the_page_has_each_setting_with_its_default_and_what_it_means() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    missing = [row for row in rows().values() if row not in lines]
    assert missing == []


def test_the_page_has_no_setting_that_is_not_there() -> None:
    known = {name.removeprefix("AGENTRAY_") for name in rows() if name.startswith("AGENTRAY_")}
    assert set(_NAME.findall(PAGE.read_text(encoding="utf-8"))) == known
    assert set(_NAME.findall(README.read_text(encoding="utf-8"))) <= known | OF_EXAMPLES
