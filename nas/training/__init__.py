"""Training of one network: its loop, its recipes, and what the loop shares with supernets (mixing, averages)."""
