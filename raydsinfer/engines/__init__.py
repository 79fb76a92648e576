"""What one rank does. Engines know nothing of Ray; importing this loads no torch."""

from __future__ import annotations

from raydsinfer.engines.base import Engine, EngineSpec, RankContext


def engine_class(spec: EngineSpec) -> type[Engine]:
    """The engine that a spec names; imports its dependencies."""
    if spec.config.engine == "echo":
        from raydsinfer.engines.echo import EchoEngine

        return EchoEngine
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine


def create_engine(spec: EngineSpec, context: RankContext) -> Engine:
    """Make a rank's engine; nothing is loaded yet."""
    return engine_class(spec)(spec, context)
