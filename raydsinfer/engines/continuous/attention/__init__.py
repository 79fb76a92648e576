"""Attention over the paged KV cache: decode rows one way, prefill chunks another."""
