"""What a model family provides, so that DeepSpeed's fused layers compute what its own layers would."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from deepspeed.model_implementations.transformers.ds_transformer import DeepSpeedTransformerInference
from torch import nn

from raydsinfer.engines.deepspeed_kernels.injected_layer import InjectedLayer


class Adapter:
    """A family. The steps are called in this order; each does nothing where DeepSpeed is right as it is."""

    layer: ClassVar[type[InjectedLayer]] = InjectedLayer
    """What goes round each fused layer: has the `forward` of the family's decoder layer."""

    takes_meta: ClassVar[bool] = True
    """Whether DeepSpeed replaces layers on the meta device; if not, they are given empty memory first."""

    def before(self, layer: nn.Module, model_config: Any) -> None:
        """Give a decoder layer of transformers what DeepSpeed's policy reads of it.

        Args:
            layer: Before DeepSpeed replaces it; may be on the meta device.
            model_config: The model's `transformers` configuration.
        """

    def replacing(self) -> AbstractContextManager[None]:
        """Entered while DeepSpeed replaces the layers."""
        return nullcontext()

    def after(self, layer: DeepSpeedTransformerInference, index: int, model_config: Any) -> None:
        """Tell a fused layer what DeepSpeed's policy did not.

        Args:
            layer: DeepSpeed's layer.
            index: Which of the model's layers it is, from 0.
            model_config: The model's `transformers` configuration.
        """

    def activation(self, model_config: Any) -> str:
        """transformers' name of the activation within the MLP, for the ops that run on a CPU."""
        name: str = getattr(model_config, "activation_function", None) or model_config.hidden_act
        return name
