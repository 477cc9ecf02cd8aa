"""agentray: agents on Ray clusters."""
