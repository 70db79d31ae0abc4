"""Worker processes: how many, what they do, and how it is noticed that one has died.

Not torch's DataLoader: there all workers write into one queue, and one that is killed while it writes
leaves its lock taken and half a batch in it, on which the main process may wait forever; a death raises
an exception in a signal handler, at any line of the main process, also amid an optimizer step; and
batches lie in ``/dev/shm``, which containers make small. Here each worker has a connection of its own,
which ends with it, and batches lie in anonymous memory.
"""

from __future__ import annotations

import io
import mmap
import os
import queue
import random
import signal
import sys
import tempfile
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import connection, get_context, reduction, util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import IO, Any, Generic, Literal, NamedTuple, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import _utils

from autoprog.environment import usable_cores
from autoprog.errors import AutoprogError, ResumableError, RunError
from autoprog.libwarnings import LibraryWarning, passed_on
from autoprog.printable import printable

__all__ = ["Results", "WorkerDiedError", "WorkerPool", "resolve_workers"]


Task = TypeVar("Task")
T = TypeVar("T")

_MAX_WORKERS = 8
_TASKS_AHEAD = 2  # of each worker, as in torch
_POLL_SECONDS = 0.1
_END_SECONDS = 2.0  # from being asked to end to being killed
_ALIGNED_BYTES = 64  # as torch aligns what it allocates
_MIN_SHARED_BYTES = 2**16  # smaller results go through the connection itself
_LONGEST_MESSAGE = 300
_MAX_MESSAGES = 20  # of a batch
_MAX_PRINTED_BYTES = 2**16
_LONG_WAIT_SECONDS = 60.0
_LONG_WAIT = (
    f"no images for {_LONG_WAIT_SECONDS:.0f} s, though the loader workers live; is the disk slow, or does a"
    " file system not answer?"
)


def resolve_workers(
    workers: int | Literal["auto"],
    source: object,
    local_world_size: int = 1,
    has_accelerator: bool = False,
) -> int:
    """Return the number of loader workers of each process.

    ``auto`` means none for images held in memory, which cost about as much to augment as to pass
    between processes, unless an accelerator would wait for them meanwhile; and else one for each
    core this process may use, up to 8. All cores, even when there are two: with an accelerator the
    main process mostly waits for it, so a core kept free would starve it; without one the operating
    system shares the cores, and what the workers do would otherwise be done by the main process,
    in turn with the training.

    Args:
        workers: The setting.
        source: The training images.
        local_world_size: Training processes on this machine, which share its cores.
        has_accelerator: Whether this process leaves the training to a device.
    """
    if workers != "auto":
        return workers
    if getattr(source, "in_memory", False) and not has_accelerator:
        return 0
    return max(1, min(usable_cores() // local_world_size, _MAX_WORKERS))


class WorkerDiedError(ResumableError):
    """A worker that is not there any more, or has no memory to work with."""


class WorkerPool(Generic[Task, T]):
    """Worker processes that carry out tasks in turn; without any, this process carries them out.

    They start with the first tasks and live until :meth:`close`, and end by themselves when this
    process does, however it ends. What they print and warn of is passed on as warnings here.

    Args:
        run: Carries out a task. Each worker has a copy of it; results are tuples, of which the
            tensors are passed on without being pickled.
        count: Number of workers.
        pin_memory: Put tensors into page-locked memory, for CUDA; beside the workers in a thread.
        seed: What ``torch.utils.data.get_worker_info`` returns has it, by which the readers of streams
            shuffle and divide.
    """

    def __init__(
        self,
        run: Callable[[Task], T],
        count: int,
        pin_memory: bool = False,
        seed: int = 0,
    ) -> None:
        self._run, self._count, self._pin_memory, self._seed = run, count, pin_memory, seed
        self._workers: list[_Worker] = []
        self._end: util.Finalize | None = None
        self._call, self._next_worker, self._is_closed = 0, 0, False
        self._pending: deque[_Pending] = deque()
        self._pinner: _Pinner | None = None

    def results(self, tasks: Iterator[Task]) -> Results[T]:
        """Return the results of tasks, in their order; with workers they begin at once.

        What is left of an earlier call is dropped, and its iterator must not be used any more.
        """
        assert not self._is_closed, "closed"
        self._call += 1
        if self._count and not self._workers:
            self._start()
        found: Results[T] = Results(self, tasks, self._call)
        for _ in range(_TASKS_AHEAD * self._count):
            self.submit(tasks)
        return found

    def close(self) -> None:
        """End the workers, whatever they do."""
        self._is_closed = True
        self._call += 1
        self._pending.clear()
        if self._pinner is not None:
            self._pinner.close()
        if self._end is not None:
            self._end()
        self._workers, self._end, self._pinner = [], None, None

    def carry_out(self, task: Task) -> T:
        """Carry out a task in this process."""
        result = self._run(task)
        return _pinned(result) if self._pin_memory else result

    @property
    def is_here(self) -> bool:
        """Return whether this process carries out the tasks itself."""
        return self._count == 0

    def submit(self, tasks: Iterator[Task]) -> None:
        """Give the next task, if there is one, to the worker whose turn it is."""
        for task in tasks:
            number = self._next_worker
            self._next_worker = (number + 1) % self._count
            with suppress(OSError):  # it is dead, which is noticed when its result is due
                self._workers[number].connection.send(task)
            self._pending.append(_Pending(self._call, number))
            if self._pinner is not None:
                self._pinner.expect(self._workers[number])
            return

    def has_pending(self, call: int) -> bool:
        """Return whether results of a call are still to come."""
        assert call == self._call, "these results were given up for a later call"
        return bool(self._pending) and self._pending[-1].call == call

    def receive(self, call: int) -> T:
        """Return the next result of a call, however long it takes; warn of a long wait.

        Raises:
            WorkerDiedError: A worker is dead.
            RunError: As the task raised it.
        """
        while True:
            due = self._pending[0]
            if self._pinner is not None:
                message = self._pinner.take(_LONG_WAIT_SECONDS)
            else:
                message = _receive(self._workers[due.worker], self._workers, _LONG_WAIT_SECONDS)
            if message is None:
                warnings.warn(LibraryWarning(_LONG_WAIT), stacklevel=2)
                continue
            self._pending.popleft()
            if due.call == call:
                if self._pinner is None:
                    message.unpack(pin_memory=False)
                return message.result()

    def _start(self) -> None:
        context, workers = get_context(), self._workers
        # At exit before multiprocessing ends its processes, for which it waits without limit.
        self._end = util.Finalize(self, _end_workers, (workers,), exitpriority=20)
        is_forked = context.get_start_method() == "fork"
        try:
            for number in range(self._count):
                ours, theirs = context.Pipe()
                # Where a worker writes what would else be lost: the last words of native code that crashes.
                printed = tempfile.TemporaryFile() if is_forked else None  # noqa: SIM115
                info = _Info(number, self._count, self._seed)
                process = context.Process(
                    target=_work,
                    args=(theirs, self._run, info, printed),
                    daemon=True,
                    name="loader worker",
                )
                # From here on the connection is known to all that is forked, which must not keep it open.
                _connections.add(ours)
                with _signals_held_back():  # a new worker does not ignore them yet
                    process.start()
                theirs.close()
                workers.append(_Worker(process, ours, printed))
        except OSError as error:
            text = f"a loader worker cannot be started ({error}); lower --workers"
            raise WorkerDiedError(text) from error
        if self._pin_memory:
            self._pinner = _Pinner(list(self._workers))


class Results(Iterator[T]):
    """The results of tasks, in their order; see :meth:`WorkerPool.results`."""

    def __init__(self, pool: WorkerPool[Any, T], tasks: Iterator[Any], call: int) -> None:
        self._pool, self._tasks, self._call = pool, tasks, call

    def __next__(self) -> T:
        if self._pool.is_here:
            return self._pool.carry_out(next(self._tasks))
        if not self._pool.has_pending(self._call):
            raise StopIteration
        found = self._pool.receive(self._call)
        self._pool.submit(self._tasks)
        return found


class _Pending(NamedTuple):
    call: int
    worker: int


class _Info(NamedTuple):
    """What a worker knows of itself."""

    number: int
    num_workers: int
    seed: int


@dataclass(frozen=True)
class _Worker:
    """A worker as the main process knows it. ``printed`` is what its standard error goes to."""

    process: BaseProcess
    connection: Connection
    printed: IO[bytes] | None

    def death(self) -> WorkerDiedError:
        """Return the error that says how it ended."""
        self.process.join(_END_SECONDS)
        code = self.process.exitcode
        if code is None:  # it has closed its connection and not ended
            how = "it closed its connection"
        elif code < 0:
            how = f"killed by signal {-code}{_LIKELY.get(-code, '')}"
        else:
            how = f"exit code {code}"
        text = "" if self.printed is None else _printed_text(self.printed).strip()
        said = f": {text.splitlines()[-1][:_LONGEST_MESSAGE]}" if text else ""
        hint = "lower --workers" if code in (-9, -7, None) else "--workers 0 shows where"
        error = WorkerDiedError(f"a loader worker died ({how}){said}; {hint}")
        error.__cause__ = RuntimeError(text) if text else None  # for --debug
        return error


_LIKELY = {9: ": out of memory?", 7: ": out of memory?", 11: ": a crash in native code"}


@dataclass(frozen=True)
class _Message:
    """What a worker sends for a task: the pickled result or a complaint, and warnings."""

    kind: Literal["done", "failed", "no memory"]
    head: bytes = b""
    sizes: tuple[int, ...] = ()
    is_shared: bool = False
    text: str = ""
    warned: tuple[str, ...] = ()
    body: list[memoryview] = field(default_factory=list)
    unpacked: list[Any] = field(default_factory=list)

    def unpack(self, pin_memory: bool) -> None:
        """Make the result, where there is one, of its parts."""
        if self.kind == "done":
            parts = reduction.ForkingPickler.loads(self.head, buffers=self.body)
            result = tuple(
                torch.from_numpy(part.values) if isinstance(part, _Array) else part
                for part in parts
            )
            self.unpacked.append(_pinned(result) if pin_memory else result)

    def result(self) -> Any:
        """Return the unpacked result, or raise what there is instead."""
        for text in self.warned:
            warnings.warn(text, LibraryWarning, stacklevel=2)
        if self.kind == "failed":
            raise RunError(self.text)
        if self.kind == "no memory":
            hint = "lower --workers, --batch-size or what else needs memory"
            raise WorkerDiedError(f"a loader worker has no memory left ({self.text}); {hint}")
        return self.unpacked[0]


# --------------------------------------------------------------------------------------------------
# In the main process.


# The main process's ends: a forked process has them too, and must let go of them.
_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


_STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let the signals that stop a job wait, here and in processes that start meanwhile."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _receive(worker: _Worker, workers: Sequence[_Worker], seconds: float) -> _Message | None:
    """Return a worker's next message; None if it is not there within so many seconds."""
    ends = {other.process.sentinel: other for other in workers}
    ready = connection.wait([worker.connection, *ends], seconds)
    if dead := [ends[end] for end in ready if isinstance(end, int)]:
        raise dead[0].death()
    if not ready:
        return None
    try:
        message: _Message = worker.connection.recv()
        if not message.is_shared:
            parts = (worker.connection.recv_bytes() for _ in message.sizes)
            return replace(message, body=[memoryview(bytearray(part)) for part in parts])
        file = reduction.recv_handle(worker.connection)
        try:
            whole = memoryview(mmap.mmap(file, _end_of(message.sizes)))
        finally:
            os.close(file)
        spans = zip(_starts_of(message.sizes), message.sizes, strict=True)
        return replace(message, body=[whole[start : start + size] for start, size in spans])
    except EOFError:
        death = worker.death()
        raise death from death.__cause__
    except (OSError, MemoryError, RuntimeError) as error:
        worker.process.join(_POLL_SECONDS)
        if worker.process.exitcode is not None:  # amid a message
            death = worker.death()
            raise death from death.__cause__
        # RuntimeError: what multiprocessing raises where there is no room for one more open file.
        many = isinstance(error, RuntimeError) or "Too many open files" in str(error)
        hint = "raise the limit of open files (ulimit -n)" if many else "lower --workers"
        raise WorkerDiedError(
            f"a batch cannot be taken from its worker ({error}); {hint}"
        ) from error


def _starts_of(sizes: Sequence[int]) -> list[int]:
    starts, end = [], 0
    for size in sizes:
        starts.append(end)
        end += -(-size // _ALIGNED_BYTES) * _ALIGNED_BYTES
    return starts


def _end_of(sizes: Sequence[int]) -> int:
    return _starts_of([*sizes, 0])[-1]


def _end_workers(workers: Sequence[_Worker]) -> None:
    """Let workers end, kill those that do not, and wait for none without limit."""
    for worker in workers:
        worker.connection.close()
    for worker in workers:
        worker.process.join(_END_SECONDS if worker is workers[0] else 0.1)
        if worker.process.is_alive():
            worker.process.kill()
    for worker in workers:
        worker.process.join(_END_SECONDS)
        if worker.printed is not None:
            worker.printed.close()


class _Pinner:
    """A thread that takes results from their workers and puts them into page-locked memory."""

    def __init__(self, workers: Sequence[_Worker]) -> None:
        self._workers = workers
        self._due: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[_Message | RunError] = queue.SimpleQueue()
        self._is_closed = False
        device = torch.cuda.current_device()
        self._thread = threading.Thread(target=self._work, args=(device,), daemon=True)
        self._thread.start()

    def expect(self, worker: _Worker) -> None:
        """Take in the next result of a worker, after those that were expected before."""
        self._due.put(worker)

    def take(self, seconds: float) -> _Message | None:
        """Return the next message; None if it is not there within so many seconds."""
        try:
            found = self._done.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(found, RunError):
            raise found
        return found

    def close(self) -> None:
        """End the thread, unless it waits for the rest of a result, which ends with the worker."""
        self._is_closed = True
        self._thread.join(_END_SECONDS)

    def _work(self, device: int) -> None:
        torch.cuda.set_device(device)
        torch.set_num_threads(1)
        while not self._is_closed:
            try:
                worker = self._due.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            message = None
            while message is None and not self._is_closed:
                try:
                    message = _receive(worker, self._workers, _POLL_SECONDS)
                except RunError as error:
                    self._done.put(error)
                    self._is_closed = True
            if message is not None:
                message.unpack(pin_memory=True)
                self._done.put(message)


# --------------------------------------------------------------------------------------------------
# In a worker.


def _work(connected: Connection, run: Any, info: _Info, printed: IO[bytes] | None) -> None:
    """Carry out tasks until the main process is gone or closes the connection.

    The main process alone answers to signals, which often reach the whole group: it still takes a
    checkpoint, for which the death of a worker would come too early.
    """
    for other in list(_connections):
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    if printed is not None:
        os.dup2(printed.fileno(), 2)
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)  # as many workers as cores
    # The generators, and what a reader of streams asks torch for, as torch's own workers set them.
    seed = info.seed + info.number
    random.seed(seed)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    _utils.worker._worker_info = _utils.worker.WorkerInfo(
        id=info.number, num_workers=info.num_workers, seed=seed, dataset=run
    )
    warned: list[str] = []
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def take_tasks() -> NoReturn:
        """Take in tasks as they come, so that the main process never waits to give one; end with it."""
        while True:
            try:
                tasks.put(connected.recv())
            except (EOFError, OSError):
                os._exit(0)

    threading.Thread(target=take_tasks, daemon=True).start()
    with passed_on(warned.append):
        while True:
            message, body = _outcome(run, tasks.get())
            lines = list(warned)
            warned.clear()
            if printed is not None and os.fstat(printed.fileno()).st_size:
                found = [line for line in _printed_text(printed).splitlines() if line.strip()]
                lines += [line[:_LONGEST_MESSAGE] for line in found[-_MAX_MESSAGES:]]
                os.ftruncate(printed.fileno(), 0)
                os.lseek(printed.fileno(), 0, os.SEEK_SET)
            _send(connected, replace(message, warned=tuple(lines)), body)


def _outcome(run: Callable[[Any], Any], task: Any) -> tuple[_Message, list[memoryview]]:
    """Return the message for a task, and its tensors; what is no failure of the data ends the worker."""
    try:
        parts = run(task)
        result = tuple(_Array(part.numpy()) if isinstance(part, Tensor) else part for part in parts)
        head, buffers = io.BytesIO(), list[Any]()
        reduction.ForkingPickler(head, 5, True, buffers.append).dump(result)
    except AutoprogError as error:
        return _Message("failed", text=str(error)), []
    except (MemoryError, RuntimeError) as error:
        text = (str(error).splitlines() or [""])[0][:_LONGEST_MESSAGE]
        if isinstance(error, RuntimeError) and "allocate" not in text:
            raise
        return _Message("no memory", text=text or "MemoryError"), []
    body = [buffer.raw() for buffer in buffers]
    return _Message("done", head.getvalue(), tuple(part.nbytes for part in body)), body


def _send(connected: Connection, message: _Message, body: Sequence[memoryview]) -> None:
    """Send a message; its tensors in anonymous memory where the system has that, which nothing limits."""
    file = None
    try:
        try:
            if sum(message.sizes) >= _MIN_SHARED_BYTES:
                file = _shared(message.sizes, body)
        except OSError as error:
            message, body = replace(_Message("no memory", text=str(error))), []
        connected.send(replace(message, is_shared=file is not None))
        if file is not None:
            reduction.send_handle(connected, file, None)
            return
        for part in body:
            connected.send_bytes(part)
    except OSError:
        os._exit(0)  # nobody takes it
    finally:
        if file is not None:
            os.close(file)


def _shared(sizes: Sequence[int], body: Sequence[memoryview]) -> int | None:
    """Return a file in memory that holds the parts; None where the system has no such files."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        file = os.memfd_create("autoprog-batch")
    except OSError:
        return None
    try:
        os.truncate(file, _end_of(sizes))
        for start, part in zip(_starts_of(sizes), body, strict=True):
            written = 0
            while written < len(part):  # Linux writes at most 2 GiB at once
                written += os.pwrite(file, part[written:], start + written)
    except OSError:
        os.close(file)
        raise
    return file


class _Array(NamedTuple):
    """A tensor on its way: an array is pickled beside its values, which need not be copied then."""

    values: np.ndarray


def _pinned(result: Any) -> Any:
    return tuple(part.pin_memory() if isinstance(part, Tensor) else part for part in result)


def _printed_text(printed: IO[bytes]) -> str:
    """Return the end of what was printed; a library may quote a file in it that is not ours."""
    with suppress(OSError, ValueError):
        start = max(0, os.fstat(printed.fileno()).st_size - _MAX_PRINTED_BYTES)
        text = os.pread(printed.fileno(), _MAX_PRINTED_BYTES, start).decode(errors="replace")
        return printable(text)
    return ""
