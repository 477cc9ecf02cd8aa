"""Agents for recurring jobs, built on the public API only."""
