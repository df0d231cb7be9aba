"""What `make demo` tells at its end."""

import os
import subprocess
from pathlib import Path

from demo.demo import setup


def test_its_last_lines_make_its_commands_work_in_any_folder(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.touch()
    lines = setup(Path(os.path.relpath(kubeconfig)), "127.0.0.1")
    script = f'{lines}\ntest -f "$KUBECONFIG" && asr --help >help && type -t kubectl'
    done = subprocess.run(
        ["bash", "-O", "expand_aliases", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PATH": "/usr/bin:/bin"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "alias\n", "")
