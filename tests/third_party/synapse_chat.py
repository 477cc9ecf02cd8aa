"""Ask one thing by unmodified synapseclient: `synapse_chat.py URL KEY AGENT TEXT`."""

import json
import logging
import sys

from synapseclient import Synapse
from synapseclient.models import Agent

url, key, agent_type, text = sys.argv[1:]
logging.disable(logging.CRITICAL)

syn = Synapse(skip_checks=True, silent=True)
syn.setEndpoints(
    repoEndpoint=f"{url}/repo/v1",
    authEndpoint=url,
    fileHandleEndpoint=url,
    portalEndpoint=url,
    skip_checks=True,
)
syn.login(authToken=key, silent=True)
agent = Agent(cloud_agent_id=agent_type).register(synapse_client=syn)
agent.prompt(prompt=text, enable_trace=True, synapse_client=syn)
asked = agent.get_chat_history()[0]
print(json.dumps({"response": asked.response, "trace": asked.trace}))
