"""Faults that strike what l2o keeps on disk."""
