"""The Hugging Face hub; only looked for when somebody asks for it."""

from __future__ import annotations

from raydsinfer.doctor.findings.network import HubFound
from raydsinfer.errors import summary_of

_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"  # the demo's; public


def find_hub(timeout_s: float) -> HubFound:
    """Ask for a public model, and whose token this is.

    Args:
        timeout_s: Seconds for the first answer.
    """
    from huggingface_hub import HfApi, get_token

    api, token = HfApi(), get_token()
    try:
        api.model_info(_MODEL, timeout=timeout_s, token=False)
        user = str(api.whoami()["name"]) if token else ""
    except Exception as error:  # no network, a proxy, a wrong token, HF_HUB_OFFLINE, …
        return HubFound(endpoint=api.endpoint, problem=summary_of(error))
    return HubFound(endpoint=api.endpoint, user=user)
