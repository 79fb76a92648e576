"""Golden files: what was written comes back; what is of another model, damaged or no golden file is refused."""

import json

import pytest

from raydsinfer.engines.verification.canaries import Canary
from raydsinfer.engines.verification.golden import golden_content, read_golden, write_golden
from raydsinfer.engines.verification.reference import Reference, ReferenceStep
from raydsinfer.errors import GoldenFileError, OutputError

IDENTITY = {"model": "abc", "transformers": "5.0", "dtype": "float16", "vocabulary": "259", "canaries": "def"}
CANARIES = [Canary(name="single", token_ids=(5,), num_new_tokens=1)]
REFERENCES = [
    Reference(token_ids=(3,), steps=(ReferenceStep(best_ids=(3, 4), best_logprobs=(-0.125, -2.5), rounding=0.01),))
]


@pytest.fixture
def golden(tmp_path):
    write_golden(tmp_path / "golden.json", golden_content(IDENTITY, REFERENCES))
    return tmp_path / "golden.json"


def test_comes_back_as_it_was_written(golden):
    assert read_golden(golden, IDENTITY, CANARIES) == REFERENCES
    assert [path.name for path in golden.parent.iterdir()] == ["golden.json"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model": "xyz"}, "the content of the model's files"),
        ({"transformers": "4.0"}, "the version of transformers (5.0 instead of 4.0)"),
        ({"dtype": "bfloat16"}, "dtype (float16 instead of bfloat16)"),
        ({"vocabulary": "300"}, "the size of the vocabulary (259 instead of 300)"),
        ({"canaries": "other"}, "max_tokens"),
    ],
)
def test_of_another_model_or_version(golden, changed, says):
    with pytest.raises(GoldenFileError) as caught:
        read_golden(golden, {**IDENTITY, **changed}, CANARIES)
    assert says in str(caught.value)
    assert "--write-golden" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b"7", b'{"format": 2}', b'{"format": 1}', b'{"format": 1, "identity": 3}',
     b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_golden_file(golden, content):
    golden.write_bytes(content)
    with pytest.raises(GoldenFileError):
        read_golden(golden, IDENTITY, CANARIES)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.pop("references"),
        lambda c: c.update(references=[]),
        lambda c: c.update(references=[7]),
        lambda c: c["references"][0].update(token_ids=[3, 4]),
        lambda c: c["references"][0].update(steps=[]),
        lambda c: c["references"][0]["steps"][0].update(best_ids=[]),
        lambda c: c["references"][0]["steps"][0].update(best_logprobs=[-1.0]),
        lambda c: c["references"][0]["steps"][0].update(rounding=float("inf")),
        lambda c: c["references"][0]["steps"][0].update(rounding=-1),
        lambda c: c["references"][0]["steps"][0].update(best_ids=["a", "b"]),
        lambda c: c["references"][0]["steps"][0].pop("rounding"),
    ],
)
def test_damaged(golden, damage):
    content = json.loads(golden.read_text())
    damage(content)
    golden.write_text(json.dumps(content))
    with pytest.raises(GoldenFileError, match="is damaged"):
        read_golden(golden, IDENTITY, CANARIES)


def test_not_there_or_a_directory(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(GoldenFileError, match="cannot be read"):
            read_golden(path, IDENTITY, CANARIES)


def test_far_too_large(golden):
    with golden.open("r+b") as file:
        file.truncate(2**30)
    with pytest.raises(GoldenFileError, match="far too large"):
        read_golden(golden, IDENTITY, CANARIES)


def test_cannot_be_written(tmp_path):
    with pytest.raises(OutputError):
        write_golden(tmp_path / "none" / "golden.json", {})
