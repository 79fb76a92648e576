import json
from importlib.resources import files

from raydsinfer.config import GenerationConfig

ROWS = [json.loads(line) for line in (files("raydsinfer.demo") / "prompts.jsonl").read_text().splitlines()]


def test_there_are_enough_and_all_differ() -> None:
    assert len(ROWS) >= 50
    assert [row["id"] for row in ROWS] == list(range(1, len(ROWS) + 1))
    assert len({json.dumps(row.get("prompt") or row.get("messages")) for row in ROWS}) == len(ROWS)


def test_there_are_prompts_conversations_and_settings_of_their_own() -> None:
    assert sum("prompt" in row for row in ROWS) >= 20
    assert sum("messages" in row for row in ROWS) >= 20
    assert sum("generation" in row for row in ROWS) >= 5
    for row in ROWS:
        assert ("prompt" in row) != ("messages" in row)
        GenerationConfig(**row.get("generation", {}))
