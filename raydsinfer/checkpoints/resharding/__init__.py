"""Weights written in another form."""
