"""Agents to read, run and start from."""
