"""The guide's and the README's Python code does what the pages say: all of it is run.

The blocks of a page run in order, in one module, on one event loop. A block that is not to be run
has another info string than `python`.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from agentray.cli import main
from agentray.config import Settings
from tests.support.documentation import Block, blocks_of, module, run_block

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide"
PAGES = sorted(GUIDE.glob("*.md"))
README = ROOT / "README.md"

_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(#[^)\s]*)?\)")


def python(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language == "python"]


def run_page(page: Path) -> None:
    async def whole() -> None:
        for block in python(page):
            await run_block(block, made.__dict__)

    with module(f"guide_{page.stem}", page) as made:
        asyncio.run(whole())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path) -> None:
    run_page(page)


def test_the_index_names_every_page() -> None:
    index = (GUIDE / "README.md").read_text(encoding="utf-8")
    named = {target for target, _ in _LINK.findall(index) if "/" not in target}
    assert named == {page.name for page in PAGES} - {"README.md"}


@pytest.mark.parametrize("page", [*PAGES, README], ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor[1:] in headings(file), f"{page.name} links to {target}{anchor}"


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


# The README


@pytest.fixture
def greetings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """The README's `greetings.py`, saved where its tests can import it."""
    found = [block for block in python(README) if "agentray.run(main())" in block.code]
    assert len(found) == 1
    file = tmp_path / "greetings.py"
    file.write_text(found[0].code, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield file
    sys.modules.pop("greetings", None)


@pytest.mark.usefixtures("greetings")
def test_the_readmes_test_of_its_agent_passes() -> None:
    (block,) = [block for block in python(README) if "from greetings import" in block.code]
    names: dict[str, object] = {"__name__": "test_greetings"}

    async def whole() -> None:
        await run_block(block, names)
        tests = [found for name, found in names.items() if name.startswith("test_")]
        assert len(tests) == 1
        await tests[0]()  # type: ignore[operator]

    asyncio.run(whole())


def test_all_of_the_readmes_code_compiles() -> None:
    assert len(python(README)) >= 3
    for block in python(README):
        block.compiled()


def test_the_readme_names_settings_with_their_defaults() -> None:
    text = README.read_text(encoding="utf-8")
    defaults = dict(re.findall(r"^\| `AGENTRAY_(\w+)` \| (.*?) \|", text, re.MULTILINE))
    fields = {name.upper(): field for name, field in Settings.model_fields.items()}
    numbers = [n for n in defaults if n in fields and isinstance(fields[n].default, int | float)]
    assert len(numbers) >= 4
    for name in numbers:
        assert float(defaults[name].strip("`")) == fields[name].default, name


def test_a_page_names_every_command() -> None:
    text = (GUIDE / "commands.md").read_text(encoding="utf-8")
    for command in main.COMMANDS:
        assert f"`agentray {command.__name__.replace('_', '-')}" in text
    for group in main.app.registered_groups:
        assert group.typer_instance is not None
        name = group.name or group.typer_instance.info.name
        assert f"`agentray {name} " in text


# What runs the pages: a broken page must not pass


def page_of(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_blocks_of_other_languages_and_titles_are_not_run(tmp_path: Path) -> None:
    page = page_of(
        tmp_path, "```text\nno\n```\n\n```python title\n1 / 0\n```\n```python\nx = 1\n```\n"
    )
    assert [block.language for block in blocks_of(page)] == ["text", "python title", "python"]
    run_page(page)


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("x = 1\nassert x == 2", r"page\.md:8 .*AssertionError"),
        ("async def f():\n    raise OSError('gone')\nawait f()", r"page\.md:8 .*OSError"),
        ("x = (", r"page\.md:7 .*SyntaxError"),
        ("import asyncio\nt = asyncio.create_task(asyncio.sleep(60))", "left behind"),
    ],
)
def test_a_block_that_fails_is_told_with_its_page_and_line(
    tmp_path: Path, code: str, complaint: str
) -> None:
    page = page_of(tmp_path, f"# Title\n\n```python\ny = 1\n```\n```python\n{code}\n```\n")
    with pytest.raises(AssertionError, match=complaint):
        run_page(page)


def test_a_block_that_hangs_is_told(tmp_path: Path) -> None:
    page = page_of(tmp_path, "```python\nimport asyncio\nawait asyncio.Event().wait()\n```\n")

    async def whole() -> None:
        (block,) = blocks_of(page)
        await run_block(block, {}, timeout_s=0.05)

    with pytest.raises(AssertionError, match=r"page\.md:3 .*timed out"):
        asyncio.run(whole())


def test_the_classes_of_a_page_are_those_of_a_module(tmp_path: Path) -> None:
    run_page(
        page_of(
            tmp_path,
            "```python\nimport pickle\n\nclass Kept:\n    pass\n```\n\n"
            "```python\nassert type(pickle.loads(pickle.dumps(Kept()))) is Kept\n```\n",
        )
    )
