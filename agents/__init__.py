"""Runnable self-improvement experiments, on l2o.agents."""
