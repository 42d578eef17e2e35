"""Second forwards of the learned rules: the same numbers in fewer passes over memory, and what builds them."""
