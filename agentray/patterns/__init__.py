"""Agents for recurring jobs, built on the public API only."""

from agentray.patterns.aggregator import AggregatorAgent
from agentray.patterns.branches import BranchFailed, reports_failure
from agentray.patterns.gathering import Gathered, GatheringStatus
from agentray.patterns.llm import LanguageModel, configured_model, load_model
from agentray.patterns.memory import Change, DurableMemory, Entry, WorkingMemory
from agentray.patterns.memory_client import Memory
from agentray.patterns.waiting import wait_for_events

__all__ = [
    "AggregatorAgent",
    "BranchFailed",
    "Change",
    "DurableMemory",
    "Entry",
    "Gathered",
    "GatheringStatus",
    "LanguageModel",
    "Memory",
    "WorkingMemory",
    "configured_model",
    "load_model",
    "reports_failure",
    "wait_for_events",
]
