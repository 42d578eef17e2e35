"""Learners that write what they see into a memory."""
