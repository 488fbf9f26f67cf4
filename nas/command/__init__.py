"""The door of the hydra commands and what they print."""
