"""What runs in the process of one rank."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import traceback
from typing import Any

import ray

from raydsinfer.engines import create_engine, engine_class
from raydsinfer.engines.base import Engine, EngineSpec, LoadProgress, LoadReport, RankContext
from raydsinfer.groups.topology import WorkerPlace


class Worker:
    """One rank: an actor that holds one engine.

    Everything that touches the engine runs on one thread, in the order in which the gang called
    (CUDA's current device and torch's modes belong to a thread); `stack` and `progress` have a thread of
    their own, so that they answer while the engine is busy. Ray keeps both promises through concurrency groups.
    """

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._context = RankContext()
        self._store: Any = None
        self._engine_thread = 0

    def place(self) -> WorkerPlace:
        """Where Ray put this actor."""
        runtime = ray.get_runtime_context()
        return WorkerPlace(
            node_id=runtime.get_node_id(),
            node_ip=ray.util.get_node_ip_address(),  # type: ignore[no-untyped-call]
            gpu_ids=tuple(runtime.get_accelerator_ids().get("GPU", ())),
            pid=os.getpid(),
        )

    def become(self, spec: EngineSpec, context: RankContext) -> bool:
        """Take a rank and import the engine.

        The environment comes first: torch and DeepSpeed read it when they are imported.

        Returns:
            Whether the engine wants a process group.
        """
        self._context, self._engine_thread = context, threading.get_ident()
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

    def join_process_group(self, timeout_s: float) -> None:
        """Set up `torch.distributed` with the other ranks."""
        from raydsinfer.groups import rendezvous

        rendezvous.join_process_group(self._store, self._context, timeout_s)

    def load(self) -> LoadReport:
        """Load the engine's weights."""
        return self._running().load()

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
    def stack(self) -> str:
        """What the engine's thread is doing, innermost call last."""
        frame = sys._current_frames().get(self._engine_thread)
        if frame is None:
            return "nothing: it was between two calls"
        lines = [f"{f.name} ({f.filename}:{f.lineno})" for f in traceback.extract_stack(frame)]
        return " > ".join(lines[-4:])

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
