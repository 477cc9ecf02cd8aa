"""Chat with an agent by unmodified synapseclient: `synapse_agent.py URL KEY AGENT`."""

import asyncio
import json
import logging
import sys

from synapseclient import Synapse
from synapseclient.core.exceptions import SynapseError, SynapseHTTPError
from synapseclient.models import Agent, AgentPrompt, AgentSession
from synapseclient.models.agent import AgentSessionAccessLevel

url, key, agent_type = sys.argv[1:]
logging.disable(logging.CRITICAL)


def connect() -> Synapse:
    syn = Synapse(skip_checks=True, silent=True)
    syn.setEndpoints(
        repoEndpoint=f"{url}/repo/v1",
        authEndpoint=f"{url}/auth/v1",
        fileHandleEndpoint=f"{url}/file/v1",
        portalEndpoint=url,
        skip_checks=True,
    )
    syn.login(authToken=key, silent=True)
    return syn


def blocking(syn: Synapse) -> dict:
    agent = Agent(cloud_agent_id=agent_type, cloud_alias_id="prod").register(synapse_client=syn)
    again = Agent(registration_id=agent.registration_id).get(synapse_client=syn)
    session = agent.start_session(
        access_level=AgentSessionAccessLevel.READ_YOUR_PRIVATE_DATA, synapse_client=syn
    )
    for text in ("one", "two"):
        agent.prompt(prompt=text, enable_trace=True, synapse_client=syn)
    history = agent.get_chat_history()
    session.access_level = AgentSessionAccessLevel.WRITE_YOUR_PRIVATE_DATA
    session.update(synapse_client=syn)
    found = AgentSession(id=session.id).get(synapse_client=syn)
    newest = history[-1]
    later = AgentPrompt(id=newest.id, session_id=session.id, prompt="", enable_trace=True)
    asyncio.run(later._post_exchange_async(newer_than=9_999_999_999_999, synapse_client=syn))
    return {
        "registration": [agent.registration_id, again.cloud_agent_id, again.cloud_alias_id],
        "type": agent.type.value,
        "registered_on": agent.registered_on,
        "session": [session.id, found.id, found.agent_registration_id],
        "levels": ["READ_YOUR_PRIVATE_DATA", found.access_level],
        "answers": [prompt.response for prompt in history],
        "ids": [prompt.id for prompt in history],
        "traces": [prompt.trace for prompt in history],
        "later": later.trace,
    }


async def asynchronous(syn: Synapse) -> dict:
    agent = Agent()  # the entry of the app
    session = await AgentSession().start_async(synapse_client=syn)
    await session.prompt_async(prompt="Ada", synapse_client=syn)
    await agent.prompt_async(prompt="Eve", synapse_client=syn)
    try:
        await session.prompt_async(prompt="fail", synapse_client=syn)
        failed = "not at all"
    except SynapseError as error:
        failed = str(error)
    try:
        await AgentSession(id="nothing").get_async(synapse_client=syn)
        unknown = "found"
    except SynapseHTTPError as error:
        unknown = str(error)
    try:
        await Agent(cloud_agent_id="greter").register_async(synapse_client=syn)
        unregistered = "found"
    except SynapseHTTPError as error:
        unregistered = str(error)
    return {
        "entry": [session.chat_history[0].response, agent.get_chat_history()[0].response],
        "failed": failed,
        "unknown": unknown,
        "unregistered": unregistered,
    }


client = connect()
print(json.dumps({"blocking": blocking(client), "async": asyncio.run(asynchronous(client))}))
