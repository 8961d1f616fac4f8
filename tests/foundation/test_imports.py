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


def test_mlx_lm_is_imported_with_the_names_of_what_an_engine_does_not_use(tmp_path):
    code = """
import sys
from pensieved.imports import libraries_by_name
with libraries_by_name():
    import mlx_lm.utils
print([name for name in sys.modules if name.partition(".")[0] in ("transformers", "huggingface_hub")])
try:
    mlx_lm.utils._load_tokenizer.__globals__["AutoTokenizer"]()
except RuntimeError as error:
    print(error)
import transformers, huggingface_hub
print(transformers.__version__, transformers.AutoTokenizer.__module__, huggingface_hub.snapshot_download.__name__)
"""
    done = run(code, tmp_path)
    absent, refusal, real = done.stdout.splitlines()
    assert absent == "[]", done.stderr
    assert "has not imported" in refusal
    assert real.split()[1:] == ["transformers.models.auto.tokenization_auto", "snapshot_download"]


def test_libraries_that_are_there_already_are_not_replaced(tmp_path):
    code = "import huggingface_hub as real; from pensieved.imports import libraries_by_name\n"
    code += "with libraries_by_name():\n import huggingface_hub as again\n"
    done = run(code + "import huggingface_hub as after; print(real is again is after)", tmp_path)
    assert done.stdout.strip() == "True", done.stderr


def test_what_is_imported_already_stays(tmp_path):
    (tmp_path / "torch.py").write_text("")
    assert run("import torch; " + ASK + "import torch", tmp_path).returncode == 0


def test_what_is_left_out_is_there_again_afterwards(tmp_path):
    code = """
from pensieved.imports import without
import json
with without("json", "colorsys"):
    import json
    try:
        import colorsys
    except ImportError:
        print("absent")
import colorsys
print("back")
"""
    assert run(code, tmp_path).stdout.split() == ["absent", "back"]


def test_what_was_imported_without_ssl_is_whole_for_whoever_comes_later(tmp_path):
    code = """
from pensieved.imports import without
with without("ssl"):
    import urllib.request as without_ssl
    from http import client
    print(hasattr(client, "HTTPSConnection"), hasattr(without_ssl, "HTTPSHandler"))
from urllib.request import HTTPSHandler
from http.client import HTTPSConnection
print(without_ssl.Request("http://127.0.0.1/").host)
"""
    assert run(code, tmp_path).stdout.split() == ["False", "False", "127.0.0.1"]


DIGESTS = """
import hashlib, hmac
print(hashlib.sha256(b"abc").hexdigest(), hmac.new(b"key", b"abc", "sha256").hexdigest())
"""


def test_a_daemon_goes_without_openssl_and_hashes_all_the_same(tmp_path):
    code = """
import sys
from pensieved.cli.app import application
from pensieved.imports import OPENSSL, without
application(["run"])
with without(*OPENSSL):
    import pensieved.cli.front
"""
    done = run(code + DIGESTS + "print('_ssl' in sys.modules, '_hashlib' in sys.modules)", tmp_path)
    *digests, ssl, openssl = done.stdout.split()
    assert [ssl, openssl] == ["False", "False"], done.stderr
    assert digests == run("import _hashlib" + DIGESTS, tmp_path).stdout.split()


def test_openssl_stays_where_cpython_has_no_digests_of_its_own(tmp_path):
    code = """
import pensieved.imports as imports
imports._INSTEAD["_hashlib"] = ("_no_such_digest",)
with imports.without(*imports.OPENSSL):
    import hashlib
print("_hashlib" in __import__("sys").modules)
"""
    assert run(code, tmp_path).stdout.strip() == "True"
