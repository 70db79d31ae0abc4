"""Reading images: sources, the held-out slice, transforms and loaders."""

from __future__ import annotations

from autoprog.train.data.bad_images import BadImages
from autoprog.train.data.cache.source import CachedSource, CacheSettings, open_cached
from autoprog.train.data.checking import CheckedImages, check_images
from autoprog.train.data.digits import open_digits
from autoprog.train.data.evaluation import cache_batches, eval_batches
from autoprog.train.data.holdout import stratified_holdout
from autoprog.train.data.images import ImageSource
from autoprog.train.data.loader import Batch, TrainLoader
from autoprog.train.data.report import DataReport, PartReport
from autoprog.train.data.sampler import SampleStream
from autoprog.train.data.slices import SlicedSource, whole_of
from autoprog.train.data.sources import AnySource, DataSource, OpenedData, open_source
from autoprog.train.data.stream import Part, StreamLoader, StreamSource
from autoprog.train.data.subset import sliced
from autoprog.train.data.transforms import (
    Cell,
    TransformSettings,
    eval_transform,
    train_transform,
)
from autoprog.train.data.workers import resolve_workers

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
