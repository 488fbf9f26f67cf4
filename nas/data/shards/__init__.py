"""Sharded archives of images: where their members are, and how their bytes come to this machine. No torch here."""
