"""Continuous batching: sequences join and leave a running batch at every step."""
