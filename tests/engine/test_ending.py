import signal

import pytest

from pensieved.engine import process
from pensieved.engine.blame import FROM_OUTSIDE, OWN_DOING
from pensieved.engine.process import Ending
from pensieved.engine.protocol import Fault


def ending(returncode=0, *, hung=False, asked=False, out_of_memory=False, fault=None):
    return Ending(returncode=returncode, hung=hung, asked=asked, out_of_memory=out_of_memory, fault=fault)


@pytest.mark.parametrize(
    ("end", "weight", "says"),
    [
        (ending(-signal.SIGKILL), FROM_OUTSIDE, "SIGKILL"),
        (ending(-signal.SIGTERM), FROM_OUTSIDE, "SIGTERM"),
        (ending(-signal.SIGSEGV), OWN_DOING, "SIGSEGV"),
        (ending(-signal.SIGABRT), OWN_DOING, "SIGABRT"),
        (ending(-signal.SIGBUS), OWN_DOING, "SIGBUS"),
        (ending(-signal.SIGKILL, hung=True), OWN_DOING, "no sign of life"),
        (ending(-signal.SIGKILL, out_of_memory=True), OWN_DOING, "out of memory"),
        (ending(-signal.SIGKILL, fault=Fault("Metal is gone")), OWN_DOING, "Metal is gone"),
        (ending(3), OWN_DOING, "code 3"),
        (ending(0), OWN_DOING, "code 0"),
    ],
)
def test_what_a_death_counts_and_says(end, weight, says):
    assert end.weight == weight
    assert says in end.reason


def test_the_kernels_count_of_oom_kills_is_read(tmp_path, monkeypatch):
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("pgfault 12\noom_kill 3\nnr_x 1\n")
    monkeypatch.setattr(process, "Path", lambda _: vmstat)
    assert process.oom_kills() == 3
    vmstat.unlink()
    assert process.oom_kills() == 0
