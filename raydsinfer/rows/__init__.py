"""One row in, one row out: what it asks for, which engine call it goes into, and its answer."""
