"""A gateway on a real socket, with a dispatcher whose runs end when the test says so."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from fastapi.dependencies import models as dependencies

from agentray.config import Settings
from agentray.core.lifecycle import TERMINAL
from agentray.errors import UnknownAgentType, UnknownRun
from agentray.gateway.app import build_app
from agentray.gateway.cluster_parts import ClusterParts
from agentray.gateway.services import Services
from agentray.ids import AgentId, slot_of
from agentray.protocol.cursors import Cursor
from agentray.protocol.event_runs import root_of
from agentray.protocol.questions import Question
from agentray.protocol.runs import Run, RunError, RunEvent, RunStatus, Span
from agentray.protocol.schedules import ScheduleSpec
from agentray.protocol.snapshot import TypeView
from agentray.protocol.traces import summarise
from agentray.runtime.manager_client import ManagerClient
from agentray.runtime.ports import Place
from agentray.runtime.run_cursor import events_after
from agentray.store.base import (
    Admission,
    Effects,
    HostRow,
    NewRun,
    RunEnd,
    SlotLease,
    StoredRun,
)
from agentray.store.keys import ApiKey
from agentray.store.memory import MemoryStore
from agentray.store.run_progress import Suspension
from tests.support.jobs import FileJobs, PaperCluster

Json = dict[str, Any]

KEY, READ_KEY, INVOKE_KEY, REVOKED_KEY = (
    "secret-admin",
    "secret-read",
    "secret-invoke",
    "secret-old",
)
HOST = "host-1"
OPENAI = ("/v1/models", "/v1/chat/", "/v1/responses")
POOL = "default"


def now() -> datetime:
    return datetime.now(UTC)


class ScriptedDispatcher:
    """Runs `greeter` agents against a store; each run waits until the gate is open.

    A prompt says how its run goes: `fail` fails, `ask` asks, anything else is greeted. `refuses`
    is raised instead of running, `stopped` instead of placing, `away` by whatever asks the host.
    Cancelled runs end when `cleaned` is set, answered ones when `answered` is.
    """

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.gate = asyncio.Event()
        self.gate.set()
        self.answered = asyncio.Event()  # what follows an answer may end
        self.answered.set()
        self.going_on: set[asyncio.Task[None]] = set()
        self.cleaned = asyncio.Event()  # a cancelled handler has cleaned up
        self.cleaned.set()
        self.changed = asyncio.Condition()
        self.started: list[str] = []
        self.joined = 0
        self.stopped: Exception | None = None
        self.refuses: Exception | None = None
        self.away: Exception | None = None

    def place(
        self, agent_type: str | None, key: str | None, fresh_key: str, *, prompted: bool = True
    ) -> Place:
        del prompted
        if self.stopped:
            raise self.stopped
        if agent_type not in {None, "greeter"}:
            raise UnknownAgentType(agent_type or "", ("greeter",))
        agent = AgentId("greeter", key or fresh_key)
        return Place(agent, POOL, slot_of(agent))

    def agent_types(self) -> dict[str, TypeView]:
        return {"greeter": TypeView("greeter", "greetings", POOL, prompts=True)}

    async def newest(self) -> None:
        """Know all there is."""

    def place_scheduled(self, spec: ScheduleSpec, run_id: str) -> Place:
        if spec.event is not None:
            root = root_of(POOL, run_id)
            return Place(root, POOL, slot_of(root))
        name, _, key = (spec.agent or "").partition("/")
        return self.place(name, key or None, run_id)

    async def run(self, run: NewRun, *, held: bool = False) -> Run:
        assert not held  # there are no sessions here
        self.started.append(run.id)
        if self.refuses:
            raise self.refuses
        await self.write(run, RunEvent(offset=0, kind="started", time=now()))
        await self.gate.wait()
        text = run.input["prompt"]
        if text == "ask":
            await self.ask(run)
        elif text == "fail":
            await self.end(run, RunStatus.FAILED, None, RunError(type="ValueError", message="no"))
        else:
            await self.end(run, RunStatus.SUCCEEDED, {"text": f"Hello, {text}!"}, None)
        stored = await self.store.get_run(run.id)
        assert stored is not None
        return stored.run

    async def watch(
        self, agent: AgentId, run_id: str, cursor: Cursor, wait_s: float
    ) -> list[RunEvent]:
        if self.away:
            raise self.away
        assert agent.type == "greeter"
        try:
            async with asyncio.timeout(wait_s), self.changed:
                while not (events := await events_after(self.store, run_id, cursor)):
                    await self.changed.wait()
        except TimeoutError:
            return []
        return events

    async def join(self, agent: AgentId, run_id: str) -> Run:
        self.joined += 1
        if self.away:
            raise self.away
        assert agent.type == "greeter"
        async with self.changed:
            while True:
                stored = await self.store.get_run(run_id)
                if stored is None:
                    raise UnknownRun(run_id)
                if stored.run.status in TERMINAL:
                    return stored.run
                await self.changed.wait()

    async def ask(self, run: NewRun) -> None:
        question = Question(
            id="qst_1",
            question="Really?",
            answer_schema={
                "type": "object",
                "properties": {"approved": {"type": "boolean"}},
                "required": ["approved"],
            },
            agent=str(run.agent),
            asked_at=now(),
        )
        stored = await self.store.get_run(run.id)
        assert stored is not None
        data = {"question": question.model_dump(mode="json")}
        told = RunEvent(offset=stored.events, kind="waiting", time=now(), data=data)
        effects = Effects(run.pool, run.slot, 1, events={run.id: [told]})
        await self.store.suspend_run(HOST, effects, Suspension(run.id, [question], now()))
        async with self.changed:
            self.changed.notify_all()

    def go_on(self, agent: AgentId, run_id: str) -> None:
        assert agent.type == "greeter"
        task = asyncio.create_task(self._go_on(run_id))
        self.going_on.add(task)
        task.add_done_callback(self.going_on.discard)

    async def _go_on(self, run_id: str) -> None:
        await self.answered.wait()
        stored = await self.store.get_run(run_id)
        result = {"answers": [answer.value for answer in stored.answers]} if stored else None
        await self.end(as_new(stored), RunStatus.SUCCEEDED, result, None)

    async def cancel(self, agent: AgentId, run_id: str) -> Run:
        if self.away:
            raise self.away
        assert agent.type == "greeter"
        await self.cleaned.wait()
        stored = await self.store.get_run(run_id)
        assert stored is not None
        if stored.run.status not in TERMINAL:
            why = RunError(type="Cancelled", message="It was cancelled.")
            await self.end(as_new(stored), RunStatus.CANCELLED, None, why)
            stored = await self.store.get_run(run_id)
            assert stored is not None
        return stored.run

    async def write(self, run: NewRun, *events: RunEvent, end: RunEnd | None = None) -> None:
        effects = Effects(run.pool, run.slot, 1, events={run.id: events}, end=end)
        await self.store.commit(HOST, [effects])
        async with self.changed:
            self.changed.notify_all()

    async def end(
        self, run: NewRun, status: RunStatus, result: Any, error: RunError | None
    ) -> None:
        stored = await self.store.get_run(run.id)
        assert stored is not None
        span = Span(
            id="1",
            parent=None,
            event="Prompt",
            agent=str(run.agent),
            host=HOST,
            started_at=now(),
            duration_ms=1.0,
        )
        await self.write(
            run,
            RunEvent(offset=stored.events, kind="text_delta", time=now(), data={"text": "Hello"}),
            RunEvent(offset=stored.events + 1, kind=status.value, time=now()),
            end=RunEnd(run.id, status, result, error, now(), now()),
        )
        ended = await self.store.get_run(run.id)
        assert ended is not None
        await self.store.put_traces([summarise(ended.run, "", [span])])


class Hosts:
    """What `/readyz` hears."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def ready(self) -> Sequence[str]:
        return self.missing


class Gateway:
    """A gateway's parts, as a test wants to turn them."""

    def __init__(
        self,
        store: MemoryStore,
        home: Path,
        *,
        manager: ManagerClient | None = None,
        **settings: Any,
    ) -> None:
        self.store = store
        self.dispatcher = ScriptedDispatcher(store)
        self.hosts = Hosts()
        self.settings = Settings(home=home, **settings)
        self.runner = FileJobs(home)
        self.cluster = PaperCluster()
        parts = ClusterParts(self.runner, self.cluster, "http://127.0.0.1:1")
        self.app = build_app(
            Services(self.settings, store, self.dispatcher, self.hosts, parts, manager=manager)
        )
        self.url = ""

    async def prepare(self) -> None:
        await self.store.put_host(HostRow(HOST, POOL, "actor", "live"))
        await self.store.assign_slots([SlotLease(POOL, slot, HOST, 0) for slot in range(256)])
        for secret, scope in ((KEY, "admin"), (READ_KEY, "read"), (INVOKE_KEY, "invoke")):
            await self.store.put_key(api_key(secret, scope))
        await self.store.put_key(api_key(REVOKED_KEY, "admin", revoked_at=now()))

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Serve on a free port of loopback."""
        # With the protocol named, asyncio sets TCP_NODELAY; else each answer is 40 ms late.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            self.app, ws="websockets-sansio", log_config=None, timeout_graceful_shutdown=1
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        # Not serve(): it looks only every 0.1 s whether it shall go on.
        await server.startup(sockets=[listener])
        try:
            yield
        finally:
            self.dispatcher.gate.set()
            await server.shutdown(sockets=[listener])
            _forget_routes()


def _forget_routes() -> None:
    """Let go of what FastAPI remembers by route.

    It keeps the last thousands, for there is one gateway in a process; here there are hundreds, and
    the garbage collector would walk through all of them again and again.
    """
    for remembered in vars(dependencies).values():
        if hasattr(remembered, "cache_clear"):
            remembered.cache_clear()


def api_key(secret: str, scope: str, revoked_at: datetime | None = None) -> ApiKey:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return ApiKey(f"key_{secret}", digest, secret, frozenset({scope}), now(), revoked_at)


class BreakableStore(MemoryStore):
    """A store that can be made unreachable."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: Exception | None = None
        self.admitted: list[int] = []
        self.key_queries = 0
        self.commit_s = 0.005  # how long a commit takes

    def _check(self) -> None:
        if self.broken:
            raise self.broken

    async def ping(self) -> None:
        self._check()

    async def admit(self, runs: Any) -> list[Admission]:
        self._check()
        self.admitted.append(len(runs))
        await asyncio.sleep(self.commit_s)
        return await super().admit(runs)

    async def get_run(self, run_id: str) -> StoredRun | None:
        self._check()
        return await super().get_run(run_id)

    async def find_key(self, digest: str) -> ApiKey | None:
        self.key_queries += 1
        await asyncio.sleep(0)
        return await super().find_key(digest)


class Http:
    """Talks plain HTTP to a gateway."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def ask(
        self, method: str, path: str, *, key: str | None = KEY, body: Any = None, **headers: str
    ) -> tuple[int, Json, dict[str, str]]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent.setdefault("Authorization", f"Bearer {key}")
        data = json.dumps(body) if isinstance(body, dict) else body
        async with self.session.request(method, self.url + path, data=data, headers=sent) as answer:
            content: Any = {}
            if answer.status != 204:
                content = await answer.json(content_type=None)
            if answer.status >= 400 and path.startswith(OPENAI):
                assert content["error"].keys() == {"message", "type", "param", "code"}
            elif answer.status >= 400:
                assert answer.content_type == "application/problem+json"
                assert content["status"] == answer.status
                assert {"type", "title", "detail"} <= content.keys()
            return answer.status, content, {k.lower(): v for k, v in answer.headers.items()}

    async def get(self, path: str, **more: Any) -> tuple[int, Json]:
        status, content, _ = await self.ask("GET", path, **more)
        return status, content

    async def prompt(self, text: Any = "Ada", **more: Any) -> tuple[int, Json, dict[str, str]]:
        headers = {k: more.pop(k) for k in list(more) if k == "key" or k[0].isupper()}
        return await self.ask("POST", "/v1/prompts", body={"prompt": text, **more}, **headers)

    async def events(
        self, path: str, method: str = "GET", **more: Any
    ) -> list[tuple[str, str, Json]]:
        """Read a stream to its end: (id, event, data) of each."""
        found: list[tuple[str, str, Json]] = []
        headers = {"Authorization": f"Bearer {KEY}", **more.pop("headers", {})}
        async with self.session.request(method, self.url + path, headers=headers, **more) as answer:
            assert (answer.status, answer.content_type) == (200, "text/event-stream")
            for block in (await answer.text()).split("\n\n"):
                lines = [line for line in block.split("\n") if line and not line.startswith(":")]
                if lines:
                    fields = dict(line.split(": ", 1) for line in lines)
                    found.append((fields["id"], fields["event"], json.loads(fields["data"])))
        return found


def as_new(stored: StoredRun | None) -> NewRun:
    """Return what an admitted run was admitted as."""
    assert stored is not None
    run = stored.run
    return NewRun(
        run.id, AgentId.parse(run.agent), stored.pool, stored.slot, stored.input,
        run.correlation_id, run.created_at,
    )  # fmt: skip
