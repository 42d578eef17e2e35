"""Neural processes: the fast variables are what a context says of a function, and predictions are distributions."""
