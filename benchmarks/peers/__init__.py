"""agentray beside AutoGen, Academy and mojentic, on the same work: `make bench-peers`.

Each system has a module in `systems`, which the same code (`driving`) measures, in a process of its
own and, the peers, in an environment of their own. `rounds` runs them in turn.
"""
