"""Definitions: what is read from agent classes and apps, and what is refused with a reason."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any, assert_type

import pytest
from pydantic import BaseModel, Field, ValidationError

from agentray import (
    Agent,
    AgentId,
    AgentOptions,
    App,
    ConfigurationError,
    Event,
    Handle,
    PayloadError,
    Pool,
    Prompt,
    RemoteAction,
    action,
    on,
)
from agentray.agent import ActionSpec
from agentray.app import load_app
from agentray.handlers import EventHandler
from agentray.protocol.snapshot import Subscription
from agentray.testing import LocalRuntime


class Happened(Event):
    name: str = ""


class Ended(Event):
    pass


class Counts(BaseModel):
    greeted: int = 0


class NeedsValue(BaseModel):
    optional: int = 0
    customer: str


class Greeter(Agent):
    options = AgentOptions(name="welcome", concurrency=3, mailbox=7)
    state: Counts

    @action
    async def greet(self, name: str, *, loudly: bool = False) -> str:
        return f"Hello {name}{'!' if loudly else ''}"

    @action(idempotent=True)
    async def count(self) -> int:
        return self.state.greeted

    @on(Happened, key="field:name")
    async def note(self, happened: Happened) -> Ended:
        self.state.greeted += len(happened.name)
        return Ended()

    async def helper(self) -> None:
        """No action: it is not marked."""


class LoudGreeter(Greeter):
    @action
    async def shout(self, name: str) -> str:
        return (await self.greet(name)).upper()

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> str:
        return prompt.text


class Bare(Agent):
    pass


class InAnotherPool(Agent):
    options = AgentOptions(pool="gpu")


# Agent classes


@pytest.mark.parametrize(
    ("cls_name", "name"),
    [
        ("Greeter", "greeter"),
        ("TextAnalyser", "text_analyser"),
        ("HTTPServer", "http_server"),
        ("MyHTTPServer2", "my_http_server2"),
        ("Step2Agent", "step2_agent"),
        ("A", "a"),
        ("already_snake", "already_snake"),
        ("_Hidden", "_hidden"),
    ],
)
def test_an_agent_type_has_the_name_of_its_class_in_snake_case(cls_name: str, name: str) -> None:
    cls: type[Agent] = type(cls_name, (Agent,), {})
    assert cls.agent_type.name == name


def test_what_a_class_says_of_itself_is_read_once() -> None:
    read = Greeter.agent_type
    assert read.cls is Greeter
    assert read.name == "welcome"
    assert read.actions == {
        "greet": ActionSpec("greet"),
        "count": ActionSpec("count", idempotent=True),
    }
    assert read.handlers == {Happened.event_type: EventHandler("note", Happened, "field:name")}
    assert read.state_model is Counts
    assert not read.prompts
    assert not read.takes_arguments


def test_a_bare_agent_has_the_defaults() -> None:
    read = Bare.agent_type
    assert (read.actions, read.handlers, read.state_model) == ({}, {}, None)
    assert read.options == AgentOptions()
    assert (read.options.concurrency, read.options.mailbox) == (1, 1000)


def test_a_subclass_inherits_actions_handlers_state_and_options_but_not_the_name() -> None:
    read = LoudGreeter.agent_type
    assert read.name == "loud_greeter"
    assert set(read.actions) == {"greet", "count", "shout"}
    assert set(read.handlers) == {Happened.event_type, Prompt.event_type}
    assert read.state_model is Counts
    assert (read.options.concurrency, read.options.mailbox) == (3, 7)
    assert read.prompts
    assert not Greeter.agent_type.prompts


def test_a_subclass_may_handle_an_event_anew_in_the_method_of_the_same_name() -> None:
    class Other(Greeter):
        @on(Happened, key="any:2")
        async def note(self, happened: Happened) -> Ended:
            return Ended(source=happened.source)

    assert Other.agent_type.handlers[Happened.event_type].key == "any:2"


def test_two_methods_for_one_event_contradict_each_other() -> None:
    with pytest.raises(ConfigurationError, match=r"Twice handles .*Happened twice: one, two"):

        class Twice(Agent):  # pyright: ignore[reportUnusedClass]
            @on(Happened)
            async def one(self, happened: Happened) -> None: ...

            @on(Happened)
            async def two(self, happened: Happened) -> None: ...

    with pytest.raises(ConfigurationError, match="twice: again, note"):

        class Inherited(Greeter):  # pyright: ignore[reportUnusedClass]
            @on(Happened)
            async def again(self, happened: Happened) -> None: ...


def test_one_method_may_handle_several_events() -> None:
    class Both(Agent):
        @on(Happened)
        @on(Ended, key="key:all")
        async def note(self, event: Event) -> None: ...

    assert {name: h.key for name, h in Both.agent_type.handlers.items()} == {
        Happened.event_type: "correlation",
        Ended.event_type: "key:all",
    }


@pytest.mark.parametrize(
    "key", ["", "correlations", "field:", "field:a b", "any:", "any:0", "any:-1", "any:x", "key:"]
)
def test_a_key_of_another_form_is_refused_where_it_is_written(key: str) -> None:
    with pytest.raises(ConfigurationError, match="write correlation, topic, field:NAME, any:N"):
        on(Happened, key=key)


@pytest.mark.parametrize("events", [(), (Happened(),), (str,), (Happened, Counts), ("Happened",)])
def test_on_takes_event_classes_only(events: Any) -> None:
    with pytest.raises(ConfigurationError, match="@on takes one or more Event classes"):
        on(*events)


def test_an_action_has_a_public_name() -> None:
    with pytest.raises(ConfigurationError, match="must not start with _"):

        @action
        async def _hidden(self: Agent) -> None: ...


@pytest.mark.parametrize("name", ["call", "call_by_name", "ping", "with_timeout", "id", "caller"])
def test_an_action_cannot_have_the_name_of_something_that_every_handle_has(name: str) -> None:
    async def method(self: Agent) -> None: ...

    method.__name__ = name
    with pytest.raises(ConfigurationError, match="every handle"):
        action(method)


def test_an_action_that_yields_is_known_as_a_stream() -> None:
    class Yielding(Agent):
        @action
        async def chunks(self) -> Any:
            yield self.id

        @action(idempotent=True)
        def numbers(self) -> Any:
            yield self.id

        @action
        def whole(self) -> list[int]:
            return []

    streams = {name: spec.streams for name, spec in Yielding.agent_type.actions.items()}
    assert streams == {"chunks": True, "numbers": True, "whole": False}


def test_a_state_whose_model_needs_a_value_is_refused_and_the_field_named() -> None:
    with pytest.raises(ConfigurationError, match=r"give NeedsValue\.customer a default"):

        class Needy(Agent):  # pyright: ignore[reportUnusedClass]
            state: NeedsValue


def test_a_state_is_a_pydantic_model() -> None:
    with pytest.raises(ConfigurationError, match=r"Plain\.state must be annotated with a pydantic"):

        class Plain(Agent):  # pyright: ignore[reportUnusedClass]
            state: dict[str, int]


def test_a_state_whose_class_is_not_known_where_the_agent_is_defined_is_told() -> None:
    class Local(BaseModel):
        x: int = 0

    with pytest.raises(ConfigurationError, match=r"Hidden\.state: name 'Local' is not defined"):

        class Hidden(Agent):  # pyright: ignore[reportUnusedClass]
            state: Local


@pytest.mark.parametrize("name", ["two words", "1st", "", "a/b", "é", "-a"])
def test_a_name_that_is_no_identifier_is_refused(name: str) -> None:
    body = {"options": AgentOptions(name=name or " ")}
    with pytest.raises(ConfigurationError, match="no name for an agent type"):
        type("Misnamed", (Agent,), body)


@pytest.mark.parametrize(
    "wrong",
    [{"concurrency": 0}, {"mailbox": 0}, {"idle_timeout_s": 0.0}, {"pol": "gpu"}],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AgentOptions(**wrong)


def test_a_constructor_with_parameters_is_noticed() -> None:
    class WithArguments(Agent):
        def __init__(self, greeting: str) -> None:
            self.greeting = greeting

    class Without(Agent):
        def __init__(self) -> None:
            self.ready = True

    class Below(WithArguments):
        pass

    assert WithArguments.agent_type.takes_arguments
    assert Below.agent_type.takes_arguments
    assert not Without.agent_type.takes_arguments


def test_outside_of_a_message_there_is_no_context() -> None:
    with pytest.raises(ConfigurationError, match="no message is being handled"):
        _ = Bare().context


@pytest.mark.parametrize("text", ["greeter", "", "/ada", "greeter/", "1st/ada", "a/" + "x" * 513])
def test_an_agents_id_is_written_as_type_and_key(text: str) -> None:
    with pytest.raises(ConfigurationError):
        AgentId.parse(text)
    assert AgentId.parse("greeter/ada/lovelace") == AgentId("greeter", "ada/lovelace")


# Apps


def test_an_app_knows_its_types_and_what_they_subscribe_to() -> None:
    app = App("shop", [Greeter, LoudGreeter, Bare])
    assert list(app.types) == ["welcome", "loud_greeter", "bare"]
    assert {(s.event_type, s.agent_type, s.key) for s in app.subscriptions} == {
        (Happened.event_type, "welcome", "field:name"),
        (Happened.event_type, "loud_greeter", "field:name"),
        (Prompt.event_type, "loud_greeter", "correlation"),
    }
    assert "shop" in repr(app)


def test_the_only_type_that_takes_prompts_is_the_entry() -> None:
    class AlsoPrompted(Agent):
        @on(Prompt)
        async def prompted(self, prompt: Prompt) -> None: ...

    assert App("one", [Bare, LoudGreeter]).entry == "loud_greeter"
    assert App("none", [Bare]).entry is None
    assert App("two", [LoudGreeter, AlsoPrompted]).entry is None
    assert App("two", [LoudGreeter, AlsoPrompted], entry=AlsoPrompted).entry == "also_prompted"


class Twin(Agent):
    options = AgentOptions(name="bare")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"agents": []}, "has no agents"),
        ({"agents": [Bare, Twin]}, "two agent types named 'bare'"),
        ({"agents": [Bare, Bare]}, "two agent types named 'bare'"),
        ({"agents": [Agent]}, "is not a subclass of Agent"),
        ({"agents": [str]}, "is not a subclass of Agent"),
        ({"agents": [Bare()]}, "is not a subclass of Agent"),
        ({"agents": ["Bare"]}, "is not a subclass of Agent"),
        ({"agents": [Bare], "entry": LoudGreeter}, "LoudGreeter is not among"),
        ({"agents": [Bare], "entry": Bare}, r"Bare handles no prompts"),
        ({"agents": [InAnotherPool]}, "InAnotherPool wants the pool 'gpu'"),
        ({"agents": [Bare], "name": "two words"}, "no name for an agent type"),
    ],
)
def test_an_app_that_contradicts_itself_is_refused(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        App(arguments.pop("name", "shop"), **arguments)


def test_a_pool_is_found_among_the_declared_ones() -> None:
    pool = Pool(name="gpu", hosts=1, num_gpus=0.5)
    assert App("shop", [InAnotherPool, Bare], pools=[pool]).pools == (pool,)
    with pytest.raises(ValidationError):
        Pool(hosts=0)


# Import strings

MODULE = """
from agentray import Agent, App

class Here(Agent):
    pass

app = App("from_file", [Here])
number = 7
nothing = None
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that one works in, with the modules of an app."""
    package = tmp_path / "shop_of_tests"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "main.py").write_text(MODULE)
    (package / "broken.py").write_text("raise RuntimeError('not today')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("shop_of_tests", "shop_of_tests.main", "shop_of_tests.broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("project")
def test_an_app_is_imported_from_the_current_directory() -> None:
    app = load_app("shop_of_tests.main:app")
    assert (app.name, list(app.types)) == ("from_file", ["here"])
    assert load_app("shop_of_tests.main:app") is app


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("import_string", "why"),
    [
        ("", "is not an import string"),
        ("shop_of_tests.main", "is not an import string"),
        ("shop_of_tests.main:", "is not an import string"),
        (":app", "is not an import string"),
        ("shop_of_tests.nowhere:app", r"cannot be imported: ModuleNotFoundError"),
        ("no_such_package:app", r"cannot be imported: ModuleNotFoundError"),
        ("shop_of_tests.broken:app", "RuntimeError: not today"),
        (".main:app", "cannot be imported"),
        ("shop_of_tests.main:application", "has no attribute 'application'"),
        ("shop_of_tests.main:nothing", "nothing"),
        ("shop_of_tests.main:number", "is int, not an agentray App"),
        ("shop_of_tests.main:Here", "not an agentray App"),
    ],
)
def test_an_import_string_that_leads_to_no_app_says_why(import_string: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        load_app(import_string)


# Types that a checker follows: `make check` fails when they are lost


async def test_a_typed_call_has_the_arguments_and_the_value_of_the_action() -> None:
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(App("typed", [Greeter, LoudGreeter]))
        handle = manager.handle(Greeter, "ada")
        assert_type(handle, Handle[Greeter])
        assert_type(handle.with_timeout(5.0), Handle[Greeter])

        greeting = await handle.call(Greeter.greet, "ada", loudly=True)
        assert_type(greeting, str)
        assert greeting == "Hello ada!"

        count = await handle.call(Greeter.count)
        assert_type(count, int)
        assert count == 0

        with pytest.raises(TypeError):
            await handle.call(Greeter.greet)  # pyright: ignore[reportCallIssue]
        with pytest.raises(TypeError):
            await handle.call(Greeter.greet, "ada", quietly=True)  # pyright: ignore[reportCallIssue]


async def test_a_handle_to_a_subclass_takes_the_actions_of_its_base() -> None:
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(App("typed", [LoudGreeter]))
        handle = manager.handle(LoudGreeter, "ada")
        assert_type(handle, Handle[LoudGreeter])
        assert_type(await handle.call(LoudGreeter.greet, "ada"), str)
        assert await handle.call(LoudGreeter.shout, "ada") == "HELLO ADA"
        # By attribute anything goes, and nothing is known of it before it has come.
        assert_type(handle.shout, RemoteAction)
        assert_type(await handle.shout("ada"), Any)


def test_a_type_checker_refuses_an_action_of_another_agent() -> None:
    def never_called(handle: Handle[Bare]) -> object:
        return handle.call(Greeter.greet, "ada")  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType]

    assert callable(never_called)


def test_handles_are_equal_when_they_name_the_same_agent() -> None:
    ada: Handle[Greeter] = Handle(AgentId("welcome", "ada"))
    assert ada == Handle(AgentId("welcome", "ada"), timeout=3.0)
    assert ada != Handle(AgentId("welcome", "bob"))
    assert len({ada, Handle[Greeter](AgentId("welcome", "ada"))}) == 1
    assert repr(ada) == "Handle(welcome/ada)"
    assert repr(ada.greet) == "<action greet of welcome/ada>"


def test_a_handle_has_no_hidden_actions() -> None:
    with pytest.raises(AttributeError):
        _ = Handle[Greeter](AgentId("welcome", "ada"))._hidden


def test_two_subscriptions_of_one_method_to_the_same_event_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two @on"):

        class Twice(Agent):  # pyright: ignore[reportUnusedClass]
            @on(Prompt, key="any:2")
            @on(Prompt)
            async def prompted(self, prompt: Prompt) -> None: ...


def test_one_method_may_subscribe_to_several_topics() -> None:
    class Clerk(Agent):
        @on(Happened, topic="orders.*")
        @on(Happened, topic="news", key="key:only", own=True)
        @on(Ended, subscribe=False)
        async def note(self, event: Happened | Ended) -> None: ...

    app = App("clerks", [Clerk])
    assert app.subscriptions == [
        Subscription(Happened.event_type, "clerk", "key:only", topic="news", own=True),
        Subscription(Happened.event_type, "clerk", "topic", topic="orders.*"),
    ]
    assert set(Clerk.agent_type.handlers) == {Happened.event_type, Ended.event_type}


def test_the_handler_of_the_nearest_class_takes_an_event() -> None:
    happened = type("Again", (Happened,), {"__module__": __name__})

    class Clerk(Agent):
        @on(Event, subclasses=True)
        async def everything(self, event: Event) -> None: ...
        @on(Happened)
        async def exactly(self, event: Happened) -> None: ...

    def taker(event: Event) -> str | None:
        handler = Clerk.agent_type.handler_of(event)
        return handler and handler.method

    assert [taker(event) for event in (Happened(), happened(), Ended(), Event())] == [
        "exactly",
        "everything",
        "everything",
        "everything",
    ]
    assert Greeter.agent_type.handler_of(happened()) is None


async def a_coroutine(_: Any) -> bool:
    return True


class Awaited:
    async def __call__(self, _: Any) -> bool:
        return True


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"topic": "a b"}, "no type of a topic"),
        ({"topic": "orders/eu"}, "no type of a topic"),
        ({"topic": 3}, "write the type of a topic"),
        ({"key": "topic"}, r"topic='\*'"),
        ({"key": 3}, "give it a function"),
        ({"key": str}, "give it a function"),
        ({"key": f"key:{'x' * 513}"}, "An agent's key"),
        ({"where": True}, "give it a function"),
        ({"where": a_coroutine}, "cannot await"),
        ({"key": Awaited()}, "cannot await"),
    ],
)
def test_what_a_handler_says_must_make_sense(said: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        on(Happened, **said)


def test_a_function_that_cannot_travel_is_told_where_the_app_is_deployed() -> None:
    lock = threading.Lock()

    class Locked(Agent):
        @on(Happened, where=lambda _: lock.locked())
        async def note(self, happened: Happened) -> None: ...

    with pytest.raises(PayloadError, match=r"where of locked\.note"):
        _ = App("locked", [Locked]).subscriptions


def test_two_pools_of_the_same_name_are_refused() -> None:
    class Lonely(Agent):
        pass

    with pytest.raises(ConfigurationError, match="two pools"):
        App("pools", [Lonely], pools=[Pool(name="gpu"), Pool(name="gpu", hosts=1)])


def test_only_the_states_own_annotation_is_read() -> None:
    class Modest(Agent):
        cache: OnlyForTypeCheckers  # noqa: F821 # pyright: ignore[reportUndefinedVariable]
        state: Counts

    assert Modest.agent_type.state_model is Counts

    class Heir(Modest):
        other: AlsoUnknown  # noqa: F821 # pyright: ignore[reportUndefinedVariable]

    assert Heir.agent_type.state_model is Counts


@pytest.mark.parametrize("hides", [staticmethod, classmethod, property])
def test_a_decorator_that_hides_an_action_or_handler_is_refused(hides: Any) -> None:
    async def serve(self: Any) -> None: ...

    def above() -> None:
        type("Hider", (Agent,), {"serve": hides(action(serve))})

    def event() -> None:
        type("Hider", (Agent,), {"serve": hides(on(Happened)(serve))})

    for define in (above, event):
        with pytest.raises(ConfigurationError, match=rf"Hider\.serve is a {hides.__name__}"):
            define()


def test_a_static_method_that_is_marked_itself_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Hider\.serve is a staticmethod"):

        class Hider(Agent):  # pyright: ignore[reportUnusedClass]
            @action
            @staticmethod
            async def serve() -> None: ...


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({}, False),
        ({"validate_by_name": True}, True),
        ({"populate_by_name": True}, True),
        ({"serialize_by_alias": True}, True),
    ],
)
def test_a_state_must_read_what_it_writes_also_with_aliases(config: Any, fits: bool) -> None:
    class Aliased(BaseModel):
        model_config = config
        total: int = Field(default=0, alias="sum")

    def define() -> Any:
        return type("Keeper", (Agent,), {"__annotations__": {"state": Aliased}}).agent_type

    if fits:
        model = define().state_model
        assert model.model_validate_json(model(sum=5).model_dump_json()).total == 5
    else:
        with pytest.raises(ConfigurationError, match=r"Aliased\.total has an alias"):
            define()
