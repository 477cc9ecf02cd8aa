"""Print what is installed of the clients that the tests use, as they import it."""

import json
from importlib.metadata import version

import synapse_sdk.clients.agent as sdk
import synapseclient.models as sage

print(
    json.dumps(
        {
            "synapse-sdk": version("synapse-sdk"),
            "synapseclient": version("synapseclient"),
            "classes": [
                sdk.AgentClient.__name__,
                sdk.AsyncAgentClient.__name__,
                sage.AgentSession.__name__,
            ],
        }
    )
)
