"""Agents for recurring jobs, built on the public API only."""

from agentray.patterns.aggregator import AggregatorAgent, Gathered, GatheringStatus
from agentray.patterns.llm import LanguageModel, configured_model, load_model

__all__ = [
    "AggregatorAgent",
    "Gathered",
    "GatheringStatus",
    "LanguageModel",
    "configured_model",
    "load_model",
]
