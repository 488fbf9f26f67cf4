"""The search: supernet, gates, exact choice, training, and the commands `python -m nas.NAME`."""
