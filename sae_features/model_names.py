"""What models are called: the short names of TransformerLens, and ids on the Hugging Face hub."""

from __future__ import annotations

from typing import Final

_OWNERS: Final = {
    "EleutherAI": """pythia-14m pythia-31m pythia-70m pythia-160m pythia-410m pythia-1b pythia-1.4b
        pythia-2.8b pythia-6.9b pythia-12b pythia-70m-deduped pythia-160m-deduped pythia-410m-deduped
        pythia-1b-deduped pythia-1.4b-deduped pythia-2.8b-deduped pythia-6.9b-deduped
        pythia-12b-deduped""",
    "Qwen": """Qwen1.5-0.5B Qwen1.5-1.8B Qwen1.5-4B Qwen1.5-7B Qwen1.5-14B Qwen1.5-0.5B-Chat
        Qwen1.5-1.8B-Chat Qwen1.5-4B-Chat Qwen1.5-7B-Chat Qwen1.5-14B-Chat Qwen2-0.5B Qwen2-1.5B Qwen2-7B
        Qwen2-0.5B-Instruct Qwen2-1.5B-Instruct Qwen2-7B-Instruct Qwen2.5-0.5B Qwen2.5-1.5B Qwen2.5-3B
        Qwen2.5-7B Qwen2.5-14B Qwen2.5-32B Qwen2.5-72B Qwen2.5-0.5B-Instruct Qwen2.5-1.5B-Instruct
        Qwen2.5-3B-Instruct Qwen2.5-7B-Instruct Qwen2.5-14B-Instruct Qwen2.5-32B-Instruct
        Qwen2.5-72B-Instruct Qwen3-0.6B Qwen3-0.6B-Base Qwen3-1.7B Qwen3-1.7B-Base Qwen3-4B Qwen3-4B-Base
        Qwen3-8B Qwen3-8B-Base Qwen3-14B Qwen3-14B-Base""",
    "google": """gemma-2b gemma-2b-it gemma-7b gemma-7b-it gemma-2-2b gemma-2-2b-it gemma-2-9b
        gemma-2-9b-it gemma-2-27b gemma-2-27b-it gemma-3-270m gemma-3-270m-it gemma-3-1b-pt gemma-3-1b-it
        gemma-3-4b-pt gemma-3-4b-it gemma-3-12b-pt gemma-3-12b-it gemma-3-27b-pt gemma-3-27b-it""",
    "google-bert": "bert-base-cased bert-base-uncased bert-large-cased bert-large-uncased",
    "google-t5": "t5-small t5-base t5-large",
    "openai": "gpt-oss-20b gpt-oss-120b",
    "openai-community": "gpt2 gpt2-medium gpt2-large gpt2-xl",
}
_RENAMED: Final = {
    "distilgpt2": "distilbert/distilgpt2",
    "gpt-oss": "openai/gpt-oss-20b",
    "gpt2-small": "openai-community/gpt2",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-2-7b-chat": "meta-llama/Llama-2-7b-chat-hf",
    "llama-2-13b": "meta-llama/Llama-2-13b-hf",
    "llama-2-13b-chat": "meta-llama/Llama-2-13b-chat-hf",
    "meta-llama/llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "meta-llama/llama-3-8b-instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
    "meta-llama/meta-llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "meta-llama/meta-llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "mistral-7b-instruct": "mistralai/Mistral-7B-Instruct-v0.1",
    "mixtral-8x7b": "mistralai/Mixtral-8x7B-v0.1",
}
"""Names, in lower case, that are more than the last part of the id; the hub's own former ids, too."""

_HUB_IDS: Final = {
    name.lower(): f"{owner}/{name}" for owner, names in _OWNERS.items() for name in names.split()
} | _RENAMED


def hub_id(name: str) -> str:
    """Return the id on the Hugging Face hub of a model that TransformerLens knows by a short name.

    Parameters
    ----------
    name : str
        A name such as ``"gpt2-small"``, in any case; anything unknown comes back as it is.

    Examples
    --------
    >>> hub_id("gpt2-small"), hub_id("gemma-2-2b"), hub_id("mistral-7b")
    ('openai-community/gpt2', 'google/gemma-2-2b', 'mistralai/Mistral-7B-v0.1')
    >>> hub_id("owner/some-model")
    'owner/some-model'
    """
    return _HUB_IDS.get(name.lower(), name)
