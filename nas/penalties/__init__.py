"""Latency in the loss, one form a file."""
