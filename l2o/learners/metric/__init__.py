"""Metric-based learners: the fast variables are what examples are compared with."""
