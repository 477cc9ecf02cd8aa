"""Prompts with files, and results of a form that the caller wants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    App,
    Attachment,
    ConfigurationError,
    OutputSchemaInvalid,
    PayloadError,
    Prompt,
    RunFailed,
    TerminateEvent,
    on,
)
from agentray.protocol.runs import RunStatus
from agentray.runtime.manager_client import ManagerClient
from agentray.testing import LocalRuntime, run

PICTURE = Attachment(name="ünï.png", media_type="image/png", data=bytes(range(256)) * 3)
NOTE = Attachment(name="note.txt", media_type="text/plain", data="Grüße".encode())


class Total(BaseModel):
    words: int
    names: list[str] = []


class Ended(TerminateEvent):
    words: Any


class Kept(BaseModel):
    prompts: int = 0


class Reader(Agent):
    """Says what it was given."""

    state: Kept

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Any:
        self.state.prompts += 1
        match prompt.text:
            case "files":
                return {
                    "files": [(a.name, a.media_type, a.data.hex()) for a in prompt.attachments],
                    "text": prompt.attachments[-1].text,
                }
            case "schema":
                return {"schema": prompt.output_schema}
            case "wrong":
                return {"words": "many"}
            case "nothing":
                return None
            case "event":
                return Ended(words="many")
            case _:
                names = [attachment.name for attachment in prompt.attachments]
                return {"words": len(prompt.text.split()), "names": names}


app = App("readers", [Reader])


def in_runtime(test: Any, **options: Any) -> None:
    async def whole() -> None:
        async with LocalRuntime(**options) as manager:
            await manager.deploy(app)
            await test(manager)

    run(whole())


@pytest.mark.parametrize("durability", ["run", "step"])
def test_the_agent_gets_the_files(durability: Any) -> None:
    async def test(manager: ManagerClient) -> None:
        found = await manager.prompt("files", attachments=[PICTURE, NOTE], durability=durability)
        assert found.status is RunStatus.SUCCEEDED, found.error
        assert found.result["files"] == [
            ["ünï.png", "image/png", PICTURE.data.hex()],
            ["note.txt", "text/plain", NOTE.data.hex()],
        ]
        assert found.result["text"] == "Grüße"

    in_runtime(test)


def test_a_result_that_fits_is_read_as_its_type() -> None:
    async def test(manager: ManagerClient) -> None:
        found = await manager.prompt("one two", output_schema=Total, attachments=[NOTE])
        assert found.result_as(Total) == Total(words=2, names=["note.txt"])
        told = await manager.prompt("schema", output_schema={"type": "object"})
        assert told.result == {"schema": {"type": "object"}}
        with pytest.raises(PayloadError, match=r"result\.words"):
            told.result_as(Total)

    in_runtime(test)


@pytest.mark.parametrize("text", ["wrong", "nothing", "event"])
def test_a_result_that_does_not_fit_ends_the_run_as_failed(text: str) -> None:
    async def test(manager: ManagerClient) -> None:
        found = await manager.prompt(text, agent="reader/a", output_schema=Total)
        assert (found.status, found.result) == (RunStatus.FAILED, None)
        assert found.error is not None
        assert found.error.type == "OutputInvalid"
        assert "result" in found.error.message
        with pytest.raises(RunFailed, match="OutputInvalid"):
            found.result_as(Total)

    in_runtime(test)


def test_the_handler_of_a_wrong_answer_leaves_the_state_as_it_was() -> None:
    async def test(manager: ManagerClient) -> None:
        await manager.prompt("one", agent="reader/a", output_schema=Total)
        await manager.prompt("wrong", agent="reader/a", output_schema=Total)
        kept = await manager.save_state("reader/a")
        assert kept.state == {"prompts": 1}

    in_runtime(test)


def test_what_cannot_be_asked_is_refused_at_once() -> None:
    async def test(manager: ManagerClient) -> None:
        with pytest.raises(OutputSchemaInvalid, match="text"):
            await manager.prompt("x", output_schema={"type": "text"})
        with pytest.raises(ConfigurationError, match="per step"):
            await manager.prompt("x", output_schema=Total, durability="step")

    in_runtime(test)


def test_files_are_read_with_what_their_names_say(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"1,2")
    assert Attachment.of_file(file) == Attachment(name="a.csv", media_type="text/csv", data=b"1,2")
    assert Attachment.of_file(file, "text/x").media_type == "text/x"
    with pytest.raises(ConfigurationError, match="missing"):
        Attachment.of_file(tmp_path / "missing")


@pytest.mark.parametrize(
    "wrong", [{"name": "a/b"}, {"name": ""}, {"name": ".."}, {"name": "a\n"}, {"media_type": "png"}]
)
def test_a_wrong_file_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"name|media type|character"):
        Attachment.model_validate({"name": "a", "data": b"", **wrong}, strict=True)


def test_a_file_survives_its_json() -> None:
    assert Attachment.model_validate_json(PICTURE.model_dump_json()) == PICTURE
