"""``bench presets`` and ``bench tier``: what they make equal, what they run, reuse, refuse and write."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from autoprog.cli import build_parser, main
from autoprog.commands import bench_tier
from autoprog.commands.bench_presets import load_preset_bench
from autoprog.commands.bench_tier import TIERS, arm_seconds, between_markers, total_seconds
from autoprog.commands.configure import configure_train
from autoprog.errors import ConfigError, RunError
from autoprog.presets import PRESETS, preset
from autoprog.runs import load_run
from autoprog.stage import Curriculum
from autoprog.train.length import step_table
from autoprog.verify import attempts
from autoprog.verify.arms import ArmSettings
from autoprog.verify.equal_cost import always, epochs_of_cost, images_cost, macs_cost
from autoprog.verify.plan import OtherArm, Plan
from autoprog.verify.verification import check_publish_folder
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]
CONSTANT = ArmSettings(command="train", preset="constant")
HERE = ("--device", "cpu", "--threads", "1", "--workers", "0")
BENCH = ("presets", "--model", "vit-mu", *HERE, "--epochs", "2")


@pytest.mark.parametrize("name", ["linear", "size-curriculum", "efficienttrain", "unfreezing"])
@pytest.mark.parametrize("cost", [images_cost, macs_cost(SPEC)])
def test_epochs_are_found_at_which_a_preset_costs_as_much(name: str, cost: Any) -> None:
    steps_per_epoch, epochs = 20, 30.0

    def make(length: float) -> Any:
        return preset(name, SPEC, length, Curriculum(randaug=5.0))

    constant = preset("constant", SPEC, epochs, Curriculum()).resolve(steps_per_epoch, epochs)
    found = epochs_of_cost(make, steps_per_epoch, cost, cost(constant))
    table = make(found).resolve(steps_per_epoch, found)
    # within a step of the full model, but where stages begin at whole epochs
    off = 0.05 * cost(constant) if name == "linear" else 1.0
    assert cost(table) == pytest.approx(cost(constant), abs=off)
    assert (found * steps_per_epoch) % 1 == pytest.approx(0, abs=1e-9)


def test_a_schedule_too_short_for_its_stages_is_refused() -> None:
    linear = preset("linear", SPEC, 4.0, Curriculum())
    with pytest.raises(ConfigError, match="at least one step"):
        epochs_of_cost(always(linear), 20, macs_cost(SPEC), 1.0)


class InProcess:
    """A run of the program within this process, and what was run."""

    words: ClassVar[list[tuple[str, ...]]] = []
    exit_codes: ClassVar[dict[str, int]] = {}

    def __init__(self, words: Sequence[str], runs: Path, *_: Any, **how: Any) -> None:
        self.words.append(tuple(words))
        self.exit_code = self.exit_codes.get(runs.name)
        if self.exit_code is None:
            with redirect_stdout(io.StringIO()):
                self.exit_code = main(list(words))

    def last_line(self) -> str:
        return "out of luck"


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return ``autoprog bench`` in an empty folder; its runs are of this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(attempts, "Attempt", InProcess)
    monkeypatch.setattr(InProcess, "words", [])
    monkeypatch.setattr(InProcess, "exit_codes", {})

    def run(*words: str) -> tuple[int, str, str]:
        try:
            code = main(["bench", *words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def macs_of(words: Sequence[str]) -> float:
    """Return the multiply-accumulates of a training, in full steps."""
    args = build_parser("train").parse_args(list(words[: words.index("--seed")]))
    run = configure_train(args)
    assert run.schedule is not None
    table = step_table(run.settings.recipe, run.schedule, len(run.opened.train))
    return macs_cost(SPEC)(table)


def test_presets_of_equal_compute_are_run_compared_and_reused(
    command: Command, tmp_path: Path
) -> None:
    words = (*BENCH, "--presets", "linear", "--equal", "macs", "--seeds", "1")
    code, out, err = command(*words, "--json")
    assert code == 0
    constant, linear = InProcess.words
    assert (constant[1], linear[1]) == ("--schedule=constant", "--schedule=linear")
    assert macs_of(linear) == pytest.approx(macs_of(constant), abs=1.0)
    groups = json.loads(out)["groups"]
    assert [group["name"] for group in groups] == ["constant", "linear"]
    assert groups[1]["macs_ratio"] == pytest.approx(1, abs=0.05)
    assert groups[1]["difference"]["seeds"] == [0]
    assert "2 runs at equal macs in runs/" in err
    assert "seed 0 linear: started; about " in err
    (file,) = tmp_path.glob("runs/*-bench-presets-vit-mu/bench.json")
    before = len(InProcess.words)
    code, out, err = command(*words, "--markdown")
    assert (code, len(InProcess.words)) == (0, before)
    assert out.startswith("|  | run | n | top-1 EMA % |")
    assert err.count("(reused)") == 2
    assert load_preset_bench(file.parent).seeds == 1


def test_how_and_where_runs_are_carried_out_makes_another_bench(
    planned: Callable[..., Any],
) -> None:
    words = (*BENCH, "--presets", "linear", "--equal", "macs")
    bench, again, other = planned(*words), planned(*words), planned(*words, "--compile")
    assert bench.request == again.request != other.request


def test_a_run_that_fails_is_told_and_the_same_command_goes_on(command: Command) -> None:
    words = (*BENCH, "--presets", "linear", "--seeds", "1", "--epochs", "1")
    InProcess.exit_codes = {"seed-0-linear": 1}
    code, out, err = command(*words)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].endswith(
        "seed-0-linear: the run ended with exit code 1: out of luck; the same command goes on with it"
    )
    InProcess.exit_codes = {}
    code, _, err = command(*words, "-q")
    assert (code, err) == (0, "")
    assert len(InProcess.words) == 3


@pytest.fixture
def planned(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Any]:
    """Return the bench that a command line plans, without a run."""

    def stop(*_: Any, **how: Any) -> Any:
        raise RunError("planned")

    def plan(*words: str) -> Any:
        monkeypatch.setattr(attempts, "Attempt", stop)
        assert command(*words)[0] == 1
        (file,) = tmp_path.glob("runs/*/bench.json")
        bench = load_preset_bench(file.parent)
        file.unlink()
        return bench

    return plan


def test_all_presets_enter_but_those_of_the_clock(planned: Callable[..., Any]) -> None:
    bench = planned(*BENCH[:-1], "20")
    names = [one.name for one in bench.schedules]
    assert (names[0], bench.seeds, bench.equal) == ("constant", 3, "epochs")
    assert {*names, *bench.left_out} == {*PRESETS}
    assert [*bench.left_out] == ["size-curriculum:time"]
    epochs = {e.name: float(e.settings.flags["epochs"]) for e in bench.schedules}
    assert epochs["linear"] == epochs["supervit"] == epochs["constant"]
    assert epochs["efficienttrain"] < 0.8 * epochs["constant"]  # whose epochs are of compute


def test_a_preset_too_long_for_the_run_is_left_out_with_its_reason(
    planned: Callable[..., Any],
) -> None:
    bench = planned(*BENCH[:-1], "0.3", "--presets", "linear", "efficienttrain")
    assert [one.name for one in bench.schedules] == ["constant", "linear"]
    assert "must last at least one step" in bench.left_out["efficienttrain"]


def test_equal_wall_clock_goes_by_what_steps_take_here(planned: Callable[..., Any]) -> None:
    words = ("--presets", "linear", "--equal", "wall-clock", "--profile-seconds", "0")
    bench = planned(*BENCH[:-1], "20", *words)
    epochs = [float(e.settings.flags["epochs"]) for e in bench.schedules]
    assert epochs[1] > epochs[0] == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "the following arguments are required: SUBJECT"),
        (("presets", "--model", "vit-mu", "--schedule", "linear"), "--schedule: must be left out"),
        ((*BENCH, "--presets", "lineal"), "did you mean 'linear'?"),
        ((*BENCH, "--resume", "auto"), "--resume: must be left out: a bench is no run"),
        ((*BENCH, "--profile-seconds", "1"), "it is for --equal wall-clock"),
        ((*BENCH, "--json", "--markdown"), "--markdown: must not be given together with --json"),
        (("costs", "--equal", "macs"), "--equal must be given with autoprog bench presets"),
        (("runner", "--seeds", "2"), "--seeds must be given with autoprog bench presets"),
        ((*BENCH, "--publish", "x"), "--publish must be given with autoprog bench tier"),
        ((*BENCH, "--dry-run"), "--dry-run must be given with autoprog bench tier"),
        (("runner", "--tier", "smoke"), "--tier is now: autoprog bench tier NAME"),
        (("--tier", "smoke"), "--tier is now: autoprog bench tier NAME"),
        (("tier", "smoke", "--epochs", "9"), "--epochs: must be left out: tier smoke fixes it"),
        (("tier", "smoke", "--data", "x"), "--data: must be left out: tier smoke fixes it"),
        (("tier", "cpu", "--blocks", "3"), "--blocks must be given with autoprog bench runner"),
        (
            ("tier", "smoke", "--seeds", "1"),
            "--seeds: must be at least 2 with tier smoke, but got 1",
        ),
        (("tier", "cpu"), "--data: must be given, with CIFAR-10; or give --dataset"),
        (("tier", "gpu", "--dry-run"), "--data: must be given, with ImageNet"),
        (("tier", "smoke", "--dry-run", "--publish", "x"), "--dry-run: must be left out with"),
        (("tier", "smoke", "--write", "R.md"), "R.md: must hold one line <!-- bench:smoke -->"),
        (("tier", "smoke", "--write", "no.md"), "must be a file that can be read"),
        (("tier", "smoke", "--publish", "full"), "--publish: must be empty, but got 'full'"),
        (("tier",), "the following arguments are required: NAME"),
        (("tier", "tpu"), "must be smoke, cpu or gpu, but got 'tpu'"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_run(
    command: Command, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "R.md").write_text("no markers\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    code, out, err = command(*words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err
    assert InProcess.words == []
    assert not (tmp_path / "runs").exists()


# Tiers.


def test_the_tiers_are_the_ones_of_the_protocol() -> None:
    parsed = {
        name: build_parser("verify").parse_args(
            [
                *("verify", *tier.words, f"--seeds={tier.seeds}"),
                *(("--", *tier.search_words) if tier.search_words else ()),
            ]
        )
        for name, tier in TIERS.items()
    }
    cpu, gpu = parsed["cpu"], parsed["gpu"]
    assert (cpu.model, cpu.seeds, cpu.margin, cpu.search) == ("vit-xs", 5, 1.0, True)
    assert (gpu.seeds, gpu.margin, gpu.search) == (10, 0.3, True)
    assert cpu.side_by_side
    assert cpu.baseline_longer == gpu.baseline_longer == 1.5
    assert not hasattr(parsed["smoke"], "data")


def images(folder: Path, count: int) -> None:
    """Write pictures of two classes as CIFAR-10 would be laid out."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                colour = (number, 0, 255 * (name == "dog"))
                Image.new("RGB", (32, 32), colour).save(folder / split / name / f"{number}.png")


@pytest.mark.parametrize(("tier", "seeds", "margin"), [("cpu", 5, 1.0), ("gpu", 10, 0.3)])
def test_a_dry_run_says_what_would_run_and_for_how_long(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tier: str,
    seeds: int,
    margin: float,
) -> None:
    monkeypatch.setattr(bench_tier, "_MEASURE_SECONDS", 0.0)
    # A tiny network and all of a few images in their place: the forecast trains a few steps.
    small = {"--model": "--model=vit-mu", "--data-fraction": "--data-fraction=1"}
    words = tuple(small.get(word.partition("=")[0], word) for word in TIERS[tier].words)
    monkeypatch.setitem(vars(TIERS[tier]), "words", words)
    images(tmp_path / "data", 64)
    given = ("tier", tier, "--data", "data", *HERE)
    code, out, err = command(*given, "--dry-run", "--json")
    assert (code, err) == (0, "")
    body = json.loads(out)
    assert (body["seeds"], body["margin"], body["images"]) == (seeds, margin, 128)
    own, *fractions = {"cpu": (0.29, 0.45), "gpu": (0.5, 0.33)}[tier]
    shorter = {f"candidate-{fraction}": fraction for fraction in fractions}
    assert [*body["epochs"]] == ["baseline", "candidate", *shorter, "baseline-1.5"]
    assert body["arm_seeds"] == {**dict.fromkeys(body["epochs"], seeds), "baseline-1.5": 1}
    one = body["seconds"]
    assert one["candidate"] == pytest.approx(own * one["baseline"])
    for name, fraction in shorter.items():
        assert one[name] == pytest.approx(fraction * one["baseline"])
    assert one["baseline-1.5"] == pytest.approx(1.5 * one["baseline"])
    longer = one.pop("baseline-1.5")
    wanted = longer + seeds * sum(one.values())
    if tier == "cpu":  # 1, 0.29 and 0.45 beside 1.5; without it, 1 beside the two others
        wanted = sum(one.values()) + (seeds - 1) * one["baseline"]
    assert body["total_seconds"] == pytest.approx(wanted)
    assert InProcess.words == []
    code, out, _ = command(*given, "--dry-run", "--seeds", str(seeds + 2))
    seeds += 2
    assert f"{seeds} seeds of {len(body['epochs'])} arms on" in out
    assert f" images, margin {margin:g}, " in out
    assert ("loading without the cache" in out) == (tier == "cpu")
    assert not (tmp_path / "runs").exists()


def test_what_runs_side_by_side_counts_once_in_the_forecast() -> None:
    plan = Plan(
        model="m",
        baseline=CONSTANT,
        candidate=ArmSettings(command="search"),
        schedule=None,
        settings="",
        margin=1.0,
        first_seed=0,
        seeds=3,
        side_by_side=True,
        search_seconds=0.0,
        others=(
            OtherArm(name="candidate-0.5", role="length", settings=CONSTANT, epochs=5.0),
            OtherArm(name="reannealed", role="control", settings=CONSTANT, epochs=6.0),
        ),
    )
    seconds = arm_seconds(plan, 100.0, 60.0, {"baseline": 20.0, "candidate": 10.0})
    assert seconds == {
        **{"baseline": 100.0, "candidate": 60.0, "candidate-0.5": 30.0, "reannealed": 60.0},
    }
    assert (
        total_seconds(plan, seconds) == 2 * 150.0 + 130.0
    )  # candidate and then 60 beside 100 and 30
    alone = plan.model_copy(update={"side_by_side": False})
    assert total_seconds(alone, seconds) == 3 * 250.0


def test_tables_go_between_the_markers_and_nowhere_else() -> None:
    text = "a\n<!-- bench:cpu -->\nold\n<!-- /bench:cpu -->\nb\n"
    new = between_markers(text, "cpu", ["| x |"], "README.md")
    assert new == "a\n<!-- bench:cpu -->\n| x |\n<!-- /bench:cpu -->\nb\n"
    assert between_markers(new, "cpu", ["| x |"], "README.md") == new
    for broken in ("", text + text, "<!-- /bench:cpu --><!-- bench:cpu -->"):
        with pytest.raises(ConfigError, match=r"README\.md: must hold"):
            between_markers(broken, "cpu", [], "README.md")


def test_the_smoke_tier_writes_its_tables_and_what_is_published(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*TIERS["smoke"].words, "--epochs=0.5")  # of the same flag the last one counts
    monkeypatch.setitem(vars(TIERS["smoke"]), "words", words)
    readme = tmp_path / "R.md"
    readme.write_text("a\n<!-- bench:smoke -->\n<!-- /bench:smoke -->\nb\n")
    code, out, _ = command(
        *("tier", "smoke", "--seeds", "3", "--publish", "public", "--write", "R.md"),
        *(*HERE, "--markdown"),
    )
    assert code == 0
    assert len(InProcess.words) == 9
    lines = readme.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("a", "b")
    assert lines[2] == "`autoprog bench tier smoke --seeds=3 --device=cpu --workers=0 --threads=1`"
    assert out.strip() in readme.read_text()
    public = tmp_path / "public"
    arms = [f"seed-{seed}-{arm}" for seed in range(3) for arm in ("baseline", "candidate")]
    arms += [f"seed-{seed}-reannealed" for seed in range(3)]
    assert {path.name for path in public.iterdir()} == {*arms, "verify.json"}
    for arm in arms:
        names = {path.name for path in (public / arm).iterdir()}
        assert names == {"run.yaml", "schedule.yaml", "result.json", "curve.jsonl"}
        assert any(type(event).__name__ == "Evaluated" for event in load_run(public / arm).events())
    check_publish_folder(public)  # published before, so it may be written again
    (folder,) = tmp_path.glob("runs/*-verify-vit-mu")
    with pytest.raises(ConfigError, match="--publish: must be empty"):
        check_publish_folder(folder)  # the runs themselves, whose weights would go
    code, out, _ = command("tier", "smoke", *HERE, "--markdown")
    assert (code, len(InProcess.words)) == (0, 9)  # as many seeds as there are
    assert main(["compare", *(str(public / arm) for arm in arms), "--markdown"]) == 0
