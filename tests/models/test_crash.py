"""Killed at any instant, the cache holds the old state or the new one, and nothing is left behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from pensieved.errors import TemporaryError
from pensieved.models.preparation import PreparationCancelledError, _job, prepare
from pensieved.models.progress import PrepareStage
from pensieved.models.wire import encode_line
from support import tiny

pytestmark = pytest.mark.slow  # each prepares in a process of its own

REPO = "tiny/llama"


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".toml"}


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def gone(process):
    """Reaped, or only to be reaped by its new parent."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # just now
        return True


def preparers(parent=None):
    children = psutil.Process(parent).children(recursive=True)
    return [c for c in children if "pensieved.models.preparer" in " ".join(_command(c))]


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def run_and_kill(request, delay):
    """Start a preparer as the daemon does, and kill it after `delay` seconds unless it was faster."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pensieved.models.preparer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with process:
        process.stdin.write(encode_line(_job(request)))
        process.stdin.flush()
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode


def test_twenty_kills_at_random_instants(hub, preparing):
    hub.commit(REPO, tiny.llama_files(dtype="float16", num_hidden_layers=8))
    hub.faults.chunk_delay = 0.005
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    started = time.monotonic()
    whole = contents(preparing(REPO, quantization="4bit").path)
    usual = [time.monotonic() - started] * 2  # of whole preparations, and of odd rounds
    killed = 0
    for round_ in range(20):
        present = preparing.find(REPO, quantization="4bit")
        if present is not None and round_ % 2:
            damage(present.path, chance)
        elif round_ % 2 == 0:
            forget(preparing)
        request = preparing.request(REPO, quantization="4bit", verify="full")
        started = time.monotonic()
        if run_and_kill(request, chance.uniform(0.4, 1.0) * usual[round_ % 2]) == -signal.SIGKILL:
            killed += 1
        else:  # faster than thought, since the machine has less to do now
            usual[round_ % 2] = time.monotonic() - started
        found = preparing.find(REPO, quantization="4bit", verify="full")
        assert found is None or contents(found.path) == whole, seed
    assert killed >= 5, f"only {killed} runs were killed; seed {seed}"
    assert contents(preparing(REPO, quantization="4bit", verify="full").path) == whole, seed
    assert not list((preparing.cache / "staging").iterdir())


def damage(folder, chance):
    victim = chance.choice([p for p in folder.iterdir() if p.suffix in {".safetensors", ".json"}])
    data = bytearray(victim.read_bytes())
    data[chance.randrange(len(data))] ^= 1
    victim.write_bytes(data)


def forget(preparing):
    shutil.rmtree(preparing.cache / "models", ignore_errors=True)
    shutil.rmtree(preparing.cache.parent / "hf", ignore_errors=True)


def test_the_preparer_dies_with_its_parent(hub, preparing):
    hub.commit(REPO, tiny.llama_files())
    hub.faults.chunk_delay = 600.0  # no byte and so no progress: a broken pipe is not what ends it
    program = (
        "import threading, pathlib\n"
        "from pensieved.models.preparation import *\n"
        "from pensieved.models.source import parse_source\n"
        f"request = PrepareRequest(source=parse_source({REPO!r}), cache_dir=pathlib.Path({str(preparing.cache)!r}))\n"
        "prepare(request, lambda p: print(p.stage.value, flush=True), threading.Event())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert any(line.strip() == "downloading" for line in parent.stdout)
        wait_until(lambda: hub.bytes_sent("model.safetensors"))
        time.sleep(0.5)  # for the progress of those bytes to be told
        (child,) = preparers(parent.pid)
        parent.kill()
    wait_until(lambda: gone(child))


def test_cancel_kills_the_preparer_and_the_download_goes_on_later(hub, preparing):
    files = tiny.llama_files()
    hub.commit(REPO, files)
    hub.faults.chunk_delay = 0.1  # eight seconds for all of it, of which half a one is waited for
    cancel = threading.Event()

    def on_progress(progress):
        if progress.stage is PrepareStage.DOWNLOADING and progress.done > 100_000:
            cancel.set()

    with pytest.raises(PreparationCancelledError):
        prepare(preparing.request(REPO), on_progress, cancel)
    assert preparers() == []
    hub.faults.chunk_delay = 0.0
    preparing(REPO)
    assert hub.fetched("model.safetensors")[-1].range is not None


def test_a_killed_preparer_is_a_temporary_error(hub, preparing):
    hub.commit(REPO, tiny.llama_files())
    hub.faults.chunk_delay = 0.5

    def on_progress(progress):
        if progress.stage is PrepareStage.DOWNLOADING:
            for child in preparers():
                child.kill()

    with pytest.raises(TemporaryError, match="was killed by signal 9"):
        prepare(preparing.request(REPO), on_progress, threading.Event())


def test_two_at_once_prepare_once(hub, preparing):
    hub.commit(REPO, tiny.llama_files(dtype="float16"))
    hub.faults.chunk_delay = 1.0  # the first one cannot be ready before the other has come
    paths, notes = [], []

    def on_note(note):
        notes.append(note)
        if "another process is preparing" in note:
            hub.faults.chunk_delay = 0.0

    def run():
        paths.append(prepare(preparing.request(REPO), lambda _: None, threading.Event(), on_note).path)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths[0] == paths[1]
    assert len(hub.fetched("model.safetensors")) == 1
    assert any("another process is preparing" in note for note in notes)


def test_what_a_crash_left_in_staging_is_collected(hub, preparing):
    hub.commit(REPO, tiny.llama_files())
    key = preparing.request(REPO).key
    dead = preparing.cache / "staging" / f"{key}+dead" / "prepared"
    tiny.write_files(dead, {"model.safetensors": b"half"})
    preparing(REPO)
    assert not dead.exists()
