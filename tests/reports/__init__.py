"""Inputs of the kinds that strangers brought elsewhere: one small one per kind, and the right answer."""
