"""What a complete run came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from autoprog.accuracy import is_unbalanced, sampling_error
from autoprog.ui.fitted import Fitted, panel
from autoprog.ui.palette import DIM
from autoprog.ui.units import amount, count, duration, loss_text, mebibytes, number

__all__ = ["finished_line", "finished_lines", "result_rows", "result_view"]

TWO_COLUMNS_WIDTH = 72
LONGEST_TEXT = 24  # of two columns

_Tell = Callable[[Mapping[str, Any]], str]


def result_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, text) of what `result` holds of a result file; what it lacks is left out."""
    rows = [(name, text(result)) for name, text in _ROWS]
    return [(name, text) for name, text in rows if text]


def finished_lines(result: Mapping[str, Any]) -> list[str]:
    """Return a result in a few lines: accuracy, then time, then work and what the full model would take."""
    texts = dict(result_rows(result))

    def line(head: str, *names: str) -> str:
        known = [f"{name} {texts[name]}" for name in names if name in texts]
        return f"{head}: {', '.join(known)}" if known else ""

    lines = [
        line("finished", "top-1 EMA", "top-1", "loss EMA", "loss", "validation images"),
        line("accuracy", "balanced EMA", "balanced", "largest class") if _matters(result) else "",
        f"best EMA: {texts['best EMA']}" if "best EMA" in texts else "",
        line("time", "wall time", *(name for name in _PARTS if texts.get(name) != duration(0.0))),
        line("work", "epochs", "image-epochs", "MACs", "peak memory", "device", "precision"),
        f"full model: {texts['full model']}" if "full model" in texts else "",
    ]
    return [text for text in lines if text]


def finished_line(result: Mapping[str, Any]) -> str:
    """Return a result in one short line."""
    texts = dict(result_rows(result))
    parts = [f"{name} {texts[name]}" for name in ("top-1 EMA", "top-1") if name in texts]
    parts += [f"in {texts['wall time']}"] if "wall time" in texts else []
    return f"finished: {', '.join([*parts, *filter(None, [result.get('run_id')])])}"


def _of(key: str, text: Callable[[Any], str]) -> _Tell:
    """Return what tells one value of a result; nothing where it is missing."""
    return lambda result: "" if result.get(key) is None else text(result[key])


def _accuracy(key: str) -> _Tell:
    def text(result: Mapping[str, Any]) -> str:
        value, images = result.get(key), result.get("num_validation_images")
        if value is None:
            return ""
        error = f" ± {sampling_error(value, images):.1f}" if images else ""
        return f"{value:.2f}{error} %"

    return text


def _best(result: Mapping[str, Any]) -> str:
    if result.get("best_top1") is None:
        return ""
    early = ", after which the run was stopped early" if result.get("stopped_early") else ""
    return (
        f"{result['best_top1']:.2f} % at epoch {number(result['best_epoch'])}"
        f" (checkpoints/best.safetensors){early}"
    )


def _full_model(result: Mapping[str, Any]) -> str:
    """Return what the full model was predicted to take, beside what the run took."""
    seconds, epochs = result.get("full_model_seconds"), result.get("full_model_epochs")
    if seconds is None or epochs is None:
        return ""
    taken = result["wall_seconds"]
    slower = ""
    if taken > seconds:
        beside = taken - result["train_seconds"] - result["data_wait_seconds"]
        slower = (
            f", {duration(beside)} of it not for steps; what is so short gains nothing by growth"
        )
    return (
        f"about {duration(seconds)} for {number(epochs)} epochs (predicted from its steps here);"
        f" this run {duration(taken)}{slower}"
    )


def _matters(result: Mapping[str, Any]) -> bool:
    """Tell whether balanced accuracy says more than top-1 does."""
    images, share = result.get("class_images") or (), result.get("largest_class_share")
    return share is not None and is_unbalanced(share, sum(map(bool, images)))


_PARTS = ("training", "in supernets", "search", "lost to growth", "data wait", "evaluation")
_ROWS: tuple[tuple[str, _Tell], ...] = (
    ("top-1 EMA", _accuracy("top1_ema")),
    ("top-1", _accuracy("top1")),
    ("best EMA", _best),
    ("balanced EMA", _of("balanced_top1_ema", lambda value: f"{value:.2f} %")),
    ("balanced", _of("balanced_top1", lambda value: f"{value:.2f} %")),
    (
        "largest class",
        _of("largest_class_share", lambda share: f"{100 * share:.1f} % of the images"),
    ),
    ("validation images", _of("num_validation_images", count)),
    ("loss EMA", _of("loss_ema", loss_text)),
    ("loss", _of("loss", loss_text)),
    ("stopped early", lambda result: "yes" if result.get("stopped_early") else ""),
    ("wall time", _of("wall_seconds", duration)),
    ("training", _of("train_seconds", duration)),
    ("in supernets", _of("supernet_seconds", duration)),
    ("search", _of("search_seconds", duration)),
    ("lost to growth", _of("lost_seconds", duration)),
    ("data wait", _of("data_wait_seconds", duration)),
    ("evaluation", _of("eval_seconds", duration)),
    ("full model", _full_model),
    ("epochs", _of("epochs", number)),
    ("image-epochs", _of("image_epochs", number)),
    ("MACs", _of("macs", amount)),
    ("peak memory", _of("peak_memory_bytes", mebibytes)),
    ("device", _of("device", str)),
    ("precision", _of("amp", str)),
)


def result_view(result: Mapping[str, Any]) -> RenderableType:
    """Return the result as names and values, in two columns where there is room."""
    return panel(Fitted(lambda width: _grid(result_rows(result), width)), "Result")


def _grid(rows: list[tuple[str, str]], width: int) -> RenderableType:
    """Return short texts in two columns where there is room, then the long ones, each on its line."""
    long = [row for row in rows if len(row[1]) > LONGEST_TEXT]
    short = [row for row in rows if row not in long]
    grid = Table.grid(padding=(0, 3, 0, 0))
    half = (len(short) + 1) // 2 if width >= TWO_COLUMNS_WIDTH else len(short)
    for left, right in zip_longest(short[:half], short[half:], fillvalue=("", "")):
        grid.add_row(*_cells(left), *_cells(right))
    below = Table.grid(padding=(0, 3, 0, 0))
    for row in long:
        below.add_row(*_cells(row))
    return Stack(grid, below) if long else grid


def _cells(row: tuple[str, str]) -> tuple[Text, Text]:
    name, text = row
    return Text(name, DIM), Text(text, "bold" if name.startswith("top-1") else "")
