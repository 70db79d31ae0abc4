"""Reading images: sources, the held-out slice, transforms and loaders."""

from __future__ import annotations

from autoprog.data.cache import CachedSource, CacheSettings, open_cached
from autoprog.data.decode import BadImages
from autoprog.data.images import (
    ImageSource,
    SlicedSource,
    open_digits,
    stratified_holdout,
    whole_of,
)
from autoprog.data.loader import Batch, TrainLoader, cache_batches, eval_batches
from autoprog.data.loader_workers import resolve_workers
from autoprog.data.report import DataReport, PartReport
from autoprog.data.sampler import SampleStream
from autoprog.data.sources import (
    AnySource,
    CheckedImages,
    DataSource,
    OpenedData,
    check_images,
    open_source,
    sliced,
)
from autoprog.data.stream import Part, StreamLoader, StreamSource
from autoprog.data.transforms import Cell, TransformSettings, eval_transform, train_transform

__all__ = [
    "AnySource",
    "BadImages",
    "Batch",
    "CacheSettings",
    "CachedSource",
    "Cell",
    "CheckedImages",
    "DataReport",
    "DataSource",
    "ImageSource",
    "OpenedData",
    "Part",
    "PartReport",
    "SampleStream",
    "SlicedSource",
    "StreamLoader",
    "StreamSource",
    "TrainLoader",
    "TransformSettings",
    "cache_batches",
    "check_images",
    "eval_batches",
    "eval_transform",
    "open_cached",
    "open_digits",
    "open_source",
    "resolve_workers",
    "sliced",
    "stratified_holdout",
    "train_transform",
    "whole_of",
]
