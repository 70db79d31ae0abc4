"""A verification: its arithmetic, its pairs whatever happens to them, its command and what it shows."""

from __future__ import annotations

import io
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from rich.console import Console
from scipy.special import stdtrit

from autoprog.cli import main
from autoprog.errors import ConfigError, RunError
from autoprog.files import dump_yaml
from autoprog.runs import Result
from autoprog.schedule import load_schedule
from autoprog.settings import RunManifest, SearchSettings
from autoprog.space import find_space
from autoprog.ui.verify import VerifyView, markdown_lines, verdict_lines
from autoprog.verify import attempts as driver
from autoprog.verify.arms import ArmSettings
from autoprog.verify.attempts import ArmEnded, ArmStarted
from autoprog.verify.plan import OtherArm, Pair, Plan
from autoprog.verify.verdict import judge, pairs_needed, ratio, summarise
from autoprog.verify.verification import Verification, load, verify
from supernet.zoo import ZOO

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--model", "vit-mu", "--device", "cpu", "--workers", "0", "--threads", "1")


def result_of(top1: float, seconds: float, seed: int = 0, **more: Any) -> Result:
    values: dict[str, Any] = {
        **{"run_id": "r", "kind": "train", "model": "vit-mu", "top1": 0.0, "top1_ema": top1},
        **{"loss": 1.0, "loss_ema": 1.0, "epochs": 2.0, "wall_seconds": seconds},
        **{"train_seconds": seconds / 2, "supernet_seconds": 0.0, "search_seconds": 0.0},
        **{"lost_seconds": 0.1, "data_wait_seconds": 0.2, "eval_seconds": 0.3},
        **{"image_epochs": 2.0, "macs": 1e9, "peak_memory_bytes": 2**20, "seed": seed},
        **{"device": "cpu", "amp": "none", "versions": {}, "schedule": {}},
    }
    return Result(**{**values, **more})


CONSTANT = ArmSettings(command="train", preset="constant")
SEARCHED = ArmSettings(command="search", flags={"model": "vit-mu"})


def plan_of(**changed: Any) -> Plan:
    values: dict[str, Any] = {
        **{"model": "vit-mu", "baseline": CONSTANT, "schedule": None},
        **{"candidate": SEARCHED, "settings": "0", "margin": 1.0},
        **{"first_seed": 0, "seeds": 3, "side_by_side": False, "search_seconds": 0.0},
    }
    return Plan(**{**values, **changed})


def verification_of(plan: Plan) -> Verification:
    return Verification(
        verify_id="v", created="now", plan=plan, looks=(plan.seeds,), differing={"aa": ("a", "b")}
    )


def pairs_of(*runs: tuple[float, float, float, float]) -> list[Pair]:
    """Return pairs of baseline top-1 and seconds, candidate top-1 and seconds."""
    return [
        Pair(
            seed=seed,
            order=("baseline", "candidate"),
            baseline=result_of(runs[seed][0], runs[seed][1]),
            candidate=result_of(runs[seed][2], runs[seed][3]),
        )
        for seed in range(len(runs))
    ]


# The arithmetic.


@pytest.mark.parametrize(
    ("probability", "degrees", "value"),
    [
        (0.95, 1, 6.313752),
        (0.95, 2, 2.919986),
        (0.95, 4, 2.131847),
        (0.95, 9, 1.833113),
        (0.975, 4, 2.776445),
        (0.05, 4, -2.131847),
    ],
)
def test_quantiles_are_those_of_the_tables(probability: float, degrees: int, value: float) -> None:
    points = [0.0] * degrees + [1.0]
    verdict = judge(points, 1.0, sureness=probability)
    assert verdict.upper is not None
    reach = verdict.upper - verdict.mean
    found = reach * math.sqrt(len(points)) / stdev(points)
    assert found == pytest.approx(value, abs=1e-6)


SPREAD = (-0.1, 0.1, -0.2, 0.2, 0.0)  # mean 0, sd 0.158114; 2.131847 * sd / sqrt(5) = 0.150744


@pytest.mark.parametrize(
    ("shift", "margin", "outcome", "more"),
    [
        (0.0, 1.0, "non-inferior", 0),
        (-0.84, 1.0, "non-inferior", 0),
        (-0.85, 1.0, "undecided", 1),
        (0.0, 0.1, "undecided", 4),  # of 9 pairs: 1.859548 * sd / 3 = 0.0980; of 8: 0.1059
        (-1.14, 1.0, "undecided", 1),  # of 6 pairs: 2.015048 * sd / sqrt(6) = 0.1301
        (-1.16, 1.0, "inferior", 0),
    ],
)
def test_the_verdict_follows_from_one_sided_bounds(
    shift: float, margin: float, outcome: str, more: int
) -> None:
    verdict = judge([value + shift for value in SPREAD], margin)
    assert (verdict.outcome, verdict.more_seeds, verdict.pairs) == (outcome, more, 5)
    assert verdict.sd == pytest.approx(0.1581139)
    assert verdict.lower == pytest.approx(shift - 0.150744, abs=1e-6)
    assert verdict.upper == pytest.approx(shift + 0.150744, abs=1e-6)


def test_one_pair_decides_nothing() -> None:
    verdict = judge([5.0], 1.0)
    assert (verdict.outcome, verdict.lower, verdict.more_seeds) == ("undecided", None, None)


def test_a_mean_on_the_margin_is_never_decided() -> None:
    assert pairs_needed(-1.0, 0.5, 1.0) is None
    assert judge([-0.9, -1.1], 1.0).more_seeds is None


def test_differences_without_any_spread_decide() -> None:
    assert judge([0.0, 0.0], 1.0).outcome == "non-inferior"
    assert judge([-2.0, -2.0], 1.0).outcome == "inferior"


def test_the_pairs_needed_are_the_fewest() -> None:
    rng = random.Random(0)
    for _ in range(50):
        mean, sd, margin = rng.uniform(-2, 2), rng.uniform(0.05, 3), rng.uniform(0.1, 2)
        needed = pairs_needed(mean, sd, margin)
        assert needed is not None
        reach = [stdtrit(n - 1, 0.95) * sd / math.sqrt(n) for n in (needed - 1, needed) if n > 1]
        assert reach[-1] < abs(mean + margin)
        assert len(reach) == 1 or reach[0] >= abs(mean + margin)


def test_ratios_are_geometric_and_paired() -> None:
    value = ratio([1.0, 2.0], [2.0, 8.0])  # a half and a quarter
    reach = 12.7062047 * math.log(2) / 2
    assert value.mean == pytest.approx(math.sqrt(1 / 8))
    assert value.low == pytest.approx(math.exp(math.log(1 / 8) / 2 - reach))
    assert value.high == pytest.approx(math.exp(math.log(1 / 8) / 2 + reach))
    assert ratio([3.0], [2.0]).low is None
    assert ratio([3.0], [2.0]).mean == pytest.approx(1.5)


def test_the_first_arm_alternates() -> None:
    plan = plan_of()
    assert [plan.order(number)[0][0] for number in range(4)] == ["b", "c", "b", "c"]
    assert all({*plan.order(n)} == {"baseline", "candidate"} for n in range(4))


def test_the_search_for_a_schedule_is_charged_to_every_run_and_shown_apart() -> None:
    pairs = pairs_of((90.0, 10.0, 91.0, 5.0), (90.0, 20.0, 91.0, 10.0))
    found = summarise(pairs, plan_of(search_seconds=5.0))
    assert found["ratios"]["wall"]["mean"] == pytest.approx(math.sqrt(1.0 * 0.75))
    assert found["ratios"]["wall_amortised"]["mean"] == pytest.approx(0.5)
    assert found["charged_seconds"]["candidate"]["wall"] == pytest.approx(12.5)
    assert found["charged_seconds"]["candidate"]["search"] == pytest.approx(5.0)
    assert found["charged_seconds"]["baseline"]["wall"] == pytest.approx(15.0)
    reached = found["time_to_baseline_accuracy"]
    assert (reached["reached"], reached["seconds"], reached["arm"]) == (True, 12.5, "candidate")


def test_a_lower_mean_has_not_reached_the_baseline() -> None:
    found = summarise(pairs_of((90.0, 1.0, 95.0, 1.0), (90.0, 1.0, 84.9, 1.0)), plan_of())
    reached = found["time_to_baseline_accuracy"]
    assert (reached["reached"], reached["seconds"]) == (False, None)
    assert found["mean"] == pytest.approx(-0.05)


# Pairs, whatever happens to them.


class Fake:
    """A program whose runs end as told, at the second look or after so many that do not end them."""

    def __init__(self) -> None:
        self.looks: dict[str, int] = {}
        self.started: list[tuple[str, ...]] = []
        self.codes: dict[str, int] = {}
        self.events: list[str] = []
        self.nproc: set[int] = set()

    def __call__(
        self, words: Sequence[str], runs: Path, number: int, nproc: int, held_files: Sequence[int]
    ) -> FakeProcess:
        self.nproc.add(nproc)
        self.started.append(tuple(words))
        self.events.append(f"start {runs.name}")
        (runs.parent / f"{runs.name}-attempt-{number}.err").write_text("")
        return FakeProcess(self, runs)


class FakeProcess:
    """One run of it."""

    def __init__(self, fake: Fake, runs: Path) -> None:
        self.fake, self.runs, self.looks = fake, runs, 0

    @property
    def exit_code(self) -> int | None:
        self.looks += 1
        if self.looks <= self.fake.looks.get(self.runs.name, 1):
            return None
        code = self.fake.codes.get(self.runs.name, 0)
        run = next(self.runs.glob("*"), self.runs / "run")
        run.mkdir(exist_ok=True)
        if code == 0 and not (run / "result.json").exists():
            self.fake.events.append(f"end {self.runs.name}")
            _, seed, arm = self.runs.name.split("-", 2)
            top1 = 90.0 + int(seed) / 10 + (0.2 * (int(seed) + 1) if arm == "candidate" else 0.0)
            seconds = 5.0 + int(seed) if arm == "candidate" else 10.0
            body = result_of(top1, seconds, int(seed)).model_dump(mode="json", by_alias=True)
            (run / "result.json").write_text(json.dumps(body))
        return code

    def send(self, name: str) -> None:
        self.fake.events.append(f"{name} {self.runs.name}")

    def wait(self, timeout_seconds: float) -> bool:
        return True

    def kill(self) -> None:
        pass

    def last_line(self) -> str:
        return "out of luck"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Return the program that a verification starts."""
    program = Fake()
    monkeypatch.setattr(driver, "Attempt", program)
    monkeypatch.setattr(driver, "_POLL_SECONDS", 0.0)
    return program


def starts(fake: Fake) -> list[str]:
    return [event[6:] for event in fake.events if event.startswith("start ")]


def test_pairs_are_run_one_after_the_other_in_alternating_order(fake: Fake, tmp_path: Path) -> None:
    plan = plan_of(first_seed=4, seeds=2)
    list(verify(tmp_path, verification_of(plan)))
    order = ["seed-4-baseline", "seed-4-candidate", "seed-5-candidate", "seed-5-baseline"]
    assert fake.events == [f"{what} {name}" for name in order for what in ("start", "end")]
    runs = ("--seed", "4", f"--runs-dir={tmp_path / 'seed-4-baseline'}", "-q")
    assert fake.started[0] == ("train", "--schedule=constant", *runs)
    found = load(tmp_path)
    assert len(found.pairs) == found.plan.seeds
    assert [pair.seed for pair in found.pairs] == [4, 5]
    assert found.verdict == summarise(found.pairs, plan)


def test_the_plan_is_written_before_the_first_run(fake: Fake, tmp_path: Path) -> None:
    reports = verify(tmp_path, verification_of(plan_of(margin=0.7)))
    assert isinstance(next(reports), ArmStarted)
    assert (load(tmp_path).plan.margin, load(tmp_path).pairs) == (0.7, ())
    reports.close()
    assert "TERM seed-0-baseline" in fake.events  # which writes a checkpoint


def test_a_verification_killed_between_runs_reuses_what_is_complete(
    fake: Fake, tmp_path: Path
) -> None:
    plan, kinds = plan_of(seeds=2), []
    reports = verify(tmp_path, verification_of(plan))
    for report in reports:
        if isinstance(report, ArmEnded) and (report.seed, report.arm) == (1, "candidate"):
            break
    reports.close()
    assert len(load(tmp_path).pairs) == 1
    fake.events.clear()
    for report in verify(tmp_path, load(tmp_path)):
        if isinstance(report, ArmEnded):
            kinds.append((report.seed, report.arm, report.reused))
    assert starts(fake) == ["seed-1-baseline"]
    assert kinds == [(1, "candidate", True), (1, "baseline", False)]
    assert len(load(tmp_path).pairs) == 2


def test_a_broken_run_goes_on_by_its_own_resume(fake: Fake, tmp_path: Path) -> None:
    run = tmp_path / "seed-0-candidate" / "run-7"
    run.mkdir(parents=True)
    (run / "run.yaml").write_text("")
    reports = list(verify(tmp_path, verification_of(plan_of(seeds=1))))
    assert ("search", f"--resume={run}", "-q") in fake.started
    assert ArmStarted(0, "candidate", resumed=True) in reports
    assert ArmStarted(0, "baseline", resumed=False) in reports


def test_a_run_that_was_stopped_before_its_start_is_made_anew(fake: Fake, tmp_path: Path) -> None:
    run = tmp_path / "seed-0-baseline" / "run-7"
    run.mkdir(parents=True)
    (run / "run.yaml").write_text("")  # a training run has a schedule.yaml too
    list(verify(tmp_path, verification_of(plan_of(seeds=1))))
    assert fake.started[0][:2] == ("train", "--schedule=constant")
    assert not run.exists()


def test_a_failed_run_is_told_and_what_is_complete_stays(fake: Fake, tmp_path: Path) -> None:
    fake.codes["seed-1-candidate"] = 3
    with pytest.raises(RunError, match=r"seed-1-candidate: .* exit code 3: out of luck; go on"):
        list(verify(tmp_path, verification_of(plan_of(seeds=2))))
    assert len(load(tmp_path).pairs) == 1


def test_side_by_side_both_arms_run_at_once(fake: Fake, tmp_path: Path) -> None:
    list(verify(tmp_path, verification_of(plan_of(seeds=1, side_by_side=True))))
    both = ["seed-0-baseline", "seed-0-candidate"]
    assert fake.events[:2] == [f"start {name}" for name in both]
    assert sorted(fake.events[2:]) == [f"end {name}" for name in both]


def test_when_one_of_two_arms_fails_the_other_is_ended(fake: Fake, tmp_path: Path) -> None:
    fake.codes["seed-0-baseline"] = 1
    with pytest.raises(RunError):
        list(verify(tmp_path, verification_of(plan_of(seeds=1, side_by_side=True))))
    assert "TERM seed-0-candidate" in fake.events


def test_the_schedule_is_copied_and_the_copy_is_used(fake: Fake, tmp_path: Path) -> None:
    along = ArmSettings(command="train", follows_file=True)
    plan = plan_of(candidate=along, schedule="a: 1\n", seeds=1)
    list(verify(tmp_path, verification_of(plan)))
    copy = tmp_path / "candidate.yaml"
    assert copy.read_text() == "a: 1\n"
    assert fake.started[1][:2] == ("train", f"--schedule={copy}")


def test_two_processes_never_run_one_verification(fake: Fake, tmp_path: Path) -> None:
    first = verify(tmp_path, verification_of(plan_of()))
    next(first)
    with pytest.raises(RunError, match="another process"):
        next(verify(tmp_path, verification_of(plan_of())))
    first.close()


def test_a_verdict_is_worked_out_anew_when_it_is_read(fake: Fake, tmp_path: Path) -> None:
    list(verify(tmp_path, verification_of(plan_of(seeds=2))))
    file = tmp_path / "verify.json"
    body = json.loads(file.read_text())
    file.write_text(json.dumps({**body, "verdict": {"of": "another version"}}))
    assert load(tmp_path).verdict == body["verdict"]


def test_a_folder_without_verify_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"verify\.json"):
        load(tmp_path)


# The command.


@pytest.fixture
def command(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return ``autoprog verify`` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        try:
            code = main(["verify", *words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


Command = Callable[..., tuple[int, str, str]]
SEARCH = ("--search", *SMALL, "--epochs", "2")


def folders(path: Path) -> list[Path]:
    return sorted(path.glob("runs/*-verify-vit-mu"))


def test_both_arms_get_the_same_flags(command: Command, fake: Fake, tmp_path: Path) -> None:
    given = ("--scale", "0.5", "1", "--lr", "0.001", "--compile", "--seed", "7", "--seeds", "1")
    code, out, err = command(*SEARCH, *given, "--", "--rule", "pareto", "--num-points=2")
    assert (code, err) == (0, "")
    assert "undecided: +1.60 points of one pair" in out
    baseline, candidate = fake.started
    ends = [words.index("--seed") for words in (baseline, candidate)]
    shared = baseline[2 : ends[0]]
    assert baseline[:2] == ("train", "--schedule=constant")
    assert set(shared) >= {"--epochs=2", "--lr=0.001", "--compile", "--threads=1", "--workers=0"}
    assert shared[shared.index("--scale") :][:3] == ("--scale", "0.5", "1")
    assert candidate[: ends[1]] == ("search", *shared, "--rule=pareto", "--num-points=2")
    assert baseline[ends[0] :][:2] == ("--seed", "7")


def test_the_candidate_may_spend_what_it_saved_on_more_epochs(command: Command, fake: Fake) -> None:
    code, out, _ = command(*SEARCH, "--candidate-epochs", "3", "--seeds", "1")
    assert code == 0
    epochs = [[word for word in words if word.startswith("--epochs")] for words in fake.started]
    assert epochs == [["--epochs=2"], ["--epochs=3"]]
    assert "epochs: baseline 2.0, candidate 3.0" in out


def test_side_by_side_gives_each_arm_one_thread(command: Command, fake: Fake) -> None:
    words = [word for word in SEARCH if word not in ("--threads", "1")]
    assert command(*words, "--side-by-side", "--seeds", "1")[0] == 0
    assert all("--threads=1" in words for words in fake.started)
    code, _, err = command(*words, "--threads", "2", "--side-by-side")
    assert (code, err.count("\n")) == (2, 1)
    assert "--threads: must be 1 with --side-by-side" in err


@pytest.mark.parametrize("way", ["same words", "--resume"])
def test_a_complete_verification_is_shown_without_a_run(
    command: Command, fake: Fake, tmp_path: Path, way: str
) -> None:
    assert command(*SEARCH, "--seeds", "2")[0] == 0
    fake.started.clear()
    (folder,) = folders(tmp_path)
    words = ("--resume", str(folder)) if way == "--resume" else (*SEARCH, "--seeds", "2")
    code, out, _ = command(*words)
    assert (code, fake.started, folders(tmp_path)) == (0, [], [folder])
    assert "verdict" in out


@pytest.mark.parametrize("way", ["same words", "--resume"])
def test_the_margin_may_not_change(command: Command, fake: Fake, tmp_path: Path, way: str) -> None:
    assert command(*SEARCH, "--seeds", "1")[0] == 0
    (folder,) = folders(tmp_path)
    before = (folder / "verify.json").read_bytes()
    words = ("--resume", str(folder)) if way == "--resume" else (*SEARCH, "--seeds", "1")
    code, out, err = command(*words, "--margin", "5")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--margin: must be 1, as was fixed before the first run" in err
    assert (folder / "verify.json").read_bytes() == before
    assert len(fake.started) == 2


def test_seeds_may_be_added_and_not_taken_away(
    command: Command, fake: Fake, tmp_path: Path
) -> None:
    assert command(*SEARCH, "--seeds", "1")[0] == 0
    code, out, _ = command(*SEARCH, "--seeds", "2")
    assert (code, len(fake.started)) == (0, 4)
    assert "seeds were added (1, 2)" in out
    (folder,) = folders(tmp_path)
    assert load(folder).looks == (1, 2)
    assert command("--resume", str(folder))[0] == 0
    assert len(fake.started) == 4
    assert command("--resume", str(folder), "--seeds", "6")[0] == 0
    assert command(*SEARCH)[0] == 0  # without --seeds: no fewer than there are
    assert (load(folder).looks, len(fake.started)) == ((1, 2, 6), 12)
    code, _, err = command("--resume", str(folder), "--seeds", "1")
    assert (code, err.count("\n")) == (2, 1)
    assert "--seeds: must be at least 6" in err


def test_another_configuration_is_another_verification(
    command: Command, fake: Fake, tmp_path: Path
) -> None:
    assert command(*SEARCH, "--seeds", "1")[0] == 0
    (folder,) = folders(tmp_path)
    folder.rename(folder.with_name("2026-01-01-000000-verify-vit-mu"))  # not of the same second
    assert command(*SEARCH, "--seeds", "1", "--lr", "0.003")[0] == 0
    assert (len(folders(tmp_path)), len(fake.started)) == (2, 4)


def test_a_run_that_fails_ends_with_1(command: Command, fake: Fake) -> None:
    fake.codes["seed-0-candidate"] = 1
    code, _, err = command(*SEARCH, "--seeds", "1")
    assert (code, err.count("\n")) == (1, 1)
    assert "exit code 1: out of luck" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*SMALL,), "--search: must be given, or --schedule FILE, and not both"),
        ((*SEARCH, "--schedule", "linear"), "and not both"),
        ((*SEARCH, "--margin", "0"), "--margin: must be a number from 1e-06 to 100, but got '0'"),
        ((*SEARCH, "--margin", "nan"), "margin"),
        ((*SEARCH, "--seeds", "0"), "--seeds: must be a whole number from 1 to 1,000, but got '0'"),
        ((*SEARCH, "--seed", "-1"), "--seed: must be a whole number from 0 to"),
        ((*SEARCH, "--search-seconds", "3"), "--search-seconds: must be given together with"),
        (("--search", "--epochs", "2"), "--model"),
        (("--schedule", "lineal", *SMALL), "did you mean 'linear'?"),
        (("--schedule", "linear", *SMALL, "--", "--rule", "pareto"), "--rule: must not follow --"),
        ((*SEARCH, "--", "--lr", "1"), "--lr: must stand before --"),
        ((*SEARCH, "--", "--costs", "costs.json"), "--costs: must be left out"),
        ((*SEARCH, "--", "--ruel", "pareto"), "did you mean '--rule'?"),
        (
            (*SEARCH, "--", "--rule", "best"),
            "must be rollout, autoprog, pareto or budget, but got 'best'",
        ),
        ((*SEARCH, "--", "--proxy", "0.5"), "data: must be the same in both arms"),
        ((*SEARCH, "stray"), "must be given flags, but got 'stray'"),
        ((*SEARCH, "--json", "--markdown"), "--markdown: must not be given together with --json"),
        (("--resume", "nowhere"), "must be a folder with a verify.json"),
        (("--resume", "nowhere", "--lr", "1"), "--lr: must not be given with --resume"),
        (("--resume", "nowhere", "--", "--rule", "pareto"), "must not be followed by flags"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    command: Command, fake: Fake, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    code, out, err = command(*words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err
    assert (list(tmp_path.iterdir()), fake.started) == ([], [])


SCHEDULE = """\
schema: 2
full: {model: vit-mu, timm: vit_tiny_patch16_224, depth: 4, img_size: 16, stride: 4, embed_dim: 24,
  num_heads: 2, overrides: {depth: 4, embed_dim: 24, num_heads: 2, patch_size: 4}}
stages:
- {length: 0.5, depth: 2, img_size: 8}
- {length: 0.5, depth: 4, img_size: 16}
"""


def run_folder(path: Path) -> Path:
    """Return the best.yaml of a search that took 40 s, 10 of them in supernets."""
    path.mkdir()
    (path / "best.yaml").write_text(SCHEDULE)
    result = result_of(90.0, 200.0, search_seconds=30.0, supernet_seconds=10.0)
    (path / "result.json").write_text(json.dumps(result.model_dump(mode="json", by_alias=True)))
    return path / "best.yaml"


@pytest.mark.parametrize(("given", "seconds"), [((), 40.0), (("--search-seconds", "7"), 7.0)])
def test_a_schedule_is_charged_what_its_search_took(
    command: Command, tmp_path: Path, given: tuple[str, ...], seconds: float
) -> None:
    best = run_folder(tmp_path / "found")
    flags = ("--device", "cpu", "--workers", "0", "--epochs", "2", "--seeds", "2", *given)
    code, out, err = command("--schedule", str(best), *flags)
    assert (code, err) == (0, "")
    (folder,) = folders(tmp_path)
    found = load(folder)
    assert found.plan.search_seconds == seconds
    assert {"model": "vit-mu", "img-size": "16"}.items() <= found.plan.baseline.flags.items()
    assert (folder / "candidate.yaml").read_text() == SCHEDULE
    assert "amortised  wall-clock without the search for the schedule: 0.548" in out


@pytest.mark.parametrize(("proxy", "seconds"), [(0.5, 200.0), (1.0, 40.0)])
def test_a_search_on_a_fraction_of_the_images_is_charged_whole(
    command: Command, tmp_path: Path, manifest: RunManifest, proxy: float, seconds: float
) -> None:
    best = run_folder(tmp_path / "found")
    space, where = find_space(None, "vit-mu")
    search = SearchSettings(space=space.space(ZOO["vit-mu"], where), space_from=where, proxy=proxy)
    changed = {"settings": manifest.settings.model_copy(update={"search": search})}
    body = manifest.model_copy(update=changed).model_dump(mode="json", by_alias=True)
    (best.parent / "run.yaml").write_text(dump_yaml(body))
    flags = ("--device", "cpu", "--workers", "0", "--epochs", "2", "--seeds", "2")
    assert command("--schedule", str(best), *flags)[0] == 0
    (folder,) = folders(tmp_path)
    assert load(folder).plan.search_seconds == seconds


def test_a_changed_schedule_file_is_another_verification(command: Command, tmp_path: Path) -> None:
    best = run_folder(tmp_path / "found")
    flags = ("--schedule", str(best), "--device", "cpu", "--epochs", "2", "--seeds", "1")
    assert command(*flags)[0] == 0
    (folder,) = folders(tmp_path)
    folder.rename(folder.with_name("2026-01-01-000000-verify-vit-mu"))
    best.write_text(SCHEDULE.replace("depth: 2", "depth: 3"))
    assert command(*flags)[0] == 0
    assert len(folders(tmp_path)) == 2


def test_lengths_that_differ_must_be_asked_for(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("length_unit: epochs\n" + SCHEDULE.replace("length: 0.5", "length: 3"))
    code, _, err = command("--schedule", str(file), "--device", "cpu")
    assert (code, err.count("\n")) == (2, 1)
    assert "--epochs: must be given: the candidate has 6 of its own, the baseline" in err


def test_json_is_the_file_and_the_table_goes_to_stderr(command: Command, tmp_path: Path) -> None:
    code, out, err = command(*SEARCH, "--seeds", "2", "--json")
    (folder,) = folders(tmp_path)
    assert code == 0
    assert json.loads(out) == json.loads((folder / "verify.json").read_text())
    assert "seed 1" in err


def test_markdown_is_a_table_and_a_list(command: Command) -> None:
    code, out, _ = command(*SEARCH, "--seeds", "2", "--markdown", "-q")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("| seed | first | baseline % | candidate % | difference |")
    assert lines[2] == "| 0 | baseline | 90.00 | 90.20 | +0.20 | 10.0 | 5.0 | 0.500 |"
    assert lines[3] == "| 1 | candidate | 90.10 | 90.50 | +0.40 | 10.0 | 6.0 | 0.600 |"
    assert "- **margin**: 1 points, fixed before the first run" in lines
    assert any(line.startswith("- **verdict**: ") for line in lines)


# What it shows.


def done(margin: float = 1.0) -> Verification:
    verification = verification_of(plan_of(margin=margin, seeds=2))
    for pair in pairs_of((90.0, 10.0, 90.2, 5.0), (90.0, 10.0, 90.4, 6.0)):
        verification = verification.with_pair(pair)
    return verification


def test_the_verdict_is_told_in_lines() -> None:
    told = dict(verdict_lines(done(margin=2.0)))
    assert told["verdict"] == (
        "non-inferior: +0.30 points (sd 0.14), one-sided 95 % bounds -0.33 and +0.93, margin 2"
    )
    assert told["wall"].startswith("wall-clock with everything charged: 0.548 (95 % ")
    assert told["wall"].endswith("of the baseline, a speed-up of 1.83×")
    assert told["reached"].endswith("in 5.5 s, all charged")
    assert "amortised" not in told
    told = dict(verdict_lines(done(margin=0.2)))
    assert told["verdict"].endswith("margin 0.2; 1 more seed would decide at this mean and sd")
    assert verdict_lines(verification_of(plan_of())) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"device": "cuda:0", "amp": "bfloat16"}, "on cpu none and cuda bfloat16"),
        ({"versions": {"torch": "3.0"}}, "by several versions"),
    ],
)
def test_runs_of_several_kinds_are_told(changed: dict[str, Any], said: str) -> None:
    first, second = pairs_of((90.0, 10.0, 90.2, 5.0), (90.0, 10.0, 90.4, 6.0))
    other = second.candidate.model_copy(update=changed)
    verification = verification_of(plan_of(seeds=2)).with_pair(first)
    mixed = verification.with_pair(second.model_copy(update={"candidate": other}))
    assert dict(verdict_lines(mixed))["unlike"].startswith(f"runs were made {said}: ")
    assert "unlike" not in dict(verdict_lines(done()))


def test_on_a_terminal_there_is_one_table_that_fits() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    view = VerifyView(console, "runs/x", done())
    with view:
        view.show(ArmStarted(0, "candidate", resumed=False))
        assert console.is_terminal
    view.conclude()
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert "candidate %" in out
    assert "differs    aa: baseline a, candidate b" in out
    assert out.count("verdict") == 1


def test_markdown_without_a_pair_is_a_head() -> None:
    assert markdown_lines(verification_of(plan_of()))[1].count("--:") == 8


# More arms.


def other(name: str, role: Any, **more: Any) -> OtherArm:
    return OtherArm(**{"name": name, "role": role, "settings": CONSTANT, "epochs": 1.0, **more})


def rounds_of(plan: Plan, *runs: dict[str, tuple[float, float]]) -> list[Pair]:
    """Return the seeds' top-1 and seconds by arm."""
    return [
        Pair(
            seed=seed,
            order=plan.arms,
            baseline=result_of(*arms["baseline"]),
            candidate=result_of(*arms["candidate"]),
            others={arm.name: result_of(*arms[arm.name]) for arm in plan.others},
        )
        for seed, arms in enumerate(runs)
    ]


LENGTHS = plan_of(
    others=(other("candidate-0.25", "length"), other("candidate-0.5", "length")),
    search_seconds=1.0,
)
TWO = (
    {"baseline": (90.0, 10.0), "candidate": (91.0, 8.0), "candidate-0.25": (88.0, 2.0),
     "candidate-0.5": (90.5, 4.0)},
    {"baseline": (90.0, 10.0), "candidate": (91.5, 8.0), "candidate-0.25": (89.0, 2.0),
     "candidate-0.5": (89.7, 4.0)},
)  # fmt: skip


def test_the_time_to_the_accuracy_is_that_of_the_cheapest_length_that_reaches_it() -> None:
    found = summarise(rounds_of(LENGTHS, *TWO), LENGTHS)["time_to_baseline_accuracy"]
    assert (found["reached"], found["arm"], found["lengths"]) == (True, "candidate-0.5", 3)
    assert (found["seconds"], found["ratio"]) == (5.0, pytest.approx(0.5))  # the search charged
    # mean 0.1 of 0.5 and -0.3; Student's t with 1 degree of freedom at 1 - 0.05 / 3
    reach = math.tan(math.pi * (0.5 - 0.05 / 3)) * math.sqrt(0.32) / math.sqrt(2)
    assert found["lower"] == pytest.approx(0.1 - reach)


def test_no_length_may_reach_it() -> None:
    plan = plan_of(others=(other("candidate-0.5", "length"),))
    lower = {"baseline": (90.0, 9.0), "candidate": (89.0, 8.0), "candidate-0.5": (88.0, 2.0)}
    found = summarise(rounds_of(plan, lower), plan)["time_to_baseline_accuracy"]
    assert (found["reached"], found["seconds"], found["lengths"]) == (False, None, 2)


def test_the_verdict_on_the_candidate_is_that_without_other_arms() -> None:
    alone = summarise(rounds_of(LENGTHS, *TWO), LENGTHS)
    pair = summarise(pairs_of((90.0, 10.0, 91.0, 8.0), (90.0, 10.0, 91.5, 8.0)), plan_of())
    for key in ("outcome", "mean", "sd", "lower", "upper", "more_seeds"):
        assert alone[key] == pair[key]


def test_bounds_of_lengths_hold_together_and_others_alone() -> None:
    plan = plan_of(
        others=(
            other("candidate-0.5", "length"),
            other("baseline-1.5", "longer", about="at 1.5 x its epochs"),
            other("ramp-depth", "control"),
            other("ramp-size", "control"),
        ),
        equal_by="training MACs",
    )
    runs = [
        {"baseline": (90.0, 10.0), "candidate": (91.0, 5.0), "candidate-0.5": (90.0, 2.5),
         "baseline-1.5": (92.5, 15.0), "ramp-depth": (89.0, 5.0), "ramp-size": (90.5, 6.0)},
        {"baseline": (90.0, 10.0), "candidate": (91.0, 5.0), "candidate-0.5": (90.5, 2.5),
         "baseline-1.5": (92.7, 15.0), "ramp-depth": (89.5, 5.0), "ramp-size": (91.5, 6.0)},
    ]  # fmt: skip
    pairs = rounds_of(plan, *runs)
    arms = {arm["arm"]: arm for arm in summarise(pairs, plan)["arms"]}
    assert [arm["sureness"] for arm in arms.values()] == [0.95, 0.975, 0.975, 0.95, 0.95, 0.95]
    assert [arm["against"] for arm in arms.values()] == [
        *(None, "baseline", "baseline", "baseline", "candidate", "candidate"),
    ]
    assert arms["ramp-depth"]["difference"]["mean"] == pytest.approx(-1.75)
    assert arms["baseline-1.5"]["wall"]["mean"] == pytest.approx(1.5)
    verification = verification_of(plan)
    for pair in pairs:
        verification = verification.with_pair(pair)
    told = dict(verdict_lines(verification))
    assert told["longer"].startswith("the baseline at 1.5 x its epochs adds +2.60 points [")
    assert told["longer"].endswith("2 points or more: train both arms for longer")
    assert told["ramp"].startswith("ramp-size, the best of 2 by its mean: +0.00 points to the")
    assert told["controls"] == "cost as much as the candidate by training MACs"
    assert told["choice"].endswith("(Bonferroni, one-sided): each at 97.50%")
    assert told["bounds"] == "those of the other arms are one-sided, each at 95 %"
    lines = markdown_lines(verification)
    assert "| arm | what it is | image-epochs | top-1 EMA % | difference | to the |" in lines[5]
    assert lines[10].startswith("| baseline-1.5 | at 1.5 x its epochs | 2 | 92.60 ± 0.14 | +2.60")


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_table_of_arms_fits(width: int) -> None:
    verification = verification_of(LENGTHS)
    for pair in rounds_of(LENGTHS, *TWO):
        verification = verification.with_pair(pair)
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    view = VerifyView(console, "runs/x", verification)
    view.conclude()
    out = console.file.getvalue()  # type: ignore[attr-defined]
    table = out[: out.index("verdict")].splitlines()
    assert max(map(len, table)) <= width
    assert [line.split()[0] for line in table[2:]] == list(LENGTHS.arms)
    assert ("image-epochs" in table[0]) == (width == 160)


def test_pair_and_others_take_turns_in_going_first() -> None:
    arms = ("baseline", "candidate", "candidate-0.25", "candidate-0.5")
    assert LENGTHS.order(0) == arms
    turned = ("candidate", "baseline", "candidate-0.5", "candidate-0.25")
    assert LENGTHS.order(1) == turned
    longer = OtherArm(name="baseline-1.5", role="longer", settings=CONSTANT, epochs=6.0)
    plan = LENGTHS.model_copy(update={"others": (*LENGTHS.others, longer)})
    assert plan.order(0) == ("baseline-1.5", *arms)
    assert plan.order(1) == ("baseline-1.5", *turned)


def test_side_by_side_the_next_run_starts_when_one_ends(fake: Fake, tmp_path: Path) -> None:
    plan = LENGTHS.model_copy(update={"side_by_side": True, "seeds": 1})
    fake.looks["seed-0-baseline"] = 100
    list(verify(tmp_path, verification_of(plan)))
    names = [f"seed-0-{arm}" for arm in LENGTHS.arms]
    baseline, *others = names
    one_by_one = [f"{what} {name}" for name in others for what in ("start", "end")]
    assert fake.events == [f"start {baseline}", *one_by_one, f"end {baseline}"]


LINEAR = ("--schedule", "linear", *SMALL, "--epochs", "4")


def test_lengths_are_fractions_of_the_baselines_epochs(command: Command, fake: Fake) -> None:
    given = ("--lengths", "0.75", "0.25", "--baseline-longer", "1.5", "--seeds", "1")
    code, out, err = command(*LINEAR, *given)
    assert (code, err) == (0, "")
    epochs = [[word for word in words if word.startswith("--epochs")] for words in fake.started]
    assert [words[-1] for words in epochs] == [
        *("--epochs=6", "--epochs=4", "--epochs=4", "--epochs=1", "--epochs=3"),
    ]
    names = ["baseline-1.5", "baseline", "candidate", "candidate-0.25", "candidate-0.75"]
    assert starts(fake) == [f"seed-0-{name}" for name in names]
    assert fake.started[3][:2] == ("train", "--schedule=linear")
    assert "by the cheapest of 3 lengths" in out


def test_the_longer_baseline_may_be_trained_for_the_first_seeds_alone(
    command: Command, fake: Fake, tmp_path: Path
) -> None:
    given = ("--baseline-longer", "1.5", "--longer-seeds", "2", "--seeds", "3")
    code, out, err = command(*LINEAR, *given)
    assert (code, err) == (0, "")
    longer = [name for name in starts(fake) if name.endswith("-1.5")]
    assert longer == ["seed-0-baseline-1.5", "seed-1-baseline-1.5"]
    (folder,) = (path.parent for path in tmp_path.glob("runs/*/verify.json"))
    verification = load(folder)
    assert [pair.has("baseline-1.5") for pair in verification.pairs] == [True, True, False]
    assert verification.verdict is not None
    (arm,) = (arm for arm in verification.verdict["arms"] if arm["role"] == "longer")
    own = [pair.run("baseline-1.5").top1_ema for pair in verification.pairs[:2]]
    assert arm["top1_ema"]["mean"] == pytest.approx(sum(own) / 2)
    of_two = [pair.baseline.top1_ema for pair in verification.pairs[:2]]
    assert arm["difference"]["mean"] == pytest.approx((sum(own) - sum(of_two)) / 2)
    assert (arm["seeds"], "points (2 seeds)" in out) == (2, True)
    assert "for each seed also baseline-1.5 (of the first 2)" in out


def test_a_search_has_lengths_too_and_its_own_flags(command: Command, fake: Fake) -> None:
    words = ("--epochs", "16", "--lengths", "0.5", "--seeds", "1", "--", "--rule", "pareto")
    assert command(*SEARCH, *words)[0] == 0
    assert fake.started[2][0] == "search"
    assert {"--rule=pareto", "--epochs=8"} <= {*fake.started[2]}
    assert "--epochs=16" not in fake.started[2]


def test_lengths_of_a_search_by_time_are_its_fractions_of_it(command: Command, fake: Fake) -> None:
    words = ("--epochs", "16", "--lengths", "0.75", "0.25", "--seeds", "1")
    assert command(*SEARCH, *words, "--", "--cost-fraction", "0.6")[0] == 0
    assert "--cost-fraction=0.6" in fake.started[1]
    for started, fraction in zip(fake.started[2:4], ("0.25", "0.75"), strict=True):
        fractions = [word for word in started if word.startswith("--cost-fraction")]
        assert fractions == [f"--cost-fraction={fraction}"]
        assert "--epochs=16" in started
    done = command(*SEARCH, "--lengths", "0.5", "--seeds", "1")
    assert "--lengths: must leave out 0.5: the candidate has that length" in "".join(map(str, done))


def test_lengths_by_time_are_of_the_baseline_also_where_the_candidate_has_more_epochs(
    command: Command, fake: Fake
) -> None:
    words = ("--candidate-epochs", "4", "--lengths", "1.5", "--seeds", "1")
    code, out, _ = command(*SEARCH, *words)
    assert code == 0
    assert "--cost-fraction=0.75" in fake.started[2]
    assert "at 1.5 of the baseline's time" in out
    refused = "".join(map(str, command(*SEARCH, "--candidate-epochs", "4", "--lengths", "1")))
    assert "--lengths: must leave out 1: the candidate has that length" in refused


def test_the_baseline_is_trained_once_a_seed(command: Command, fake: Fake) -> None:
    given = ("--lengths", "0.25", "0.5", "--controls", "reannealed", "--seeds", "2")
    assert command(*LINEAR, *given)[0] == 0
    assert sum(name.endswith("-baseline") for name in starts(fake)) == 2
    assert len(starts(fake)) == 10


def macs_of(words: Sequence[str], runs: Path) -> float:
    """Return the multiply-accumulates of a run, relative to full steps."""
    from autoprog.cli import build_parser
    from autoprog.commands.configure import configure_train
    from autoprog.train.length import step_table
    from autoprog.verify.equal_cost import macs_cost

    args = build_parser("train").parse_args(list(words[: words.index("--seed")]))
    arm = configure_train(args)
    assert arm.schedule is not None
    table = step_table(arm.settings.recipe, arm.schedule, len(arm.opened.train))
    return macs_cost(arm.settings.model.spec())(table)


def test_controls_cost_as_much_as_the_candidate(
    command: Command, fake: Fake, tmp_path: Path
) -> None:
    given = ("--controls", "reannealed", "ramp", "random:2", "--seeds", "1")
    code, out, err = command(*LINEAR, *given)
    assert (code, err) == (0, "")
    names = ["reannealed", "ramp-depth", "ramp-size", "random-1", "random-2"]
    assert [name.removeprefix("seed-0-") for name in starts(fake)[2:]] == names
    whole, *costs = [macs_of(words, tmp_path) for words in fake.started]
    assert costs[0] < 0.6 * whole
    assert costs[1:] == pytest.approx([costs[0]] * 5, abs=1.0)  # within a step of the full model
    (folder,) = folders(tmp_path)
    ramp = load_schedule(folder / "ramp-depth.yaml")
    assert [(stage.depth, stage.img_size) for stage in ramp.stages] == [(2, 16), (3, 16), (4, 16)]
    drawn = [load_schedule(folder / f"random-{number}.yaml") for number in (1, 2)]
    assert drawn[0] != drawn[1]
    assert all(f"{name} " in out for name in names)


def test_the_seed_decides_which_random_schedules(command: Command, tmp_path: Path) -> None:
    texts = []
    for place, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        flags = ("--controls", "random:1", "--seed", seed, "--seeds", "1", "--runs-dir", place)
        assert command(*LINEAR, *flags)[0] == 0
        (file,) = (tmp_path / place).glob("*/random-1.yaml")
        texts.append(file.read_text())
    assert texts[0] == texts[1] != texts[2]


def test_controls_may_cost_as_much_by_measured_seconds(
    command: Command, fake: Fake, tmp_path: Path
) -> None:
    seconds = {f"d{d} r{r} b128": 1.0 for d in (2, 3, 4) for r in (8, 12, 16)}  # all alike
    (tmp_path / "costs.json").write_text(json.dumps(seconds))
    flags = ("--batch-size", "128", "--controls", "reannealed", "--costs", "costs.json")
    code, out, _ = command(*LINEAR, *flags, "--seeds", "1")
    assert code == 0
    (epochs,) = (word for word in fake.started[2] if word.startswith("--epochs="))
    assert epochs.startswith("--epochs=4.")  # not half of it, as by compute
    assert "by seconds predicted from costs.json" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            (*LINEAR, "--lengths", "0"),
            "--lengths: must be a number from 0.001 to 1,000, but got '0'",
        ),
        ((*LINEAR, "--lengths", "0.5", "0.5"), "--lengths: must differ, but got 0.5"),
        ((*LINEAR, "--lengths", "1"), "--lengths: must leave out 1: the candidate has that length"),
        ((*LINEAR, "--lengths", "0.001"), "must last at least one step"),
        ((*LINEAR, "--baseline-longer", "1"), "--baseline-longer: must lie in (1, 100]"),
        ((*LINEAR, "--longer-seeds", "1"), "--longer-seeds: must be given together with"),
        (
            (*LINEAR, "--baseline-longer", "2", "--longer-seeds", "0"),
            "--longer-seeds: must be a whole number from 1 to 1,000, but got '0'",
        ),
        (
            (*LINEAR, "--controls", "slow"),
            "--controls: must be reannealed, ramp, random or random:N",
        ),
        ((*LINEAR, "--controls", "random:0"), "or random:N, but got 'random:0'"),
        ((*LINEAR, "--controls", f"random:{'9' * 5000}"), "or random:N, but got 'random:999"),
        ((*LINEAR, "--controls", "random:９"), "or random:N, but got 'random:９'"),
        ((*LINEAR, "--controls", "ramp", "ramp"), "--controls: must differ, but got 'ramp'"),
        ((*LINEAR, "--controls", "ramp:2"), "or random:N, but got 'ramp:2'"),
        ((*LINEAR, "--controls", "random:500"), "must find 500 schedules, but only"),
        ((*LINEAR, "--costs", "x.json"), "--costs: must be given together with --controls"),
        ((*LINEAR, "--controls", "ramp", "--costs", "x"), "must be a readable JSON file"),
        ((*LINEAR, "--controls", "ramp", "--controls-space", "x"), "--space: unknown space"),
        ((*SEARCH, "--controls", "ramp"), "--controls: must be given together with --schedule"),
        ((*LINEAR, "--mixup", "0.8", "--batch-size", "63"), "--batch-size: must be even for mixup"),
        ((*SEARCH, "--", "--fidelity", "4", "--fidelity-at", "9"), "--fidelity-at: must be below"),
        ((*SEARCH, "--lengths", "0.02"), "are too few to search"),
        ((*LINEAR, "--nproc", "0"), "--nproc: must be a whole number from 1 to 1,024"),
        ((*LINEAR, "--nproc", "2", "--side-by-side"), "--side-by-side: must be left out with"),
    ],
)
def test_arms_that_cannot_be_are_one_line(
    command: Command, fake: Fake, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    code, out, err = command(*words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err
    assert (list(tmp_path.iterdir()), fake.started) == ([], [])


def test_a_verification_starts_its_own_processes(
    command: Command, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(*LINEAR, "--nproc", "2", "--seeds", "1")[0] == 0
    assert fake.nproc == {2}
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = command(*LINEAR)
    assert (code, err.count("\n")) == (2, 1)
    assert "verify: must be started without torchrun; give --nproc N" in err


# For real.


class InProcess:
    """A run of the program within this process."""

    def __init__(self, words: Sequence[str], runs: Path, *_: Any, **how: Any) -> None:
        self.exit_code = main(list(words))

    def send(self, name: str) -> None:
        raise AssertionError("it has ended")

    def wait(self, timeout_seconds: float) -> bool:
        raise AssertionError("it has ended")

    def kill(self) -> None:
        raise AssertionError("it has ended")

    def last_line(self) -> str:
        return ""


def test_real_runs_are_paired_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "Attempt", InProcess)
    words = ("--schedule", "linear", *SMALL, "--epochs", "1", "--seeds", "2", "-q")
    more = ("--lengths", "0.5", "--controls", "random:1")
    assert main(["verify", *words, *more]) == 0
    (folder,) = folders(tmp_path)
    found = load(folder)
    check(found, "train")
    assert found.verdict is not None
    arms = {arm["arm"]: arm["macs"]["mean"] for arm in found.verdict["arms"]}
    assert arms["candidate-0.5"] == pytest.approx(arms["candidate"] / 2, rel=0.2)
    assert arms["random-1"] == pytest.approx(arms["candidate"], rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--seeds", "--side-by-side"])
def test_a_real_verification_of_a_search_in_processes_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    more = () if how == "--seeds" else (how,)
    assert main(["verify", *SEARCH, "--seeds", "2", *more]) == 0
    (folder,) = folders(tmp_path)
    check(load(folder), "search")


def check(found: Verification, kind: str) -> None:
    assert len(found.pairs) == found.plan.seeds
    assert found.verdict is not None
    for number, pair in enumerate(found.pairs):
        assert (pair.seed, pair.baseline.seed, pair.candidate.seed) == (number,) * 3
        assert (pair.baseline.kind, pair.candidate.kind) == ("train", kind)
        assert pair.candidate.macs < pair.baseline.macs
    assert found.verdict["ratios"]["macs"]["mean"] < 1
    assert found.verdict["mean"] == pytest.approx(fmean(pair.difference for pair in found.pairs))


@pytest.mark.slow
def test_a_killed_verification_leaves_its_folder_locked_while_a_run_of_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (*LINEAR, "--epochs", "8", "--seeds", "1", "-q")  # it goes on for a while
    found = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = subprocess.Popen([sys.executable, "-m", "autoprog", "verify", *words], env=found)
    try:
        until(lambda: list(tmp_path.glob("runs/*/seed-0-baseline")))
        program.kill()
        program.wait()
        assert main(["verify", *words]) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "a run that one started still goes on; wait for it or stop it" in err
    finally:
        program.kill()
        until(lambda: _ends(tmp_path))
    (run,) = tmp_path.glob("runs/*/seed-0-baseline/*")  # the orphan ended in peace, and counts
    assert (run / "result.json").exists()
    (folder,) = folders(tmp_path)
    with driver.locked(folder, "verify.lock"):
        pass


def _ends(path: Path) -> bool:
    """Tell whether no process holds the folder any more."""
    (folder,) = folders(path)
    try:
        with driver.locked(folder, "verify.lock"):
            return True
    except RunError:
        return False


def until(holds: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


@pytest.mark.slow
def test_each_run_may_be_carried_out_by_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--schedule", "linear", "--model", "vit-mu", "--device", "cpu", "--workers", "0")
    assert main(["verify", *words, "--epochs", "1", "--seeds", "1", "--nproc", "2", "-q"]) == 0
    (folder,) = folders(tmp_path)
    check(load(folder), "train")
    for run in folder.glob("seed-0-*/*/events.jsonl"):
        starts = [json.loads(line) for line in run.read_text().splitlines()][:1]
        assert [row["world_size"] for row in starts] == [2]
