"""Decisions, pure: no Ray, no I/O, no clock. A step takes facts and returns what to do."""
