"""Virtual time: the package's own; tests of agents import it from `agentray.testing`."""

from agentray.testing import VirtualTimeLoop, run

__all__ = ["VirtualTimeLoop", "run"]
