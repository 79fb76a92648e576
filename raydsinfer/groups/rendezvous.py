"""How the ranks of a gang find each other: the only file of this layer that imports torch.

Rank 0 opens the store on port 0, so the kernel picks a free port and the store has it from the first
moment: nobody can take it between choosing and binding, which is how rendezvous by a chosen port fails.
"""

from __future__ import annotations

import logging
import os
import socket
from datetime import timedelta
from typing import Any

import psutil

from raydsinfer.engines.base import RankContext
from raydsinfer.errors import EngineError, summary_of
from raydsinfer.groups.topology import LOOPBACK

logger = logging.getLogger(__name__)

_BACKLOG = 1024  # ranks that come at the same moment


def open_store(host: str, world_size: int, timeout_s: float) -> Any:
    """Open the gang's store on a port that the kernel picks.

    Args:
        host: Address of this node, at which the other ranks reach it. The store listens there only.
        world_size: Number of ranks.
        timeout_s: Seconds that reads from the store may wait.

    Returns:
        A `torch.distributed.TCPStore`; its `port` is the one to publish.
    """
    import torch.distributed as dist

    listener = _listener(host)
    port = listener.getsockname()[1]
    return dist.TCPStore(  # type: ignore[attr-defined]
        host,
        port,
        world_size,
        is_master=True,
        wait_for_workers=False,  # they need the port before they can come
        timeout=timedelta(seconds=timeout_s),
        master_listen_fd=listener.detach(),
    )


def _listener(host: str) -> socket.socket:
    """A socket that listens at one address only; torch's own listens at all of them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, 0), family=family, backlog=_BACKLOG)
    except OSError as error:  # behind address translation, for example
        logger.warning("the rendezvous listens at all addresses, because it cannot at %s alone: %s", host, error)
        return socket.create_server(("", 0), family=family, backlog=_BACKLOG)


def connect_store(host: str, port: int, world_size: int, timeout_s: float) -> Any:
    """Connect to the store that rank 0 opened.

    Raises:
        EngineError: There is no store at that address.
    """
    import torch.distributed as dist

    try:
        return dist.TCPStore(  # type: ignore[attr-defined]
            host, port, world_size, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout_s)
        )
    except RuntimeError as error:  # DistNetworkError and DistStoreError
        raise EngineError(
            doing=f"connecting to rank 0 at {host}:{port}",
            reason=summary_of(error),
            hint="The nodes of a gang must reach each other on all ports above 1023.",
        ) from error


def stay_at(host: str) -> None:
    """Tell gloo and NCCL where to listen, unless the environment does so already.

    Args:
        host: Address at which the other ranks reach this node. Where that is the machine itself only, NCCL's sockets
            stay there, too; otherwise NCCL chooses among the networks that it finds.
    """
    interface = next((name for name, them in psutil.net_if_addrs().items() for it in them if it.address == host), None)
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        if host == LOOPBACK:
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")


def join_process_group(store: Any, context: RankContext, timeout_s: float) -> None:
    """Make `torch.distributed`'s default process group: NCCL on GPUs, gloo on CPUs.

    Args:
        store: From `open_store` or `connect_store`.
        context: This rank.
        timeout_s: Seconds that a collective may take.

    Raises:
        EngineError: torch cannot use this rank's GPU, or the ranks do not find each other.
    """
    import torch
    import torch.distributed as dist

    options: dict[str, Any] = {"backend": "gloo"}
    if context.device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise EngineError(
                doing="setting up NCCL",
                reason=f"torch {torch.__version__} finds no GPU here, though Ray gave this rank "
                f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')!r}",
                hint="Install a CUDA build of torch and a driver that fits it on every GPU node.",
            )
        device = torch.device(context.device)
        torch.cuda.set_device(device)
        options = {"backend": "nccl", "device_id": device}
    try:
        dist.init_process_group(
            store=store,
            rank=context.world_rank,
            world_size=context.world_size,
            timeout=timedelta(seconds=timeout_s),
            **options,
        )
    except RuntimeError as error:
        raise EngineError(
            doing=f"setting up the {options['backend']} process group",
            reason=summary_of(error),
            hint="NCCL_DEBUG=INFO (or TORCH_DISTRIBUTED_DEBUG=DETAIL) in the runtime environment says more.",
        ) from error


def limit_collectives(timeout_s: float) -> None:
    """Set how long collectives may take from now on, in all process groups of this rank."""
    import torch.distributed as dist
    from torch.distributed import distributed_c10d

    for group in list(distributed_c10d._world.pg_map) if dist.is_initialized() else ():
        distributed_c10d._set_pg_timeout(timedelta(seconds=timeout_s), group)


def leave_process_group() -> None:
    """Undo `join_process_group`; idempotent."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
