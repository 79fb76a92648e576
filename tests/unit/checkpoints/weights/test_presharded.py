from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydsinfer.checkpoints.tensors import WHOLE
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.errors import CorruptCheckpointError, UnsupportedError
from tests.weights import ONE, TWO, write_file, write_presharded

HALF = torch.float16
CUT = [
    [{"l.w": torch.full((4, 3 + r), float(r), dtype=HALF)} for r in (0, 1)],
    [{"l.b": torch.ones(3, dtype=HALF)}] * 2,
    [{}, {}],
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    embed = torch.ones(5, 4, dtype=HALF)
    write_presharded(tmp_path, CUT, {"embed": embed, "head": embed})
    return tmp_path


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "ds_inference_config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_says_which_rank_has_what(directory: Path) -> None:
    description = describe(directory)
    assert (description.form, description.tp_size, len(description.files)) == ("deepspeed", 2, 7)
    assert description.tied == (frozenset({"embed", "head"}),)
    w, embed = description.tensors["l.w"], description.tensors["embed"]
    assert [(p.tensor.file, p.tensor.shape, p.slice) for p in w.pieces] == [
        ("tp_00_00.pt", (4, 3), None),
        ("tp_01_00.pt", (4, 4), None),
    ]
    assert (w.dtype, w.shape, w.num_bytes) == ("float16", (4, 3), 24 + 32)
    assert [p.tensor.file for p in description.tensors["l.b"].pieces] == ["tp_00_01.pt", "tp_01_01.pt"]
    assert [(p.tensor.file, p.slice) for p in embed.pieces] == [("non-tp.pt", WHOLE)]
    assert description.num_bytes == 40 + 56 + 12


def test_older_configurations_say_mp_size(directory: Path) -> None:
    edit(directory, lambda content: content.update(mp_size=content.pop("tp_size")))
    assert describe(directory).tp_size == 2


def test_a_plain_list_of_files_is_whole(tmp_path: Path) -> None:
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    for name, state in zip(names, (ONE, TWO), strict=True):
        write_file(tmp_path / name, state)
    (tmp_path / "ds_inference_config.json").write_text(
        json.dumps({"type": "BLOOM", "checkpoints": names, "version": 1.0})
    )
    description = describe(tmp_path)
    assert (description.form, description.tp_size) == ("bin", None)
    assert sorted(description.tensors) == ["a", "b.c"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("checkpoints"), "not a readable list of files"),
        (lambda c: c["checkpoints"].pop("tp"), "not a readable list of files"),
        (lambda c: c.update(checkpoints="all"), "not a readable list of files"),
        (lambda c: c["checkpoints"].update(tp=[]), "0 files for 2 ranks"),
        (lambda c: c["checkpoints"].update(tp=[1, 2]), "no list of file names"),
        (lambda c: c.update(tp_size=4), "6 files for 4 ranks"),
        (lambda c: c.update(tp_size="2"), "6 files for 2 ranks"),
        (lambda c: c.update(tp_size=0), "6 files for 0 ranks"),
        (lambda c: c.update(tp_size=3), r"the files of rank 2 lack tensor l\.w"),
        (lambda c: c["checkpoints"]["tp"].append("../../x.pt"), "for 2 ranks"),
        (lambda c: c["checkpoints"].update(non_tp=["../x.pt"]), r"outside the model's directory: \.\./x\.pt"),
        (lambda c: c["checkpoints"].update(non_tp=["gone.pt"]), r"names a missing file: gone\.pt"),
        (lambda c: c["checkpoints"]["non_tp"].append("tp_00_01.pt"), r"tensor l\.b is both in tp_00_01\.pt and"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    directory: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    edit(directory, change)
    with pytest.raises(CorruptCheckpointError, match=rf"ds_inference_config\.json: .*{says}"):
        describe(directory)


def test_each_rank_may_have_its_own_copy_of_what_is_whole(directory: Path) -> None:
    edit(directory, lambda content: content.update(checkpoints=["non-tp.pt"] * 2 + content["checkpoints"]["tp"]))
    embed = describe(directory).tensors["embed"]
    assert [(piece.tensor.file, piece.slice) for piece in embed.pieces] == [("non-tp.pt", None)] * 2


def test_a_file_that_was_cut_short(directory: Path) -> None:
    path = directory / "tp_01_00.pt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptCheckpointError, match=r"tp_01_00\.pt: truncated or unreadable"):
        describe(directory)


def test_a_rank_that_lacks_what_others_have(directory: Path) -> None:
    write_file(directory / "tp_01_01.pt", {})
    with pytest.raises(CorruptCheckpointError, match=r"files of rank 1 lack tensor l\.b"):
        describe(directory)


def test_a_tensor_twice_in_the_files_of_a_rank(directory: Path) -> None:
    write_file(directory / "tp_01_01.pt", {**CUT[0][1], **CUT[1][1]})
    with pytest.raises(CorruptCheckpointError, match=r"tensor l\.w is both in tp_01_00\.pt and in tp_01_01\.pt"):
        describe(directory)


def test_ranks_of_different_dtypes(directory: Path) -> None:
    write_file(directory / "tp_01_01.pt", {"l.b": torch.ones(3)})
    with pytest.raises(CorruptCheckpointError, match=r"tensor l\.b differs in its dtype.*float16, float32"):
        describe(directory)


def test_weights_that_were_quantised_are_refused_by_name(directory: Path) -> None:
    edit(directory, lambda content: content.update(dtype="int8"))
    with pytest.raises(UnsupportedError, match=r"quantised its weights to int8.*bloom-deepspeed-inference-fp16"):
        describe(directory)


def test_quantised_tensors_are_refused(directory: Path) -> None:
    write_file(directory / "tp_00_01.pt", {"l.b": [torch.ones(3, dtype=torch.int8), torch.ones(1)]})
    with pytest.raises(CorruptCheckpointError, match=r"tp_00_01\.pt: l\.b is no tensor but list: DeepSpeed's int8"):
        describe(directory)


def test_cut_weights_that_carry_code_are_refused(directory: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return exec, ("raise SystemExit",)

    write_file(directory / "tp_00_01.pt", {"l.b": Evil()})
    with pytest.raises(CorruptCheckpointError, match=r"tp_00_01\.pt: refused: it carries code.*exec"):
        describe(directory)
