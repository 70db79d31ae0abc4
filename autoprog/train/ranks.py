"""The processes of one run: which of them decides and writes, and the little they exchange.

torchrun starts them; NCCL carries gradients between GPUs, gloo everything else. Outside torchrun there is
one process, and all of this does nothing.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from autoprog.bounds import Index, Port, WorldSize
from autoprog.environment import VariableError, number_in, optional_number_in
from autoprog.errors import RunError
from supernet.elastic import ElasticViT

__all__ = ["ONE_PROCESS", "Ranks", "is_lost_rank", "joined_ranks", "was_restarted"]

_PATIENCE = timedelta(minutes=30)
"""How long ranks wait for each other: rank 0 decides and estimates alone meanwhile."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of its run.

    What exchanges or compares something is collective: every rank must call it, in the same order.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Return whether this process decides and writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Return whether there is no other process."""
        return self.world_size == 1

    def broadcast(self, text: str) -> str:
        """Return rank 0's text; that of the others is ignored."""
        if self.alone:
            return text
        data = bytearray(text.encode())
        size = torch.tensor([len(data)])  # the others do not know how much to expect
        dist.broadcast(size, 0)
        buffer = torch.zeros(int(size) + 1, dtype=torch.uint8)  # one more, as it may not be empty
        if self.is_main and data:
            buffer[:-1] = torch.frombuffer(data, dtype=torch.uint8)
        dist.broadcast(buffer, 0)
        return bytes(buffer[:-1].tolist()).decode()

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over ranks of a tensor on the CPU."""
        if self.alone:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def average(self, statistics: list[Tensor]) -> None:
        """Give float32 tensors on the device their mean over ranks; nothing waits for the device."""
        if self.alone or not statistics:
            return
        # One reduction for all of them: each has a latency of its own.
        means = torch.cat([tensor.flatten() for tensor in statistics])
        dist.all_reduce(means)
        means /= self.world_size
        parts = means.split([tensor.numel() for tensor in statistics])
        for tensor, part in zip(statistics, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def most(self, value: int) -> int:
        """Return the greatest value of all ranks."""
        if self.alone:
            return value
        most = torch.tensor([value])
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most)

    def check_equal(self, fingerprint: Tensor, what: str) -> None:
        """Compare int64 fingerprints on the CPU.

        Raises:
            RunError: On all ranks, if those of two ranks differ.
        """
        if self.alone:
            return
        low, high = fingerprint.clone(), fingerprint.clone()
        dist.all_reduce(low, dist.ReduceOp.MIN)
        dist.all_reduce(high, dist.ReduceOp.MAX)
        if not torch.equal(low, high):
            raise RunError(f"the {self.world_size} processes of this run differ in {what}")

    def wrap(self, model: ElasticViT, *, some_idle: bool) -> nn.Module:
        """Return what a training step runs: `model`, its gradients averaged over ranks.

        The reducer waits for all parameters that need a gradient; with `some_idle` not every step gives
        one to all of them. An earlier wrapper must have been dropped. Running statistics are left to
        :meth:`average`.
        """
        if self.alone:
            return model
        with warnings.catch_warnings():  # torch 2.15 renames the last argument, older ones need it
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                model, find_unused_parameters=some_idle, broadcast_buffers=False
            )

    def without_averaging(self, network: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """Return the context of a micro-batch: only the last one of a step averages gradients."""
        if isinstance(network, DistributedDataParallel) and not is_last:
            return network.no_sync()
        return nullcontext()


ONE_PROCESS = Ranks()


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the other processes that torchrun started, if it did."""
    world_size = optional_number_in("WORLD_SIZE", WorldSize, 1)
    if world_size == 1:
        yield ONE_PROCESS
        return
    ranks = Ranks(
        rank=_number_below(world_size, "RANK"),
        world_size=world_size,
        local_rank=_number_below(local := number_in("LOCAL_WORLD_SIZE", WorldSize), "LOCAL_RANK"),
        local_world_size=local,
    )
    _join_group()
    try:
        yield ranks
        ranks.most(0)  # nobody leaves before rank 0 has written the result
    finally:
        gc.collect()  # what averages gradients must be gone before the group is
        dist.destroy_process_group()


def _number_below(limit: int, variable: str) -> int:
    """Return the number of this process that a variable holds, of so many."""
    number = number_in(variable, Index)
    if number >= limit:
        raise VariableError(variable, "", f"must be below the number of processes, {limit}", number)
    return number


def _join_group() -> None:
    """Join the process group of this attempt.

    torchrun's store outlives a restart (torch 2.14), and with it the addresses of the processes that died: a
    rank that reads one before its successor has written its own fails with "connection refused". So each
    attempt has keys of its own.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    address, port = os.environ.get("MASTER_ADDR", ""), number_in("MASTER_PORT", Port)
    if not address:
        problem, hint = (
            "must name the machine of rank 0",
            "start with torchrun, or unset WORLD_SIZE",
        )
        raise VariableError("MASTER_ADDR", "", problem, hint=hint)
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=_PATIENCE))
    except dist.DistError as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"processes cannot meet at {address}:{port}: {reason}") from None
    attempt = optional_number_in("TORCHELASTIC_RESTART_COUNT", Index, 0)
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(f"attempt-{attempt}", store),
        rank=rank,
        world_size=world_size,
        timeout=_PATIENCE,
    )


def was_restarted() -> bool:
    """Return whether torchrun started this job anew after one of its processes had died."""
    return optional_number_in("TORCHELASTIC_RESTART_COUNT", Index, 0) > 0


def is_lost_rank(error: RuntimeError) -> bool:
    """Return whether torch reports that another process of the job is gone."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
