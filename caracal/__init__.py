"""Decides what an AI agent may do, proves what it did, and ends its authority at once."""

__version__ = "0.1.0"
