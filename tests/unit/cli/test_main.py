"""Everything that a command line can get wrong before Ray starts, through the real command."""

from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner

from raydsinfer import __version__
from raydsinfer.cli.ancestor import modern_arguments
from raydsinfer.cli.main import app
from raydsinfer.config import EngineConfig, GenerationConfig, RecoveryConfig


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, modern_arguments(words), catch_exceptions=False)
    assert not ray.is_initialized()
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "id": 1}\n')
    return str(path)


def test_version() -> None:
    assert run("--version") == (0, f"raydsinfer {__version__}\n", "")


def test_help_has_a_flag_for_each_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, text, _ = run("generate", "--help")
    assert code == 0
    hidden = {"replace_method", "echo_fault", "echo_delay_s"}
    for name in {*GenerationConfig.model_fields, *EngineConfig.model_fields, *RecoveryConfig.model_fields} - hidden:
        assert f"--{name.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--dtype flaot16", "Did you mean 'float16'?"),
        ("--dtype int8 --use_kernel", "DeepSpeed refuses int8"),
        ("--save_mp_checkpoint_path /x --no-use-meta-tensor", "use_meta_tensor=False cannot be used"),
        ("--replace_method full", "replace_method='full'"),
        ("--temperature -1", "temperature=-1.0 cannot be used"),
        ("--temprature 1", "--temperature"),
        ("--max_new_tokens 5000", "max_new_tokens=5000 cannot be used"),
        ("--batch_size 0", "--batch-size=0"),
        ("--use_kernel --no-ds-inference", "kernel_inject"),
        ("--num_gpus_per_worker_group 2 --cpu-ranks 2", "to stand without"),
        ("--echo-fault nope", "a JSON object"),
        ("--format xml", "one of parquet, jsonl, csv, txt"),
        ("--prompt-column text", "the data has: 'prompt', 'id'"),
        ("--keep-columns id,nr", "'nr'"),
        ("--keep-columns output", "'output'"),
        ("--rejects r.txt", "a .jsonl, .csv or .parquet file"),
        ("--retry-failed", "to stand with --resume"),
        ("--resume --duplicates twice", "'once' or 'each'"),
        ("--on-error skip", "'row' or 'raise'"),
        ("--max-error-rate 1.5", "less than 1"),
    ],
)
def test_wrong_settings_are_usage_errors(prompts: str, tmp_path: Path, flags: str, says: str) -> None:
    words = ["generate", "--name", "any", prompts, f"{tmp_path}/o.jsonl", "--engine", "echo", *flags.split()]
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert says in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("/no/model PROMPTS OUT/o.jsonl", 2, "/no/model: no such directory"),
        ("OUT PROMPTS OUT/o.jsonl", 2, "has no config.json"),
        ("any OUT/none.txt OUT/o.jsonl --engine echo", 2, "no such file or directory"),
        ("any PROMPTS PROMPTS --engine echo", 1, "it exists"),
        ("any PROMPTS OUT/o.jsonl --engine echo --rejects OUT/./o.jsonl", 2, "another place than OUTPUT"),
        ("any PROMPTS PROMPTS --engine echo --dry-run", 1, "it exists"),
        ("any PROMPTS OUT/o.xyz --engine echo", 1, "its suffix names no format"),
        ("any PROMPTS /proc/o.jsonl --engine echo", 1, "cannot write /proc/o.jsonl"),
    ],
)
def test_wrong_paths(prompts: str, tmp_path: Path, words: str, code: int, says: str) -> None:
    given = words.replace("PROMPTS", prompts).replace("OUT", str(tmp_path)).split()
    got, out, err = run("generate", *given)
    assert (got, out) == (code, "")
    assert says in " ".join(err.split())
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_debug_shows_the_traceback(prompts: str) -> None:
    assert "Traceback" in run("generate", "any", prompts, prompts, "--engine", "echo", "--debug")[2]


def test_no_rows_need_no_cluster(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("id,prompt\n")
    code, _, err = run("generate", "any", f"{tmp_path}/p.csv", f"{tmp_path}/o.csv", "--engine", "echo")
    assert (code, (tmp_path / "o.csv").read_text()) == (
        0,
        "id,prompt,output,finish_reason,num_prompt_tokens,num_output_tokens,error\n",
    )
    assert "rows" in err
