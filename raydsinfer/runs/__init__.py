"""Answers that are kept row by row in a directory, so that a job that was broken off goes on from there."""
