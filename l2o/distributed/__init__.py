"""Where meta-gradients are computed: pools of workers."""

from l2o.distributed.pool import Estimate, LocalPool, Worker, WorkerPool

__all__ = ["Estimate", "LocalPool", "Worker", "WorkerPool"]
