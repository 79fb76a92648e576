"""Weights on disk, in every form: which tensor is where, and its values."""
