"""Analyse texts on the running cluster: `python -m agentray.examples.driver [FILE ...]`.

As a Ray job: `ray job submit -- python -m agentray.examples.driver`.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import agentray
from agentray import AgentrayError, ManagerClient, RunStatus
from agentray.errors import RunFailed
from agentray.examples.text_analysis import TextAnalysed, TextReception

APP = "agentray.examples.text_analysis:app"

SAMPLE = """\
The river had been rising since Tuesday, and by Friday morning the lower fields were under a foot
of brown water. Farmers along the river moved their cattle to higher ground before the bridge
closed. The county had spent eleven years arguing about a flood barrier, and the flood barrier was
still a drawing in a drawer. Engineers say the flood barrier would have cost less than one season
of flood damage. Nobody was hurt. The river is expected to fall by Sunday, but flood damage to
roads and cellars will take months to repair.
"""

_WIDTH = 88


def main(arguments: Sequence[str] | None = None) -> int:
    """Analyse the files, or a sample; return the exit code."""
    parser = argparse.ArgumentParser(prog="agentray.examples.driver", description="Analyse texts.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="UTF-8 texts")
    files: list[Path] = parser.parse_args(arguments).files
    try:
        texts = {str(file): file.read_text(encoding="utf-8") for file in files}
        agentray.run(_drive(texts or {"a sample": SAMPLE}))
    except (AgentrayError, OSError, UnicodeDecodeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


async def _drive(texts: dict[str, str]) -> None:
    async with agentray.connect() as manager:
        await manager.deploy(APP)
        for title, text in texts.items():
            print(await report(manager, title, text))


async def report(manager: ManagerClient, title: str, text: str) -> str:
    """Have a text analysed and return a page about it.

    Raises:
        RunFailed: the analysis did not succeed.
    """
    desk = manager.handle(TextReception, "desk")
    size = await desk.call(TextReception.measure, text)
    run = await manager.prompt(text, agent=TextReception)
    if run.status is not RunStatus.SUCCEEDED:
        raise RunFailed(run.id, run.status, run.error.message if run.error else "no reason given")
    heading = f"{title}: {size.words} words in {size.sentences} sentences"
    return f"{heading}\n{'=' * len(heading)}\n\n{render(TextAnalysed.model_validate(run.result))}"


def render(result: TextAnalysed) -> str:
    """Lay a result out for a terminal."""
    phrases = "\n".join(f"  - {phrase}" for phrase in result.key_phrases)
    names = {name: name.replace("_", " ") for name in result.statistics}
    column = max(map(len, names.values()), default=0)
    counted = "\n".join(
        f"  {names[name]:<{column}}  {_number(value)}" for name, value in result.statistics.items()
    )
    summary = textwrap.fill(
        result.summary, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False
    )
    return (
        f"Summary\n{summary}\n\nKey phrases\n{phrases}\n\n"
        f"Statistics\n{counted}\n\nMade by\n  {result.engine}\n"
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    sys.exit(main())
