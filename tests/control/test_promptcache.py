"""What the engine is told to keep, and under which name."""

import dataclasses

import msgspec
import pytest

from pensieved.control import promptcache
from pensieved.control.promptcache import fingerprint, prompt_cache_wish
from pensieved.control.residence import Target
from pensieved.models.manifest import ModelFile
from pensieved.settings.load import load_settings
from support.front import manifest

FILES = tuple(
    ModelFile(path=path, size=1, sha256=path * 3, mtime_ns=1, origin="built")
    for path in ("config.json", "model.safetensors", "tokenizer.json")
)
MADE = msgspec.structs.replace(manifest(), files=FILES)


@dataclasses.dataclass
class Prepared:
    manifest: object = MADE


def wish(tmp_path, made=MADE, **settings):
    return prompt_cache_wish(load_settings({"cache": {"dir": str(tmp_path)}, **settings}), Prepared(made))


def test_the_settings_are_handed_on(tmp_path):
    plain = wish(tmp_path)
    assert (plain.memory, plain.disk, plain.ttl) == (None, 4 * 2**30, 7 * 86400.0)
    set_ = wish(tmp_path, prompt_cache={"memory": "2GiB", "disk": 0, "ttl": "1h"})
    assert (set_.memory, set_.disk, set_.ttl) == (2 * 2**30, 0, 3600.0)
    assert plain.folder == set_.folder
    assert plain.folder.startswith(str(tmp_path / "prompts"))


@pytest.mark.parametrize("number", range(3))
def test_any_other_file_is_another_fingerprint_of_the_same_model(tmp_path, number):
    files = list(FILES)
    files[number] = msgspec.structs.replace(files[number], sha256="other")
    one, other = wish(tmp_path), wish(tmp_path, msgspec.structs.replace(MADE, files=tuple(files)))
    assert one.fingerprint != other.fingerprint
    assert one.folder != other.folder
    assert one.folder.partition("+")[0] == other.folder.partition("+")[0]


def test_what_else_changes_it(monkeypatch):
    known = {
        fingerprint(MADE, "auto"),
        fingerprint(MADE, "cpu"),
        fingerprint(msgspec.structs.replace(MADE, effective_quantization="4bit"), "auto"),
        fingerprint(msgspec.structs.replace(MADE, backend="cuda"), "auto"),
    }
    monkeypatch.setattr(promptcache, "version", lambda _: "0")
    assert len({*known, fingerprint(MADE, "auto")}) == 5


def test_the_order_of_files_and_when_they_were_made_do_not():
    moved = tuple(msgspec.structs.replace(file, mtime_ns=2) for file in reversed(FILES))
    assert fingerprint(MADE, "auto") == fingerprint(msgspec.structs.replace(MADE, files=moved), "auto")


@pytest.mark.parametrize("change", [{"memory": "1GiB"}, {"disk": "1GiB"}, {"ttl": "1d"}])
def test_another_size_is_another_engine(change):
    assert Target.of(load_settings({"prompt_cache": change})) != Target.of(load_settings({}))


def test_what_is_explained_is_no_business_of_the_engine():
    assert Target.of(load_settings({"prompt_cache": {"explain": True}})) == Target.of(load_settings({}))
