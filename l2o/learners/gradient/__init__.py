"""Optimization-based learners: the fast variables are weights, or a part of them."""
