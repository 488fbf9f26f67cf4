"""Timing kernels and networks: the protocol, what to time, and what becomes of it. Imports torch nowhere."""
