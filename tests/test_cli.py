"""The command line: instant help, one-line errors, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fdlab.cli import main

HEAVY = ("torch", "numpy", "scipy", "sklearn", "matplotlib", "pandas", "papermill")


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_imports_nothing_heavy():
    code = "import sys, fdlab.cli; fdlab.cli._build_parser().format_help(); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(found.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--method", "fdckmd", "--direction", "audio2image"], "did you mean 'fdcmkd'"),
        (["train", "--method", "kd", "--student", "image"], "needs a teacher"),
        (["train"], "--direction"),
        (["train", "--direction", "audio2image", "--device", "tpu"], "auto, cpu, cuda"),
        (["train", "--direction", "audio2image", "--device", "cuda:7"], "cuda:7"),
        (["train", "--student", "image", "-o", "x"], "expected name=value"),
        (["train", "--student", "image", "-o", "x=1"], "none has no options"),
        (["reproduce", "-p", "no_such=1"], "unknown parameter 'no_such'"),
        (["reproduce", "--suite", "core,all"], "unknown suite"),
        (["data", "prepare", "digit"], "did you mean 'digits'"),
        (["runs", "show", "zzz"], "expected exactly one"),
        (["publish", "--preset", "paper"], "is not finished"),
        (["nonsense"], "invalid choice"),
        (["runs"], "required"),
    ],
)
def test_an_error_is_one_line_with_exit_code_two(capsys, digits, arguments, message):
    code, _, errors = run(capsys, *arguments, *(["--preset", "smoke"] * (arguments[0] == "train")))
    assert code == 2 and message in errors
    assert len(errors.strip().splitlines()) == 1 and "Traceback" not in errors


def test_debug_shows_where_an_error_comes_from():
    with pytest.raises(Exception, match="unknown data set"):
        main(["data", "prepare", "digit", "--debug"])


def test_train_prints_every_rule_and_finds_the_run_again(capsys, digits):
    ask = ["train", "--preset", "smoke", "--student", "text", "--seed", "4"]
    code, first, _ = run(capsys, *ask)
    assert code == 0 and "validation" in first and "published" in first and "n = 67" in first
    assert run(capsys, *ask)[1] == first
    fingerprint = first.strip().rsplit("/", 1)[1]
    code, shown, _ = run(capsys, "runs", "show", fingerprint[:8])
    assert code == 0 and json.loads(shown)["config"]["seed"] == 4
    assert fingerprint in run(capsys, "runs", "list")[1]
    code, again, _ = run(capsys, *ask[:-1], "5", "--base", fingerprint[:8])
    name = again.strip().rsplit("/", 1)[1]
    made = json.loads(run(capsys, "runs", "show", name)[1])["config"]
    assert code == 0 and (made["seed"], made["base"]["seed"]) == (5, 4)
    code, _, error = run(capsys, *ask, "--base", "nothing")
    assert code == 2 and "0 runs start with 'nothing'" in error
    for base, said in (([], "there is none"), (["--base", fingerprint[:8]], "has none")):
        code, _, error = run(capsys, *ask, "--blend", "0.5", *base)
        assert code == 2 and "--blend goes with a --base that has adapters" in error
        assert said in error


def test_lists_name_everything(capsys):
    from fdlab.data import DATASETS
    from fdlab.methods import METHODS
    from fdlab.models import MODELS

    for command, table in (("methods", METHODS), ("models", MODELS)):
        code, out, _ = run(capsys, command)
        assert code == 0 and all(name in out for name in table)
    code, out, _ = run(capsys, "data", "list")
    assert code == 0 and all(name in out for name in DATASETS)


def test_data_is_prepared_verified_and_its_damage_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    ask = ["planted", "-o", "events=40"]
    code, _, errors = run(capsys, "data", "verify", *ask)
    assert code == 2 and "fdlab data prepare planted" in errors
    assert run(capsys, "data", "prepare", *ask)[0] == 0
    assert "5 files" in run(capsys, "data", "verify", *ask)[1]
    next(tmp_path.rglob("second.npy")).write_bytes(b"short")
    code, _, errors = run(capsys, "data", "verify", *ask)
    assert code == 2 and "second.npy does not match its checksum" in errors


def test_doctor_names_a_missing_part_with_its_remedy(capsys, monkeypatch):
    monkeypatch.setattr("fdlab.core.doctor.OPTIONAL", {"speech": ("no_such_module", "speaks")})
    code, out, _ = run(capsys, "doctor")
    assert code == 0 and '-e ".[speech]"' in out
    assert "torch" in out and "device" in out and "memory" in out
