"""What is on this machine. No probe judges; each may fail alone."""
