"""The schedule that a search has found: what it decided, piece by piece."""

from __future__ import annotations

from autoprog.fidelity import read_fidelity
from autoprog.lengths import Lengths, full_epochs_of
from autoprog.schedule import FoundBy, GrowthSchedule, LengthUnit
from autoprog.search.pieces import merged
from autoprog.search.searcher import Searcher
from autoprog.stage import FullModel, Stage, Tokens, depth_value

__all__ = ["found_lengths", "found_schedule"]


def found_schedule(searcher: Searcher) -> GrowthSchedule:
    """Return what was decided as a schedule; stretches in which nothing changes are one stage."""
    pieces = merged(searcher.pieces)
    trainer, search = searcher.trainer, searcher.search
    stops = [piece.step for piece in pieces[1:]] + [trainer.total_steps]
    by_proxy = search.proxy < 1  # meant for runs of another length
    whole: LengthUnit = "compute_share" if searcher.by_time else "share"
    units = {
        subnet: trainer.total_steps if by_proxy else cost * trainer.steps_per_epoch
        for subnet, cost in searcher.step_costs.items()
    }
    stages = tuple(
        Stage(
            length=(stop - piece.step) / units[piece.subnet],
            depth=depth_value(piece.subnet.depth),
            img_size=piece.subnet.img_size,
            tokens=Tokens.of(piece.subnet.tokens),
            grow=search.space.decisions.grow,
            curriculum=piece.curriculum,
        )
        for piece, stop in zip(pieces, stops, strict=True)
    )
    fidelity = read_fidelity(trainer.folder.path)
    found_by = FoundBy(
        run=trainer.folder.manifest.run_id,
        rule=search.rule,
        seed=trainer.settings.seed,
        fidelity=None if fidelity is None else fidelity.summary,
    )
    full = FullModel.of(search.space.spec)
    return GrowthSchedule(
        full=full,
        length_unit=whole if by_proxy else "epochs",
        lr=searcher.lr,
        stages=stages,
        found_by=found_by,
    )


def found_lengths(searcher: Searcher, schedule: GrowthSchedule) -> Lengths:
    """Return how long the search was and how long what it found is."""
    trainer = searcher.trainer
    return Lengths(
        named_epochs=trainer.recipe.epochs,
        time_share=searcher.search.time_share,
        steps=trainer.step,
        trained_epochs=trainer.step / trainer.steps_per_epoch,
        schedule_epochs=schedule.own_epochs(trainer.steps_per_epoch),
        full_epochs=full_epochs_of(schedule, trainer.feed.num_classes),
    )
