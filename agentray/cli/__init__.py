"""The `agentray` command."""
