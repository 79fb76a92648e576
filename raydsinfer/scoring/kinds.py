"""Arguments of the wrong kind, before anything is started with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydsinfer.config import GangConfig, RecoveryConfig
from raydsinfer.errors import InvalidSettingError


def check_kinds(predictor_kwargs: Mapping[str, Any]) -> None:
    """Check that what should be a settings object is one, not a dictionary of its fields.

    Args:
        predictor_kwargs: As they go to `DeepSpeedPredictor.from_checkpoint`.

    Raises:
        InvalidSettingError: One is not.
    """
    from ray.train import ScalingConfig

    kinds = {"scaling_config": ScalingConfig, "gang_config": GangConfig, "recovery_config": RecoveryConfig}
    for name, kind in kinds.items():
        value = predictor_kwargs.get(name)
        if value is not None and not isinstance(value, kind):
            hint = f"Write {kind.__name__}(...)."
            raise InvalidSettingError(name=name, value=value, expected=f"a {kind.__name__}", hint=hint)
