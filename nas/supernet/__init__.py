"""Supernet and gates."""
