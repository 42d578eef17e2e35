"""Learners that adapt by what stands before the question: no weight changes."""
