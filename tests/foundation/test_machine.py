"""Memory as this process may use it."""

from __future__ import annotations

import psutil
import pytest

from pensieved import machine

GIB = 1024**3


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """A container's files, of either version, in place of this machine's."""

    def make(version, limit, used, droppable):
        v2 = version == 2
        names = ("memory.max", "memory.current", "inactive_file") if v2 else (
            "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")  # fmt: skip
        (tmp_path / names[0]).write_text(f"{limit}\n")
        (tmp_path / names[1]).write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text(f"anon 5\n{names[2]} {droppable}\nother 7\n")
        monkeypatch.setattr(machine, "_CGROUPS", ((tmp_path, *names),))

    return make


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts_and_files_that_can_be_dropped_do_not(cgroup, version):
    cgroup(version, GIB // 2, GIB // 4, GIB // 8)
    assert machine.total_memory() == GIB // 2
    assert machine.available_memory() == GIB // 2 - GIB // 8


def test_a_container_that_is_full_has_nothing_left(cgroup):
    cgroup(2, GIB, GIB + 1, 0)
    assert machine.available_memory() == 0


@pytest.mark.parametrize(("version", "limit"), [(2, "max"), (1, 2**63 - 4096)])
def test_without_a_limit_it_is_the_machines(cgroup, version, limit):
    cgroup(version, limit, 5, 0)
    assert machine.total_memory() == psutil.virtual_memory().total
    assert 0 < machine.available_memory() <= machine.total_memory()


def test_here_it_says_something_that_can_be():
    assert 0 < machine.available_memory() <= machine.total_memory()
    assert machine.pressure() in machine.Pressure
