"""The exact final choice under budget and limits."""
