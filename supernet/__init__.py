"""The elastic Vision Transformer: growth space, growth operators, export; nothing of autoprog."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supernet.config import (
        ALL_TOKENS,
        GrowthRule,
        ModelSpec,
        Outlook,
        Slots,
        SubnetConfig,
        TokenRule,
        first_slots,
    )
    from supernet.cost import block_tokens, check_tokens, macs, parameters, relative_cost
    from supernet.depthmap import skip_lists
    from supernet.elastic import ElasticPlainViT, create_elastic, describe
    from supernet.export import StaticViT, export_subnet, plain_state_dict, static_model
    from supernet.grow import SlotOrigin, compact
    from supernet.network import ElasticViT
    from supernet.volo import ElasticVOLO
    from supernet.zoo import lookup

__all__ = [
    "ALL_TOKENS",
    "ElasticPlainViT",
    "ElasticVOLO",
    "ElasticViT",
    "GrowthRule",
    "ModelSpec",
    "Outlook",
    "SlotOrigin",
    "Slots",
    "StaticViT",
    "SubnetConfig",
    "TokenRule",
    "block_tokens",
    "check_tokens",
    "compact",
    "create_elastic",
    "describe",
    "export_subnet",
    "first_slots",
    "lookup",
    "macs",
    "parameters",
    "plain_state_dict",
    "relative_cost",
    "skip_lists",
    "static_model",
]

# `supernet.grow` is a module, so the function of that name is had from there alone.
_HOME = {
    "ALL_TOKENS": "config",
    "ElasticPlainViT": "elastic",
    "ElasticVOLO": "volo",
    "ElasticViT": "network",
    "GrowthRule": "config",
    "ModelSpec": "config",
    "Outlook": "config",
    "SlotOrigin": "grow",
    "Slots": "config",
    "StaticViT": "export",
    "SubnetConfig": "config",
    "TokenRule": "config",
    "block_tokens": "cost",
    "check_tokens": "cost",
    "compact": "grow",
    "create_elastic": "elastic",
    "describe": "elastic",
    "export_subnet": "export",
    "first_slots": "config",
    "lookup": "zoo",
    "macs": "cost",
    "parameters": "cost",
    "plain_state_dict": "export",
    "relative_cost": "cost",
    "skip_lists": "depthmap",
    "static_model": "export",
}


def __getattr__(name: str) -> Any:
    """Import the home of ``name`` at its first use, so that plain arithmetic needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'supernet' has no attribute {name!r}")
    return getattr(import_module(f"supernet.{_HOME[name]}"), name)
