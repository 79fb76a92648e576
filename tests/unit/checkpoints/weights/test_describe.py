from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raydsinfer.checkpoints.tensors import WHOLE, Slice, StoredTensor
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.errors import CheckpointError, CheckpointNotFoundError, CorruptCheckpointError
from tests.weights import ONE, TWO, write_file, write_presharded, write_ranks, write_shards


def test_says_which_tensor_is_where(tmp_path: Path) -> None:
    write_shards(tmp_path, "safetensors")
    description = describe(tmp_path)
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert (description.directory, description.form, description.tp_size) == (tmp_path, "safetensors", None)
    assert dict(description.files) == {name: (tmp_path / name).stat().st_size for name in names}
    a, b = description.tensors["a"], description.tensors["b.c"]
    assert (a.dtype, a.shape, a.num_bytes) == ("float32", (2, 3), 24)
    assert (b.dtype, b.shape, b.num_bytes) == ("float16", (4,), 8)
    assert description.num_bytes == 32
    piece = b.piece_of(0)
    assert piece.slice == WHOLE
    assert piece.tensor == StoredTensor(name="b.c", file=names[1], dtype="float16", shape=(4,))


def test_forms_in_the_order_of_preference(tmp_path: Path) -> None:
    write_presharded(tmp_path, [[{"l": torch.ones(2)}] * 2], TWO)
    assert describe(tmp_path).form == "deepspeed"
    write_file(tmp_path / "pytorch_model.bin", ONE)
    assert describe(tmp_path).form == "bin"
    write_file(tmp_path / "model.safetensors", ONE)
    assert describe(tmp_path).form == "safetensors"
    write_ranks(tmp_path, ONE, {"a": (Slice(0, ((0, 1),)), Slice(0, ((1, 2),)))}, 2)
    assert describe(tmp_path).form == "ranks"


@pytest.mark.parametrize("old", [False, True])
def test_names_of_one_storage_are_tied(tmp_path: Path, old: bool) -> None:
    tensor = torch.ones(4, 4)
    state = {"head": tensor, "embed": tensor, "row": tensor[0], "turned": tensor.t(), "twin": tensor.clone()}
    write_file(tmp_path / "pytorch_model.bin", state, _use_new_zipfile_serialization=not old)
    description = describe(tmp_path)
    assert description.tied == (frozenset({"head", "embed"}),)
    assert description.num_bytes == 64 * 3 + 16  # head and embed count once


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="gone: no such directory"):
        describe(tmp_path / "gone")


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weights: found nothing\. Expected model\.safetensors or"):
        describe(tmp_path)


def test_a_directory_without_weights_says_what_it_has(tmp_path: Path) -> None:
    for name in ["config.json", *(f"notes-{i}.txt" for i in range(9))]:
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=r"no weights: found config\.json, notes-0\.txt.* and 2 more\."):
        describe(tmp_path)


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("model.gguf", r"llama\.cpp"),
        ("flax_model.msgpack", "Flax"),
        ("tf_model.h5", "TensorFlow"),
        ("mp_rank_00_model_states.pt", "a training program"),
    ],
)
def test_weights_for_other_programs_are_recognised(tmp_path: Path, name: str, program: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=rf"found {name}, weights for {program}.*save_pretrained"):
        describe(tmp_path)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_without_their_index(tmp_path: Path, suffix: str) -> None:
    index = write_shards(tmp_path, suffix)
    index.unlink()
    with pytest.raises(
        CorruptCheckpointError, match=rf"2 shards like .*-00001-of-.* but not their index, {index.name}"
    ):
        describe(tmp_path)


def test_a_checkpoint_of_many_files_is_described_without_reading_them(tmp_path: Path) -> None:
    """Four sparse files of 16 GiB: they could not be read within the time that this test has."""
    for number in range(4):
        name = f"model-0000{number + 1}-of-00004.safetensors"
        header = f'{{"t{number}":{{"dtype":"F16","shape":[8589934592],"data_offsets":[0,17179869184]}}}}'.encode()
        with (tmp_path / name).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + 2**34)
    weight_map = {f"t{i}": f"model-0000{i + 1}-of-00004.safetensors" for i in range(4)}
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {weight_map}}}'.replace("'", '"'))
    assert describe(tmp_path).num_bytes == 4 * 2**34


def test_safetensors_are_described_without_torch(tmp_path: Path) -> None:
    write_shards(tmp_path, "safetensors")
    code = (
        "import sys; from pathlib import Path; from raydsinfer.checkpoints.weights.describe import describe\n"
        "from raydsinfer.checkpoints.weights.reader import TensorReader\n"
        "print(sorted(TensorReader(describe(Path(sys.argv[1])))), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['a', 'b.c'] False"
