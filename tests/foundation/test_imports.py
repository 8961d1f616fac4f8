"""What importing leaves out, in processes of their own: what a process has imported stays."""

import os
import subprocess
import sys

ASK = "from pensieved.imports import without_frameworks; without_frameworks(); "


def run(code, path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), *sys.path])}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_transformers_takes_pytorch_for_absent(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("__version__ = '9.9'; raise SystemExit('imported')")
    asked = "from transformers.utils.import_utils import is_torch_available as there; print(there())"
    assert run("import torch", tmp_path).stderr.strip() == "imported"
    without = run(ASK + asked, tmp_path)
    assert without.stdout.strip() == "False", without.stderr


def test_what_is_imported_already_stays(tmp_path):
    (tmp_path / "torch.py").write_text("")
    assert run("import torch; " + ASK + "import torch", tmp_path).returncode == 0
