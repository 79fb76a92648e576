"""The gate: what a gang writes is compared with plain transformers before its first row."""
