import pytest

from raydsinfer.planning.command_lines import without_arguments


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("python t.py", "python t.py"),
        ("python t.py --token hf_x", "python t.py …"),
        ("/opt/venv/bin/python3.11 -u -X dev -Wignore t.py hf_x", "/opt/venv/bin/python3.11 t.py …"),
        ("python -m package.train --token hf_x", "python -m package.train …"),
        ("python -c login('hf_x')", "python …"),
        ("python -uc 'login(\"hf_x\")'", "python …"),
        ("python - hf_x", "python …"),
        ("HF_TOKEN=hf_x env OTHER='hf_x hf_x' python t.py", "python t.py …"),
        ("HF_TOKEN='hf_x hf_x python t.py", "…"),
        ("python t.py --prompt don't hf_x", "python t.py …"),
        ("(interactive_shell) python -m ipykernel_launcher -f hf_x", "python -m ipykernel_launcher …"),
        ("/bin/raydsinfer generate https://u:hf_x@host/m", "/bin/raydsinfer …"),
        ("bash run.sh hf_x", "bash run.sh …"),
        ("python https://u:hf_x@host/t.py?sig=hf_x", "python https://host/t.py"),
        ("export HF_TOKEN=hf_x.sh && python t.py", "export …"),
        ("", ""),
    ],
)
def test_only_program_and_script_are_shown(command: str, shown: str) -> None:
    assert without_arguments(command) == shown
