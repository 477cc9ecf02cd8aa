"""The systems that are measured: `python -m benchmarks.peers.systems.NAME` runs one of them.

These modules import the peers, so they run in the environment of the peers only; agentray's runs
in agentray's own.
"""
