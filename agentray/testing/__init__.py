"""Testing agents without Ray, in milliseconds: the whole runtime in one process, and its clock.

::

    def test_greeting():
        async def scenario():
            async with LocalRuntime() as manager:
                await manager.deploy(App("greetings", [Greeter]))
                assert await manager.handle(Greeter, "ada").greet() == "Hello ada"

        agentray.testing.run(scenario())
"""

from agentray.testing.clock import ManualClock, VirtualTimeLoop, run
from agentray.testing.local_runtime import LocalRuntime
from agentray.testing.metrics import RecordedMetrics

__all__ = ["LocalRuntime", "ManualClock", "RecordedMetrics", "VirtualTimeLoop", "run"]
