"""From requests to answers: several batches at once through one gang."""
