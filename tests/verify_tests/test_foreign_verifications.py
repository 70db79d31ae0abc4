"""Folders of verifications that somebody else has made: what they may not start, write or remove."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprog.errors import ConfigError
from autoprog.verify.verification import check_publish_folder, load, publish_verification
from tests.test_verify import Command, Fake, starts
from tests.verify_tests.conftest import Verified, tree

EVIL = ["bench", "runner", "--schedule", "linear", "--model", "vit-mu", "--timm-script", "evil.py"]
CONTROL = {
    "name": "ramp",
    "role": "control",
    "settings": {"command": "train", "preset": "linear", "flags": {"model": "vit-mu"}},
    "epochs": 1.0,
}
Body = dict[str, Any]


def poison(folder: Path, edit: Callable[[Body], object]) -> None:
    file = folder / "verify.json"
    body = json.loads(file.read_text())
    edit(body)
    file.write_text(json.dumps(body))


def put(place: str, value: Any) -> Callable[[Body], None]:
    """Return what puts a value into the place of a body, such as ``plan.baseline.flags.lr``."""

    def edit(body: Body) -> None:
        *parents, last = place.split(".")
        holder: Any = body
        for key in parents:
            holder = holder[int(key)] if isinstance(holder, list) else holder[key]
        holder[last] = value

    return edit


def old_words(words: list[str]) -> Callable[[Body], None]:
    def edit(body: Body) -> None:
        body["schema"] = 1
        plan = body["plan"]
        plan["baseline"] = words
        plan["candidate"] = ["train", "--schedule", "linear", "--model=vit-mu"]

    return edit


def control(**values: Any) -> Callable[[Body], None]:
    def edit(body: Body) -> None:
        body["pairs"] = []
        body["plan"]["others"] = [{**CONTROL, **values}]

    return edit


def settings(**values: Any) -> Callable[[Body], None]:
    return put("plan.baseline", {**CONTROL["settings"], **values})


NAME = "must be at most 64 small letters and digits, with single .:+- between, but got "
TEXT = "must be a text of at most 4096 letters, without control characters"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (old_words(EVIL), "plan.baseline: must begin with train or search, but got 'bench'"),
        (old_words([]), "plan.baseline: must be a list of words, but got []"),
        (old_words([1]), "plan.baseline: must be a list of words, but got [1]"),
        (old_words(["train", "x"]), "plan.baseline: --schedule: must follow train"),
        (
            old_words(["train", "--schedule=constant", "evil"]),
            "plan.baseline: evil: must be a flag of a run; see autoprog search --help",
        ),
        (
            old_words(["train", "--schedule=constant", "--runs-dir=/tmp"]),
            "plan.baseline: --runs-dir: must be a flag of a run; see autoprog search --help",
        ),
        (
            old_words(["train", "--schedule=constant", "--lr", "--compile"]),
            "plan.baseline: --lr: must have a value",
        ),
        (
            old_words(["train", "--schedule=constant", "--compile=evil"]),
            "plan.baseline: --compile: must have no value, but got 'evil'",
        ),
        (put("plan.baseline", EVIL), "plan.baseline: must be a mapping of keys to values"),
        (settings(command="bench"), "plan.baseline.command: must be 'train' or 'search'"),
        (settings(words=EVIL), "plan.baseline.words: unknown key, but got 'words'"),
        (settings(preset="../evil.yaml"), "plan.baseline.preset: must be 'constant', 'linear'"),
        (settings(preset=None), "plan.baseline.preset: must be given, or follows_file"),
        (
            settings(command="search"),
            "plan.baseline.preset: must be given, or follows_file, for a training and for nothing",
        ),
        (settings(preset=None, follows_file=True), "plan.baseline.follows_file: must be false"),
        (
            settings(flags={"timm-script": "evil.py"}),
            "plan.baseline.flags: unknown flag of a train, but got 'timm-script'",
        ),
        (
            settings(flags={"runs-dir": "/tmp"}),
            "plan.baseline.flags: unknown flag of a train, but got 'runs-dir'",
        ),
        (settings(flags={"rule": "pareto"}), "unknown flag of a train, but got 'rule'"),
        (settings(flags={"compile": "x"}), "flags.compile: must be true, but got 'x'"),
        (settings(flags={"compile": False}), "flags.compile: must be true, but got False"),
        (settings(flags={"lr": True}), f"flags.lr: {TEXT}, but got True"),
        (settings(flags={"lr": 1}), f"flags.lr: {TEXT}, but got 1"),
        (settings(flags={"lr": ["1", "--x"]}), f"flags.lr: {TEXT}, but got ['1', '--x']"),
        (settings(flags={"model": "a\x1b[2J"}), f"flags.model: {TEXT}, but got 'a\\x1b[2J'"),
        (settings(flags={"model": "a\nb"}), f"flags.model: {TEXT}, but got 'a\\nb'"),
        (
            settings(flags={"scale": ["0.5", "--debug"]}),
            "flags.scale: must be the texts of two numbers, but got ['0.5', '--debug']",
        ),
        (settings(flags={"scale": "0.5"}), "flags.scale: must be the texts of two numbers"),
        (settings(flags=["--debug"]), "flags: must be a mapping of flags to values"),
        (control(name="x/../../victim"), f"plan.others[0].name: {NAME}"),
        (control(name="../victim"), f"plan.others[0].name: {NAME}"),
        (control(name=".."), f"plan.others[0].name: {NAME}"),
        (control(name="a..b"), f"plan.others[0].name: {NAME}"),
        (control(name="x" * 65), f"plan.others[0].name: {NAME}"),
        (control(name="x\n"), f"plan.others[0].name: {NAME}"),
        (control(name=""), f"plan.others[0].name: {NAME}"),
        (control(name="candidate"), "plan.others: must have names that differ, but got 'candi"),
        (control(about="\x1b]0;x\x07"), "others[0].about: must be a line without control"),
        (
            control(settings={"command": "train", "follows_file": True}),
            "plan.schedule: must be given: ramp follows it",
        ),
        (put("plan.others", [CONTROL] * 301), "plan.others: "),
        (put("plan.seeds", 10**9), "plan.seeds: "),
        (put("plan.first_seed", 10**30), "plan.first_seed: "),
        (put("plan.model", "\x1b[2J"), "plan.model: must be a line without control characters"),
        (put("plan.nproc", 100_000), "plan.nproc: must be a whole number from 1 to 1,024"),
        (put("plan.nproc", 1024), "plan.nproc: must be at most "),
        (put("pairs.0.order", ["x"]), "pairs[0]: must hold the runs of seed 0 that the plan says"),
        (put("pairs.0.seed", 7), "pairs[0]: must hold the runs of seed 0 that the plan says"),
        (put("pairs.0.baseline.wall_seconds", 0), "baseline.wall_seconds: must be above 0"),
        (put("pairs.0.baseline.macs", -1), "pairs[0]"),
        (put("differing", {"a": [{}, {}]}), "differing.a"),
        (put("differing", {"a": ["\x1b[2J", 1]}), "differing.a"),
        (put("verify_id", "\x9b2J"), "verify_id: must be a line without control characters"),
        (put("schema", 4), "schema: must be 3, but got 4"),
        (put("plan", [1]), "plan: must be a mapping of keys to values"),
    ],
)
def test_what_no_verification_of_ours_says_is_one_line_and_starts_nothing(
    command: Command,
    fake: Fake,
    tmp_path: Path,
    verified: Verified,
    edit: Callable[[Body], object],
    said: str,
) -> None:
    folder = verified()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "letter.txt").write_text("dear")
    (folder / "seed-0-x").mkdir()
    poison(folder, edit)
    before = tree(tmp_path)
    code, out, err = command("--resume", "V")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("autoprog: V/verify.json: ")
    assert said in err
    assert err.removesuffix("\n").isprintable()
    assert (fake.started, tree(tmp_path)) == ([], before)


def test_too_many_pairs_are_refused(command: Command, fake: Fake, verified: Verified) -> None:
    folder = verified()
    poison(folder, lambda body: body.update(pairs=body["pairs"] * 3))
    code, _, err = command("--resume", "V")
    assert (code, fake.started) == (2, [])
    assert err == "autoprog: V/verify.json: pairs: must be at most 2, but got 3\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"model": "vit-mu", "lr": "fast"}, "flags: argument --lr: must be a number"),
        ({"model": "vit-mu", "lr": "nan"}, "argument --lr: "),
        ({"model": "no-such"}, "--model: "),
        ({"model": "vit-mu", "threads": "x"}, "baseline: flags: argument --threads: "),
        ({"model": "vit-mu", "epochs": "-5"}, "flags: argument --epochs: must be a number"),
        ({"model": "vit-mu", "data": "nowhere"}, "nowhere"),
        ({"model": "vit-mu", "recipe": "/etc/passwd"}, "/etc/passwd"),
    ],
)
def test_arms_are_checked_as_those_of_a_new_verification(
    command: Command,
    fake: Fake,
    tmp_path: Path,
    verified: Verified,
    flags: dict[str, str],
    said: str,
) -> None:
    folder = verified()
    poison(folder, settings(preset="constant", flags=flags))
    before = tree(tmp_path)
    code, out, err = command("--resume", "V")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("autoprog: V/verify.json: baseline: ")
    assert said in err
    assert (fake.started, tree(tmp_path)) == ([], before)


def test_a_schedule_is_checked_under_its_own_name(
    command: Command, fake: Fake, verified: Verified
) -> None:
    folder = verified()
    poison(folder, control(schedule="stages: [\n", settings={**CONTROL["settings"], **FILE}))
    code, _, err = command("--resume", "V")
    assert (code, fake.started, (folder / "ramp.yaml").exists()) == (2, [], False)
    assert err.startswith("autoprog: V/verify.json: ramp: ramp.yaml: line 2: must be valid YAML")


FILE = {"preset": None, "follows_file": True}


def test_words_of_an_older_file_become_settings(
    command: Command, fake: Fake, verified: Verified
) -> None:
    folder = verified("--schedule", "linear", "--scale", "0.5", "1", "--lengths", "0.75")
    new = load(folder)

    def age(body: Body) -> None:
        body["schema"] = 1
        shared = ["--model=vit-mu", "--epochs=2", "--scale", "0.5", "1.0"]
        shared += ["--device=cpu", "--threads=1", "--workers=0"]
        plan = body["plan"]
        plan["baseline"] = ["train", "--schedule=constant", *shared]
        plan["candidate"] = ["train", "--schedule", "linear", *shared]
        del plan["others"][0]["settings"]
        plan["others"][0]["words"] = [*plan["candidate"], "--epochs=1.5"]

    poison(folder, age)
    assert load(folder).plan.verifies_the_same(new.plan)
    assert load(folder).pairs == new.pairs
    code, _, err = command("--resume", "V")
    assert (code, err) == (0, "")
    assert len(fake.started) == 3
    assert json.loads((folder / "verify.json").read_text())["schema"] == 3
    assert len(load(folder).pairs) == 2


@pytest.mark.parametrize("name", ["cifar10-10k-verify", "cifar10-cpu-tier"])
def test_what_was_published_is_still_read(repository: Path, name: str) -> None:
    found = load(repository / "runs" / "published" / name)
    assert found.verdict is not None
    assert found.plan.candidate.flags["epochs"] in ("12", "120")
    assert found.plan.settings_of(found.plan.others[0].name).flags["cost-fraction"] in (
        "0.15",
        "0.45",
    )


# What reaches outside the folder.


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("cache", "/tmp/elsewhere", "--cache=/tmp/elsewhere"),
        ("log-wandb", True, "--log-wandb"),
        ("pretrained", True, "--pretrained"),
        ("dataset", "wds/x", "--dataset=wds/x"),
        ("data-dir", "pipe:touch x", "'--data-dir=pipe:touch x'"),
        ("train-split", "pipe:touch x", "'--train-split=pipe:touch x'"),
        ("wandb-project", "of/others", "--wandb-project=of/others"),
    ],
)
def test_what_reaches_outside_must_be_asked_for_again(
    command: Command,
    fake: Fake,
    tmp_path: Path,
    verified: Verified,
    flag: str,
    value: Any,
    words: str,
) -> None:
    folder = verified()
    poison(folder, put(f"plan.candidate.flags.{flag}", value))
    before = tree(tmp_path)
    code, out, err = command("--resume", "V")
    assert (code, out, fake.started, tree(tmp_path)) == (2, "", [], before)
    assert err == (
        "autoprog: V/verify.json: its runs reach outside the folder, or into the network, by"
        f" {words}; repeat that with --resume FOLDER if you want it\n"
    )


def test_asked_for_again_it_is_carried_out_and_passed_on_to_a_broken_run(
    command: Command, fake: Fake, tmp_path: Path, verified: Verified
) -> None:
    folder, cache = verified(), str(tmp_path / "images")
    for arm in ("baseline", "candidate"):
        poison(folder, put(f"plan.{arm}.flags.cache", cache))
    code, _, err = command("--resume", "V", "--cache", "elsewhere")
    assert (code, fake.started) == (2, [])
    assert err == (
        "autoprog: --cache: must be as the verification has it, or be left out, with --resume"
        " FOLDER, but got 'elsewhere'\n"
    )
    broken = folder / "seed-1-candidate" / "run-7"
    broken.mkdir(parents=True)
    (broken / "schedule.yaml").write_text("")
    assert command("--resume", "V", "--cache", cache)[0] == 0
    assert ("train", f"--resume={broken}", f"--cache={cache}", "-q") in fake.started
    assert sum(f"--cache={cache}" in words for words in fake.started) == 2
    assert command("--resume", "V")[0] == 0  # complete: there is nothing to allow any more


def test_what_is_kept_to_be_sent_later_needs_no_second_asking(
    command: Command, fake: Fake, verified: Verified
) -> None:
    folder = verified()
    for flag, value in (("log-wandb", True), ("wandb-mode", "offline")):
        poison(folder, put(f"plan.candidate.flags.{flag}", value))
    assert load(folder).plan.candidate.elsewhere == {}
    poison(folder, put("plan.candidate.flags.wandb-mode", "online"))
    assert load(folder).plan.candidate.elsewhere == {"log-wandb": True}


def test_the_own_cache_folder_needs_no_second_asking(
    command: Command, fake: Fake, verified: Verified
) -> None:
    poison(verified(), put("plan.candidate.flags.cache", "auto"))
    assert command("--resume", "V")[0] == 0
    assert len(fake.started) == 2


# Links, and what is not ours.


LINK = "must be no symbolic link, through which files elsewhere would change; remove it"


@pytest.mark.parametrize(
    "name",
    [
        "verify.lock",
        "verify.json",
        "seed-1-baseline",
        "seed-1-baseline-attempt-1.err",
        "seed-1-candidate-attempt-1.out",
        "seed-0-baseline/other",
    ],
)
@pytest.mark.parametrize("to", ["victim", "victim/letter.txt", "victim/new"])
def test_no_link_is_followed(
    command: Command, fake: Fake, tmp_path: Path, verified: Verified, name: str, to: str
) -> None:
    folder = verified()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "letter.txt").write_text((folder / "verify.json").read_text())
    place = folder / name
    if place.is_dir():
        place.rmdir()
    place.unlink(missing_ok=True)
    place.symlink_to(tmp_path / to)
    before = tree(tmp_path)
    code, out, err = command("--resume", "V")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    if name != "verify.json" or to == "victim/letter.txt":
        assert err == f"autoprog: V/{name}: {LINK}\n"
    assert (fake.started, tree(tmp_path)) == ([], before)


def test_a_copy_of_a_schedule_is_no_link(
    command: Command, fake: Fake, tmp_path: Path, verified: Verified
) -> None:
    folder = verified("--schedule", "linear", "--controls", "ramp")
    (tmp_path / "letter.txt").write_text("dear")
    (folder / "ramp-depth.yaml").unlink()
    (folder / "ramp-depth.yaml").symlink_to(tmp_path / "letter.txt")
    code, _, err = command("--resume", "V")
    assert (code, fake.started) == (2, [])
    assert err == f"autoprog: V/ramp-depth.yaml: {LINK}\n"


@pytest.mark.parametrize(
    "name", ["precious.txt", "checkpoints/last.pt", "docs/", "events.jsonl", "run.lock/"]
)
def test_only_a_run_that_never_started_is_removed(
    command: Command, fake: Fake, tmp_path: Path, verified: Verified, name: str
) -> None:
    run = verified() / "seed-1-candidate" / "run-7"
    for file in ("run.yaml", "run.lock", "checkpoints/x", name.rstrip("/") + "/x"):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
    (run / "run.yaml").write_text("")
    if not name.endswith("/"):
        (run / name).rmdir() if (run / name).is_dir() else None
        (run / name).write_text("dear")
    before = tree(run)
    code, _, err = command("--resume", "V")
    assert (code, err.count("\n"), tree(run)) == (1, 1, before)
    holds = name.partition("/")[0]
    assert err == (
        "autoprog: V/seed-1-candidate/run-7: must be a run that was stopped before its start, but"
        f" holds {holds}; move it away, and a new run is made\n"
    )
    assert starts(fake) == []


def test_a_run_that_never_started_is_removed_with_all_that_it_made(
    command: Command, fake: Fake, verified: Verified
) -> None:
    run = verified() / "seed-1-candidate" / "run-7"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("run.lock", "run.yaml", "events.jsonl", ".schedule.yaml.0a1b2c3d.tmp"):
        (run / name).write_text("")
    assert command("--resume", "V")[0] == 0
    assert not run.exists()
    assert [words[0] for words in fake.started] == ["train", "train"]


def test_files_of_earlier_attempts_are_kept(
    command: Command, fake: Fake, verified: Verified
) -> None:
    folder = verified()
    (folder / "seed-1-baseline-attempt-5.err").write_text("dear")
    kept = (folder / "seed-1-candidate-attempt-0.err").read_text()
    assert command("--resume", "V")[0] == 0
    assert (folder / "seed-1-baseline-attempt-5.err").read_text() == "dear"
    assert (folder / "seed-1-candidate-attempt-0.err").read_text() == kept


@pytest.mark.parametrize("name", ["verify.lock", "seed-1-candidate/run/result.json"])
def test_pipes_are_refused_at_once(
    command: Command, fake: Fake, verified: Verified, name: str
) -> None:
    place = verified() / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    code, _, err = command("--resume", "V")
    assert (code in (1, 2), err.count("\n"), fake.started) == (True, 1, [])
    assert "a pipe" in err or "not a regular file" in err or name in err


@pytest.mark.parametrize("text", ['{"seed": NaN}', "[" * 10_000, "{}", "[1]", "\x1b[2J"])
def test_a_damaged_result_is_one_line(
    command: Command, fake: Fake, verified: Verified, text: str
) -> None:
    run = verified() / "seed-1-candidate" / "run"
    run.mkdir(exist_ok=True)
    (run / "result.json").write_text(text)
    code, _, err = command("--resume", "V")
    assert (code, err.count("\n"), fake.started) == (2, 1, [])
    assert err.startswith("autoprog: V/seed-1-candidate/run/result.json: ")


@pytest.mark.parametrize("text", ["cpu\x1b]0;evil\x07", "a\nnon-inferior: evil", "a\u202eevil"])
def test_texts_of_results_are_lines(
    command: Command, fake: Fake, verified: Verified, text: str
) -> None:
    folder = verified()
    poison(folder, put("pairs.0.baseline.device", text))
    for form in ((), ("--markdown",)):
        code, out, err = command("--resume", "V", *form)
        assert (code, out, err.count("\n"), fake.started) == (2, "", 1, [])
        assert "baseline.device: must be a line without control characters" in err
        assert not set(err) & {"\x1b", "\x07", "\u202e"}


# What is published.


def test_only_what_was_published_is_replaced(
    command: Command, tmp_path: Path, fake: Fake, verified: Verified
) -> None:
    folder = verified()
    assert command("--resume", "V")[0] == 0
    for run in folder.glob("seed-*/run"):
        (run / "run.yaml").write_text("a: 1\n")
    public = tmp_path / "public"
    publish_verification(folder, public)
    (public / "notes.md").write_text("dear")
    (public / "seed-of-mine").mkdir()
    publish_verification(folder, public)
    assert (public / "notes.md").read_text() == "dear"
    assert (public / "seed-of-mine").is_dir()
    assert {path.name for path in (public / "seed-0-baseline").iterdir()} == {
        *("run.yaml", "result.json", "curve.jsonl"),
    }
    (public / "seed-0-baseline" / "mine.txt").write_text("dear")
    before = tree(public)
    for refused in (check_publish_folder, lambda target: publish_verification(folder, target)):
        with pytest.raises(ConfigError, match=r"seed-0-baseline: must hold nothing but what was"):
            refused(public)
    assert tree(public) == before


@pytest.mark.parametrize("name", ["seed-0-baseline", "verify.json", "seed-0-baseline/run.yaml"])
def test_nothing_is_published_through_a_link(
    command: Command, tmp_path: Path, fake: Fake, verified: Verified, name: str
) -> None:
    folder, public = verified(), tmp_path / "public"
    assert command("--resume", "V")[0] == 0
    (folder / "seed-0-baseline" / "run" / "run.yaml").write_text("a: 1\n")
    publish_verification(folder, public)
    (public / name).rename(tmp_path / "victim")
    (public / name).symlink_to(tmp_path / "victim")
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=r"must be no symbolic link|run\.yaml"):
        publish_verification(folder, public)
    assert tree(tmp_path) == before


def test_a_link_in_a_run_is_not_published(
    command: Command, tmp_path: Path, fake: Fake, verified: Verified
) -> None:
    from autoprog.errors import RunError

    folder = verified()
    assert command("--resume", "V")[0] == 0
    (tmp_path / "key").write_text("secret")
    (folder / "seed-0-baseline" / "run" / "run.yaml").symlink_to(tmp_path / "key")
    with pytest.raises(RunError, match=r"run\.yaml: cannot be published: a symbolic link"):
        publish_verification(folder, tmp_path / "public")
    assert "secret" not in "".join(tree(tmp_path / "public").values())


def test_no_script_is_run(tmp_path: Path, command: Command, fake: Fake, verified: Verified) -> None:
    """The words of an older version, which named a script."""
    folder = verified()
    (tmp_path / "evil.py").write_text("open('pwned', 'w').write('x')\n")
    poison(folder, old_words([*EVIL, "--data", "data"]))
    assert command("--resume", "V") == (
        2,
        "",
        "autoprog: V/verify.json: plan.baseline: must begin with train or search, but got 'bench'\n",
    )
    assert fake.started == []
    assert not (tmp_path / "pwned").exists()
