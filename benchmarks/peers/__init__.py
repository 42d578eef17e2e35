"""Other systems, each timed in a process and an environment of its own; see `client.py`."""
