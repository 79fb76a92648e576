"""What runs in the process of one rank."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import replace
from typing import Any

import psutil
import ray

from raydsinfer.engines import create_engine, engine_class
from raydsinfer.engines.base import Engine, EngineSpec, LoadProgress, LoadReport, Pulse, RankContext
from raydsinfer.groups.dump import dump_of, open_dump
from raydsinfer.groups.remains import lead_process_group
from raydsinfer.groups.stacks import RankStacks, own_stacks
from raydsinfer.groups.topology import LOOPBACK, WorkerPlace

_GROWTH_BYTES = 64 * 2**20  # what does not count its bytes is seen to move by the memory that it fills


class Worker:
    """One rank: an actor that holds one engine.

    Everything that touches the engine runs on one thread, in the order in which the gang called
    (CUDA's current device and torch's modes belong to a thread); `pulse`, `progress` and `stacks` have a thread
    of their own, so that they answer while the engine is busy. Ray keeps both promises through concurrency groups.
    """

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._context = RankContext()
        self._store: Any = None
        self._engine_thread = 0
        self._is_loading = False
        self._call_timeout_s = 0.0

    def place(self) -> WorkerPlace:
        """Where Ray put this actor."""
        runtime = ray.get_runtime_context()
        return WorkerPlace(
            node_id=runtime.get_node_id(),
            node_ip=ray.util.get_node_ip_address(),  # type: ignore[no-untyped-call]
            gpu_ids=tuple(runtime.get_accelerator_ids().get("GPU", ())),
            pid=os.getpid(),
            engine_thread=threading.get_ident(),
            dump_descriptor=open_dump(),
        )

    def become(self, spec: EngineSpec, context: RankContext) -> bool:
        """Take a rank and import the engine.

        The environment comes first: torch and DeepSpeed read it when they are imported.

        Returns:
            Whether the engine wants a process group.
        """
        self._context, self._engine_thread = context, threading.get_ident()
        lead_process_group()
        on_gpu = context.device.startswith("cuda")
        os.environ.update(
            RANK=str(context.world_rank),
            WORLD_SIZE=str(context.world_size),
            LOCAL_WORLD_SIZE=str(context.local_world_size),
            # An index among the devices that this process sees, and of GPUs it sees its own only.
            LOCAL_RANK="0" if on_gpu else str(context.local_rank),
        )
        if not on_gpu:  # a CPU gang on a GPU node: what it was not given it must not use
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        engine = engine_class(spec)
        self._engine = create_engine(spec, context)
        return engine.requires_process_group

    def open_store(self, host: str, timeout_s: float) -> int:
        """Rank 0: open the gang's store and return its port."""
        from raydsinfer.groups import rendezvous

        self._store = rendezvous.open_store(host, self._context.world_size, timeout_s)
        return int(self._store.port)

    def connect_store(self, host: str, port: int, timeout_s: float) -> None:
        """Find the gang's store and tell libraries that ask the environment where it is."""
        from raydsinfer.groups import rendezvous

        if self._context.world_rank != 0:
            self._store = rendezvous.connect_store(host, port, self._context.world_size, timeout_s)
        os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))
        rendezvous.stay_at(LOOPBACK if host == LOOPBACK else ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]

    def join_process_group(self, start_timeout_s: float, call_timeout_s: float) -> None:
        """Set up `torch.distributed` with the other ranks.

        Args:
            start_timeout_s: Seconds that a collective may take until the engine is loaded.
            call_timeout_s: And from then on.
        """
        from raydsinfer.groups import rendezvous

        self._call_timeout_s = call_timeout_s
        rendezvous.join_process_group(self._store, self._context, start_timeout_s)

    def load(self) -> LoadReport:
        """Load the engine's weights."""
        self._is_loading = True
        report = self._running().load()
        self._is_loading = False
        if self._store is not None:
            from raydsinfer.groups import rendezvous

            rendezvous.limit_collectives(self._call_timeout_s)
        return report

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, str]:
        """Call a method of the engine.

        Returns:
            On rank 0 the answer, elsewhere None; and a digest of the answer, which must be the same
            on all ranks.
        """
        answer = getattr(self._running(), method)(*args, **kwargs)
        # repr and not pickle: equal values pickle differently when they share objects differently.
        digest = hashlib.sha256(repr(answer).encode()).hexdigest()
        return (answer if self._context.world_rank == 0 else None), digest

    def close(self) -> None:
        """Close the engine and leave the process group."""
        if self._engine is not None:
            self._engine.close()
        if self._store is not None:
            from raydsinfer.groups import rendezvous

            rendezvous.leave_process_group()
            self._store = None

    @ray.method(concurrency_group="control")
    def pulse(self) -> Pulse:
        """How far the engine is with its present call."""
        if self._engine is None:
            return Pulse()
        pulse = self._engine.pulse()
        if not self._is_loading:
            return pulse
        grown = psutil.Process().memory_info().rss // _GROWTH_BYTES
        return replace(pulse, num_bytes=pulse.num_bytes + grown)

    @ray.method(concurrency_group="control")
    def stacks(self) -> RankStacks:
        """What all threads are doing."""
        return RankStacks(threads=own_stacks(), engine_thread=self._engine_thread)

    @ray.method(concurrency_group="control")
    def dump_of(self, pid: int, descriptor: int) -> tuple[str, str]:
        """What the threads of another rank on this node are doing, see `raydsinfer.groups.dump`."""
        return dump_of(pid, descriptor)

    @ray.method(concurrency_group="control")
    def progress(self) -> LoadProgress:
        """How far the engine has come with loading."""
        return self._running().progress()

    def _running(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("the worker was called before it had a rank")
        return self._engine


# Ray's type hints do not know concurrency groups.
_as_actor: Any = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"control": 1})  # type: ignore[call-overload]
WorkerActor = _as_actor(Worker)
"""`Worker` as an actor: never restarted alone, because a gang restarts as a whole."""
