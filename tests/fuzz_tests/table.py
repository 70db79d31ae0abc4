"""The table of a run of the corpus, and each failure with how it is made again."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.fuzz_tests.corpus import Case
from tests.fuzz_tests.judge import FAULTS, Fault

__all__ = ["Verdict", "failures", "grouped", "table"]

_MAX_EXAMPLES = 3


@dataclass(frozen=True)
class Verdict:
    """How one case ended."""

    case: Case
    words: Sequence[str]
    note: str
    code: int
    seconds: float
    peak_bytes: int
    long: bool
    faults: Sequence[Fault]
    said: str

    @property
    def again(self) -> str:
        """The command that makes the case again."""
        return f"python tests/fuzz_tests/run.py --seed {self.case.seed} --case {self.case.name}"


def table(verdicts: Sequence[Verdict]) -> str:
    """Return a Markdown table: kinds by what came of their cases."""
    columns = ("cases", "refused", "completed", "failed", *FAULTS)
    lines = [f"| kind | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
    kinds = list(dict.fromkeys(verdict.case.kind.name for verdict in verdicts))
    for kind in [*kinds, "all"]:
        ones = [one for one in verdicts if kind in (one.case.kind.name, "all")]
        counts = Counter(fault for one in ones for fault in {fault.what for fault in one.faults})
        ends = Counter(
            "refused" if one.code == 2 else "completed" if one.code == 0 or one.long else "failed"
            for one in ones
        )
        numbers = [
            len(ones),
            ends["refused"],
            ends["completed"],
            ends["failed"],
            *(counts[what] for what in FAULTS),
        ]
        lines.append(f"| {kind} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def grouped(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], list[tuple[Verdict, Fault]]]:
    """Return the faults of a kind together, the worst first: by what and by where or by which words."""
    groups: dict[tuple[str, str], list[tuple[Verdict, Fault]]] = defaultdict(list)
    for verdict in verdicts:
        for fault in verdict.faults:
            groups[fault.what, _alike(verdict, fault)].append((verdict, fault))
    return dict(sorted(groups.items(), key=lambda item: (FAULTS.index(item[0][0]), -len(item[1]))))


def _alike(verdict: Verdict, fault: Fault) -> str:
    """Return what two faults of one cause have in common."""
    if fault.what == "traceback":
        return re.sub(r"(: \w*(Error|Exception)?).*", r"\1", fault.detail)[:120]
    return f"{verdict.case.kind.name}: {verdict.words[0] if verdict.words else ''}"


def failures(verdicts: Sequence[Verdict]) -> str:
    """Return all failures as Markdown, some of each group with how they are made again."""
    lines = []
    for (what, where), ones in grouped(verdicts).items():
        lines.append(f"\n### {what}: {where} ({len(ones)})\n")
        for verdict, fault in ones[:_MAX_EXAMPLES]:
            lines.append(f"- {fault.detail[:400]}")
            lines.append(
                f"  - {verdict.note[:300]}; exit code {verdict.code}, {verdict.seconds:.1f} s"
            )
            lines.append(f"  - `{' '.join(map(ascii, verdict.words))[:300]}`")
            lines.append(f"  - `{verdict.again}`")
        if rest := [verdict.case.name for verdict, _ in ones[_MAX_EXAMPLES:]]:
            lines.append(f"- and {' '.join(rest[:40])}{' …' if len(rest) > 40 else ''}")
    return "\n".join(lines)
