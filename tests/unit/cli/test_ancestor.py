import pytest

from raydsinfer.cli.ancestor import modern_arguments


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--version", "--version"),
        ("generate m in.txt out.txt --max_new_tokens 5", "generate m in.txt out.txt --max-new-tokens 5"),
        ("generate --name a/b --batch_size=8 in out", "generate a/b --batch-size=8 in out"),
        ("generate in out --name=a/b", "generate a/b in out"),
        ("generate --checkpoint_path /models/x --name a/b in out", "generate /models/x in out"),
        ("generate m i o --use_kernel", "generate m i o --kernel-inject"),
        ("generate m i o --use_kernel=False --use_cache=true", "generate m i o --no-kernel-inject --use-cache"),
        ("generate m i o --use_kernel true --use_cache false", "generate m i o --kernel-inject --no-use-cache"),
        ("generate m i o --ds_inference=no", "generate m i o --no-ds-inference"),
        ("generate m in_put.txt out_put.txt --hf_home /a_b", "generate m in_put.txt out_put.txt --hf-home /a_b"),
        ("run_on_every_node download_model a/b /d_x --hf_home /h", "fetch a/b /d_x --hf-home /h"),
        ("run_on_every_node download_model --name a/b", "fetch a/b"),
        ("nodes run --gpu_only -- mount --name x_y --o_p", "nodes run --gpu-only -- mount --name x_y --o_p"),
        ("generate -- --name x_y", "generate -- --name x_y"),
    ],
)
def test_old_words_become_new_ones(old: str, new: str) -> None:
    assert modern_arguments(old.split()) == new.split()
