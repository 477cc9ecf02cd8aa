"""Agents for recurring jobs, and helpers, built on the public API only."""

from agentray.patterns.aggregator import AggregatorAgent
from agentray.patterns.branches import BranchFailed, reports_failure
from agentray.patterns.chat import ChatAgent, Conversation
from agentray.patterns.collector import CollectorAgent
from agentray.patterns.debounce import DebounceAgent, Debouncer
from agentray.patterns.fan_out import gather
from agentray.patterns.functions import agent_of, sink_of
from agentray.patterns.gathering import Gathered, GatheringStatus
from agentray.patterns.group import Group, GroupAgent, Member
from agentray.patterns.llm import LanguageModel, configured_model, load_model
from agentray.patterns.memory import Change, DurableMemory, Entry, WorkingMemory
from agentray.patterns.memory_client import Memory
from agentray.patterns.pipeline import Pipeline
from agentray.patterns.solver import (
    Goal,
    GoalEnded,
    ProblemSolver,
    Solution,
    SolutionStatus,
    Step,
    StepStatus,
    TextStep,
    asking,
    solve,
)
from agentray.patterns.waiting import wait_for_events

__all__ = [
    "AggregatorAgent",
    "BranchFailed",
    "Change",
    "ChatAgent",
    "CollectorAgent",
    "Conversation",
    "DebounceAgent",
    "Debouncer",
    "DurableMemory",
    "Entry",
    "Gathered",
    "GatheringStatus",
    "Goal",
    "GoalEnded",
    "Group",
    "GroupAgent",
    "LanguageModel",
    "Member",
    "Memory",
    "Pipeline",
    "ProblemSolver",
    "Solution",
    "SolutionStatus",
    "Step",
    "StepStatus",
    "TextStep",
    "WorkingMemory",
    "agent_of",
    "asking",
    "configured_model",
    "gather",
    "load_model",
    "reports_failure",
    "sink_of",
    "solve",
    "wait_for_events",
]
