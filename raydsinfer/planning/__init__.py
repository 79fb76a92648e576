"""What a model would take on a cluster, before weights move: facts in, verdicts out.

`model`, `look`, `gather` and `holders` find facts; the rest decides, and is pure.
"""
