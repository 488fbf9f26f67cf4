"""Defaults of the commands, one YAML each, and option groups. Read by hydra at the door only."""
