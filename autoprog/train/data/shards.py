"""Checks of web datasets (``wds/…``) before anything of theirs is opened.

webdataset opens a shard by its address, and ``pipe:`` is one that it gives to a shell, as part of which it
would take a name such as ``0.tar; rm -r .``. Names of shards are what the user writes as the split, or what
a file beside the shards says; only of the user is an address taken.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from autoprog.errors import ConfigError
from autoprog.jsonlines import read_object
from autoprog.printable import brief

__all__ = ["check_info_files", "check_shards", "check_split"]

_INFO_FILES = ("_info.json", "info.json")
"""What timm reads beside the shards."""

_PLAIN_NAME = re.compile(r"(?!\.)[\w.,+=@ -]+(/(?!\.)[\w.,+=@ -]+)*", re.ASCII)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 10**6


def check_split(split: str) -> None:
    """Check that a split such as ``images-{000..099}.tar`` is no more shards than there may be.

    Raises:
        ConfigError: If it is.
    """
    ends = [(int(low[:18]), int(high[:18])) for low, high in _RANGE.findall(split)]
    count = math.prod(1 + abs(high - low) for low, high in ends)
    if count > _MOST_SHARDS:
        law = f"must be at most {_MOST_SHARDS:,} shards"
        raise ConfigError("--train-split or --val-split", "", law, split)


def check_info_files(root: str | None) -> None:
    """Check the files that timm reads beside shards on this machine.

    Raises:
        ConfigError: If one is no regular file, too large, or not a JSON object.
    """
    if _is_here(root):
        for name in _INFO_FILES:
            path = Path(root or "", name)
            if os.path.lexists(path):
                read_object(path)


def check_shards(root: str | None, reader: Any) -> None:
    """Check the shards of a reader of timm's, which has opened none of them so far.

    Raises:
        ConfigError: If a name from a file is more than a name, or a shard is not there.
    """
    where = "--dataset"
    for name in _names_in(getattr(reader, "info", None)):
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            law = "must name its shards by plain file names in its info file"
            raise ConfigError(where, "", law, name, "letters, digits and . , + = @ _ - alone")
    if not _is_here(root):
        return
    for name in getattr(getattr(reader, "split_info", None), "filenames", ()):
        path = os.path.join(root or "", str(name))
        if not os.path.isfile(path):  # a pipe would be waited for
            raise ConfigError(where, "", "must have each shard as a file", path)


def _is_here(root: str | None) -> bool:
    return urlparse(root or "").scheme == ""


def _names_in(info: Any) -> Iterator[Any]:
    """Yield the names of shards of all splits.

    Raises:
        ConfigError: If the info has another form.
    """
    splits = info.get("splits", {}) if isinstance(info, Mapping) else {}
    if not isinstance(splits, Mapping):
        raise ConfigError("--dataset", "", f"must have splits by name, but has {brief(splits)}")
    for split in splits.values():
        names = split.get("filenames", ()) if isinstance(split, Mapping) else None
        if not isinstance(names, Sequence) or isinstance(names, str):
            law = f"must have a list of filenames in each split, but has {brief(names)}"
            raise ConfigError("--dataset", "", law)
        yield from names
