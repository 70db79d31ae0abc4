"""Subnets as files hold them: their numbers are checked before anything is built from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from autoprog.bounds import BlockNumber, Blocks, PositiveFraction, Px
from autoprog.files import FileModel, parse
from supernet.config import SubnetConfig, TokenRule

__all__ = ["KeptTokens", "Subnet"]


class _Tokens(FileModel):
    """The fields of a :class:`TokenRule`."""

    keep_rate: PositiveFraction = 1.0
    by: Literal["magnitude", "l2_magnitude", "random", "class_attention"] = "magnitude"
    at_blocks: tuple[BlockNumber, ...] = (0,)


class _Point(FileModel):
    """The fields of a :class:`SubnetConfig`."""

    depth: tuple[Blocks, ...] = Field(min_length=1)
    img_size: Px
    tokens: _Tokens = _Tokens()


def _checked(model: type[FileModel]) -> BeforeValidator:
    """Return the check that a mapping is one of the model; values that were built in Python pass."""

    # The classes of the supernet know no pydantic, and take what would cost a file's reader all memory.
    def check(value: Any) -> Any:
        return parse(model, value, "").model_dump() if isinstance(value, Mapping) else value

    return BeforeValidator(check)


KeptTokens = Annotated[TokenRule, _checked(_Tokens)]
Subnet = Annotated[SubnetConfig, _checked(_Point)]
