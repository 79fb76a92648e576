"""What the documentation takes from the code is all there, and its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from raydsinfer import config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["EngineConfig", "GenerationConfig", "GangConfig", "RecoveryConfig", "EchoFault"])
def test_each_setting_has_a_row_with_its_words(hooks: Any, name: str) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert f"<!-- settings: {name} -->" in page
    rows = hooks.on_page_markdown(f"<!-- settings: {name} -->").splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(getattr(config, name).model_fields)
    assert all(len(row.split(" | ")[-1]) > 10 for row in rows)


def test_types_ranges_and_defaults_are_in_the_row(hooks: Any) -> None:
    table = hooks.settings_table("GenerationConfig")
    assert "| `top_p` | `float`, > 0, ≤ 1 | `1.0` | Sample among" in table
    assert "| `seed` | `int` or `None`, ≥ 0, < 2⁶³ | `None` | Makes sampling" in table


def test_flags_of_the_command_line_are_in_a_table(hooks: Any) -> None:
    table = hooks.on_page_markdown("<!-- flags: generate -->")
    assert "| `MODEL` | " in table
    assert "| `--max-new-tokens` | Most tokens to generate. [default: 50] |" in table
    assert "| `--do-sample`, `--no-do-sample` | " in table
    assert "[dim]" not in table


def test_a_command_within_another_has_its_table(hooks: Any) -> None:
    table = hooks.on_page_markdown("<!-- flags: nodes run -->")
    assert "| `COMMAND` | After --: command and arguments" in table
    assert "| `--timeout` | " in table


def test_every_flag_of_the_ancestor_is_in_the_porting_table() -> None:
    page = (ROOT / "docs" / "porting.md").read_text()
    flags = """name num_worker_groups num_gpus_per_worker_group hf_home checkpoint_path save_mp_checkpoint_path
    batch_size dtype ds_inference use_kernel replace_method max_tokens max_new_tokens use_meta_tensor use_cache
    reshard_checkpoint_path"""
    missing = [flag for flag in flags.split() if f"\n| `{flag}` | " not in page]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []
