"""Where meta-gradients are computed: pools of workers."""

from l2o.distributed.pool import LocalPool, Worker, WorkerPool

__all__ = ["LocalPool", "Worker", "WorkerPool"]
