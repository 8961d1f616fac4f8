"""The cache's folder: publishing, reading, removing, and what is collected."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from pensieved.errors import PermanentError
from pensieved.models.cache import Lease, ModelCache

KEY = "model-auto-0123456789"


@pytest.fixture
def cache(tmp_path):
    return ModelCache(tmp_path / "cache")


def publish(cache, text, key=KEY):
    with cache.writer(key):
        prepared = cache.new_staging(key) / "prepared"
        prepared.mkdir()
        (prepared / "file").write_text(text)
        return cache.publish(key, prepared)


def test_publishing_replaces_atomically(cache):
    assert cache.current(KEY) is None
    first = publish(cache, "one")
    assert cache.current(KEY) == first
    second = publish(cache, "two")
    assert cache.current(KEY) == second
    assert not first.exists()


def test_a_folder_that_is_read_stays(cache):
    first = publish(cache, "one")
    lease = Lease(first)
    second = publish(cache, "two")
    assert (first / "file").read_text() == "one"
    with pytest.raises(PermanentError, match="in use"):
        cache.remove(KEY)
    assert cache.prune(set()) == []
    lease.release()
    assert cache.collect_garbage() == [first]
    assert not first.exists()
    assert cache.current(KEY) == second


def test_a_lease_dies_with_its_process(cache):
    folder = publish(cache, "one")
    program = f"from pathlib import Path; from pensieved.models.cache import Lease; lease = Lease(Path({str(folder)!r})); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        reader.stdout.readline()
        with pytest.raises(PermanentError, match="in use"):
            cache.remove(KEY)
        reader.kill()
    cache.remove(KEY)
    assert cache.entries() == []


def test_remove_refuses_while_it_is_prepared(cache):
    publish(cache, "one")
    errors = []
    with cache.writer(KEY):
        thread = threading.Thread(target=lambda: errors.append(_error(cache)))
        thread.start()
        thread.join()
    assert "being prepared" in str(errors[0])
    cache.remove(KEY)
    assert cache.current(KEY) is None


def _error(cache):
    try:
        cache.remove(KEY)
    except PermanentError as error:
        return error
    return None


def test_one_writer_and_the_other_waits(cache):
    waited = threading.Event()
    entered = threading.Event()

    def second():
        with cache.writer(KEY, waited.set):
            entered.set()

    with cache.writer(KEY):
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(20)
        assert not entered.is_set()
    thread.join(20)
    assert entered.is_set()


def test_prune_keeps_what_it_is_told_and_a_dry_run_everything(cache):
    publish(cache, "one")
    publish(cache, "two", "other-auto-0")
    (cache.root / "staging" / "gone-auto-1+x").mkdir()
    assert [e.key for e in cache.prune({KEY}, dry_run=True)] == ["other-auto-0"]
    assert len(cache.entries()) == 2
    assert (cache.root / "staging" / "gone-auto-1+x").exists()
    cache.prune({KEY})
    assert [e.key for e in cache.entries()] == [KEY]
    assert not list((cache.root / "staging").iterdir())


def test_an_unfinished_publication_is_no_model(cache):
    """Killed between the two renames: the folder is there, but nothing points to it."""
    folder = publish(cache, "one")
    (folder.parent / "current").unlink()
    assert cache.current(KEY) is None
    assert publish(cache, "two").exists()
    assert [p.name for p in folder.parent.iterdir() if p.name != "current"] == [cache.current(KEY).name]
