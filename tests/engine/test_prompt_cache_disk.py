"""The prompt cache on disk: what survives, what is refused, and who may write."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from pensieved.engine.worker.prompt_cache import keeper
from pensieved.engine.worker.prompt_cache.entry import as_tokens
from pensieved.engine.worker.prompt_cache.file import DamagedError, file_name, read_file, write_file
from pensieved.engine.worker.prompt_cache.folder import LOCK, Folder
from pensieved.engine.worker.prompt_cache.policy import Policy
from support.batches import MODELS, Machine, plain_model, text

SMALL = Policy(taken=4, kept=4, lasting=4, stopped=16, fetched=6, waste=8, filed=32, refiled=8)


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def plain():
    return plain_model()


@pytest.fixture
def engines(tmp_path):
    """Makes engines on one folder; `end` is a peaceful end."""
    made = []

    class Engines:
        folder = tmp_path / "prompts" / "model+one"

        def start(self, model, **options):
            machine = Machine(model, folder=options.pop("folder", self.folder), policy=SMALL, **options)
            made.append(machine)
            return machine

        def end(self, machine):
            made.remove(machine)
            machine.close()

        def files(self):
            return sorted(self.folder.parent.rglob("*.kv"))

    yield Engines()
    for machine in made:
        machine.close()


def stored(engines, model, *prompts, **options):
    """Files with what was computed for `prompts`."""
    machine = engines.start(model, **options)
    for prompt in prompts:
        machine.ask(prompt, max_tokens=1)
    engines.end(machine)
    return engines.files()


def test_a_prompt_survives_the_engine(engines, model):
    expected = Machine(model, budget=0).ask(text(90, 1))[0].tokens
    assert stored(engines, model, text(90, 1))
    machine = engines.start(model)
    assert machine.keeper.stats.disk > 0
    (answered,) = machine.ask(text(90, 1))
    assert answered.recalled.cached == 89
    assert answered.tokens == expected


def test_a_conversation_survives_with_all_its_turns(engines, plain):
    machine = engines.start(plain)
    prompt = text(60, 1)
    for turn in range(3):
        (answered,) = machine.ask(prompt, max_tokens=12)
        prompt = [*prompt, *answered.tokens, *text(20, turn)]
    machine.ask(prompt, max_tokens=1)
    engines.end(machine)
    machine = engines.start(plain)
    (answered,) = machine.ask([*prompt, 1, 2, 3])
    assert answered.recalled.cached >= len(prompt) - 21
    assert answered.tokens == Machine(plain, budget=0).ask([*prompt, 1, 2, 3])[0].tokens


def test_short_prompts_are_written_when_they_come_again(engines, plain):
    machine = engines.start(plain)
    machine.ask(text(20, 1), max_tokens=1)
    machine.disk.flush()
    assert not engines.files()
    machine.ask(text(20, 1), max_tokens=1)
    machine.disk.flush()
    assert engines.files()


def test_what_is_to_be_written_is_fetched_a_little_at_a_time(engines, plain, monkeypatch):
    monkeypatch.setattr(keeper, "MOMENT", 0.0)
    machine = engines.start(plain)
    machine.ask(text(90, 1), max_tokens=1)
    turns = 1
    while machine.keeper.write_on():
        assert not engines.files()
        turns += 1
    assert turns > 1
    machine.disk.flush()
    machine.keeper.shed(0)
    assert machine.cached(text(90, 1)) == 89


def test_what_is_forgotten_while_it_is_fetched_is_not_written(engines, plain, monkeypatch):
    monkeypatch.setattr(keeper, "MOMENT", 0.0)
    machine = engines.start(plain)
    machine.ask(text(90, 1), max_tokens=1)
    assert machine.keeper.write_on()
    machine.keeper._forget(machine.disk._exports[0].entry)
    machine.disk.flush()
    assert not engines.files()


def test_what_is_on_disk_may_leave_memory(engines, model):
    machine = engines.start(model)
    machine.ask(text(90, 1), max_tokens=1)
    machine.disk.flush()
    machine.keeper.shed(0)
    assert machine.cached(text(90, 1)) == 89


def test_half_precision_comes_back_as_it_was(engines):
    model = plain_model()
    model.set_dtype(mx.bfloat16)
    stored(engines, model, text(90, 1))
    machine = engines.start(model)
    expected = Machine(model, budget=0).ask(text(90, 1))[0].tokens
    (answered,) = machine.ask(text(90, 1))
    assert (answered.recalled.cached, answered.tokens) == (89, expected)


def test_a_large_entry_is_not_read_for_its_first_few_tokens(engines, plain):
    stored(engines, plain, text(200, 1))
    machine = engines.start(plain)
    (answered,) = machine.ask([*text(200, 1)[:20], *text(40, 2)])
    assert (answered.recalled.cached, answered.recalled.matched) == (0, 20)
    assert (
        machine.cached([*text(200, 1)[:20], *text(40, 2)]) == 59
    )  # held beside it, with those tokens once more
    assert machine.cached([*text(200, 1)[:150], 1, 2, 3]) == 150


def test_nothing_is_read_that_memory_has_no_room_for(engines, plain):
    stored(engines, plain, text(90, 1))
    machine = engines.start(plain, budget=1000)
    (answered,) = machine.ask(text(90, 1))
    assert (answered.recalled.cached, answered.recalled.matched) == (0, 89)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


DAMAGES = {
    "mark": lambda path: flip(path, 0.0),
    "header": lambda path: flip(path, 40 / path.stat().st_size),
    "middle": lambda path: flip(path, 0.5),
    "end": lambda path: flip(path, 1.0),
    "short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "very short": lambda path: os.truncate(path, 10),
    "empty": lambda path: os.truncate(path, 0),
    "long": lambda path: path.write_bytes(path.read_bytes() + b"\0" * 64),
    "gone": lambda path: path.unlink(),
    "another name": lambda path: path.rename(path.with_name(f"{'0' * 32}.kv")),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("when", ["between engines", "behind an engine's back"])
def test_a_damaged_file_is_dropped_and_never_served(engines, plain, damage, when, capfd):
    (path,) = stored(engines, plain, text(90, 1))
    machine = engines.start(plain) if when.startswith("behind") else None
    DAMAGES[damage](path)
    machine = machine or engines.start(plain)
    (answered,) = machine.ask(text(90, 1))
    assert answered.recalled.cached == 0
    assert answered.tokens == Machine(plain, budget=0).ask(text(90, 1))[0].tokens
    machine.disk.flush()
    assert [found.name for found in engines.files() if found.stem != path.stem] in (
        [],
        ["0" * 32 + ".kv"] if when.startswith("behind") else [],
    )
    assert machine.cached(text(90, 1)) == 89  # computed anew, and known again


def test_what_continues_a_damaged_entry_goes_with_it(engines, plain):
    first, second, third = stored(
        engines, plain, text(90, 1), [*text(90, 1), *text(50, 2)], [*text(90, 1), *text(50, 3)]
    )
    sizes = {path: path.stat().st_size for path in (first, second, third)}
    flip(max(sizes, key=sizes.get), 0.5)
    machine = engines.start(plain)
    assert machine.cached([*text(90, 1), *text(50, 2), 1]) == 0
    machine.disk.flush()
    assert machine.cached([*text(90, 1), *text(50, 3), 1]) == 90


def test_a_file_of_another_prompt_is_noticed(engines, plain):
    one, other = stored(engines, plain, text(90, 1), text(90, 2))
    shutil.copy(one, other)
    machine = engines.start(plain)
    for seed in (1, 2):
        (answered,) = machine.ask(text(90, seed))
        assert answered.tokens == Machine(plain, budget=0).ask(text(90, seed))[0].tokens


def test_a_file_of_another_model_is_noticed(engines, plain):
    stored(engines, plain, text(90, 1))
    machine = engines.start(plain, fingerprint="two")
    assert machine.cached(text(90, 1)) == 0


def test_entries_of_the_model_as_it_was_are_collected_and_those_of_others_stay(engines, plain):
    root = engines.folder.parent
    stored(engines, plain, text(90, 1), folder=root / "model+before", fingerprint="before")
    stored(engines, plain, text(90, 1), folder=root / "other+one", fingerprint="other")
    stored(engines, plain, text(90, 1))
    assert {path.parent.name for path in engines.files()} == {"other+one", "model+one"}


def test_the_quota_holds_at_every_write_and_the_oldest_goes(engines, plain):
    (path,) = stored(engines, plain, text(90, 0))
    quota = 4 * path.stat().st_size
    machine = engines.start(plain, quota=quota)
    for seed in range(1, 8):
        machine.ask(text(90, seed), max_tokens=1)
        machine.disk.flush()
        assert sum(path.stat().st_size for path in engines.files()) <= quota
        time.sleep(0.01)  # two files of one instant have no order
    assert machine.keeper.stats.disk <= quota
    machine.keeper.shed(0)
    assert machine.cached(text(90, 7)) == 89
    assert machine.cached(text(90, 1)) == 0


def test_only_the_owner_can_read_what_people_said(engines, plain):
    (path,) = stored(engines, plain, text(90, 1))
    modes = [each.stat().st_mode & 0o777 for each in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def test_the_quota_holds_at_start(engines, plain):
    files = stored(engines, plain, *(text(90, seed) for seed in range(5)))
    engines.start(plain, quota=2 * files[0].stat().st_size + 100)
    assert len(engines.files()) == 2


def test_what_never_fits_is_not_written(engines, plain):
    assert not stored(engines, plain, text(90, 1), quota=1000)


def test_what_others_continue_is_not_deleted_before_them(engines, plain):
    stored(engines, plain, text(90, 1), [*text(90, 1), *text(50, 2)])
    time.sleep(0.01)
    sizes = {path: path.stat().st_size for path in engines.files()}
    engines.start(plain, quota=max(sizes.values()) + 100)
    assert engines.files() == [max(sizes, key=sizes.get)]


def test_entries_that_nobody_used_expire(engines, plain):
    old, new = stored(engines, plain, text(90, 1), text(90, 2))
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    machine = engines.start(plain, ttl=1800)
    assert engines.files() == [new]
    os.utime(new, (hour_ago, hour_ago))
    which = 1 if file_name(as_tokens(text(90, 1)[:-1]), 0) == new.stem else 2
    assert machine.cached(text(90, which)) == 89
    assert new.stat().st_mtime > hour_ago + 1800  # used


def test_two_engines_on_one_folder(engines, plain):
    first = engines.start(plain)
    first.ask(text(90, 1), max_tokens=1)
    first.disk.flush()
    second = engines.start(plain)
    assert second.cached(text(90, 1)) == 89  # reads what the other wrote
    second.ask(text(90, 2), max_tokens=1)
    second.disk.flush()
    assert len(engines.files()) == 1  # and writes nothing
    first.ask(text(90, 3), max_tokens=1)
    engines.end(first)
    assert second.cached(text(90, 3)) == 89  # from now on it is the one
    second.ask(text(90, 4), max_tokens=1)
    second.disk.flush()
    assert len(engines.files()) == 3


def test_the_writer_may_delete_what_the_other_was_about_to_read(engines, plain):
    first = engines.start(plain)
    first.ask(text(90, 1), max_tokens=1)
    first.disk.flush()
    second = engines.start(plain)
    for path in engines.files():
        path.unlink()
    (answered,) = second.ask(text(90, 1))
    assert answered.recalled.cached == 0
    assert answered.tokens == Machine(plain, budget=0).ask(text(90, 1))[0].tokens


def test_a_folder_that_cannot_be_written_to(engines, plain, capfd):
    engines.folder.parent.parent.mkdir(exist_ok=True)
    engines.folder.parent.write_text("in the way")
    machine = engines.start(plain)
    machine.ask(text(90, 1), max_tokens=1)
    assert machine.cached(text(90, 1)) == 89
    assert "cannot be written to" in capfd.readouterr().err


def test_a_full_disk(engines, plain, monkeypatch, capfd):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pensieved.engine.worker.prompt_cache.disk.write_file", full)
    machine = engines.start(plain)
    machine.ask(text(90, 1), max_tokens=1)
    machine.disk.flush()
    assert "No space left" in capfd.readouterr().err
    assert machine.cached(text(90, 1)) == 89
    machine.keeper.shed(0)
    assert machine.cached(text(90, 1)) == 0


def test_a_lock_that_is_held_elsewhere_is_only_waited_for_by_trying(tmp_path):
    one, other = (Folder(tmp_path / "prompts" / "a+b", 1000, 0.0) for _ in range(2))
    assert one.claim()
    assert not one.claim()  # it has it already
    assert not other.claim()
    one.release()
    assert other.claim()
    other.release()
    assert (tmp_path / "prompts" / LOCK).exists()


def taking():
    return lambda raw, _piece: raw.copy()


def test_every_bit_of_a_file_counts_whichever_thread_reads_it(tmp_path):
    tokens = as_tokens(range(7))
    path = tmp_path / f"{file_name(tokens, 3)}.kv"
    arrays = [np.arange(5, dtype=np.float32), np.zeros((0, 3), np.float32), np.array(7, np.int32)]
    kinds = ["float32", "float32", "int32"]
    write_file(path, fingerprint="f", tokens=tokens, start=3, form=b"x", arrays=arrays, kinds=kinds)
    _, read = read_file(path, tokens, 3, taking)
    assert [each.tobytes() for each in read] == [each.tobytes() for each in arrays]
    whole = path.read_bytes()
    padding = {place for place in range(len(whole)) if not whole[place]}
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            _, found = read_file(path, tokens, 3, taking)
        except DamagedError:
            continue
        assert place in padding
        assert [each.tobytes() for each in found] == [each.tobytes() for each in arrays]


def test_two_threads_read_a_file_each_into_memory_of_its_own(tmp_path):
    tokens = as_tokens(range(7))
    path = tmp_path / f"{file_name(tokens, 0)}.kv"
    arrays = [np.full(2**19, number, np.float32) for number in range(9)]
    kinds = ["float32"] * len(arrays)
    write_file(path, fingerprint="f", tokens=tokens, start=0, form=b"", arrays=arrays, kinds=kinds)
    readers, both = {}, threading.Barrier(2)

    def take(raw, _piece):
        if threading.get_ident() not in readers:
            both.wait(timeout=30)
        readers.setdefault(threading.get_ident(), set()).add(raw.ctypes.data)
        return raw.copy()

    _, read = read_file(path, tokens, 0, lambda: take)
    assert [each.tobytes() for each in read] == [each.tobytes() for each in arrays]
    (one,), (other,) = readers.values()
    assert one != other


# --- an engine that is killed while it writes --------------------------------------------------------------


def write_for_ever(folder):
    """Write ever new entries; run in a process of its own, which is killed."""
    machine = Machine(plain_model(), folder=Path(folder), policy=SMALL)
    for seed in range(10**6):
        machine.ask(text(300, seed), max_tokens=1)


@pytest.mark.slow
def test_killed_while_writing(engines, plain):
    root = Path(__file__).parents[1]
    program = (
        f"import sys; sys.path[:0] = [{str(root)!r}, {str(Path(__file__).parent)!r}]; "
        f"import test_prompt_cache_disk as t; t.write_for_ever({str(engines.folder)!r})"
    )
    for _ in range(2):
        before = len(engines.files())
        child = subprocess.Popen([sys.executable, "-c", program])
        try:
            deadline = time.monotonic() + 60
            while len(engines.files()) < before + 3 or not list(engines.folder.glob("*.tmp")):
                assert time.monotonic() < deadline
                assert child.poll() is None
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        machine = engines.start(plain)
        assert not list(engines.folder.glob("*.tmp"))
        for seed in range(2):
            (answered,) = machine.ask(text(300, seed))
            assert answered.recalled.cached == 299
            assert answered.tokens == Machine(plain, budget=0).ask(text(300, seed))[0].tokens
        engines.end(machine)
