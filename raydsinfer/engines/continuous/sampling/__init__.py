"""Choosing the next tokens on the device, row by row, as transformers' `generate` would.

`settings` says what a row's generation settings mean here, `slots` keeps them on the device, `logits` and
`candidates` are the steps as functions of tensors, `streams` draws the random numbers, `sampler` puts them
together, and `stops` decides on the host where a sequence ends.
"""
