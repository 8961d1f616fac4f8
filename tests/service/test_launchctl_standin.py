"""The stand-in itself: what the other tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from support.daemon import ended, wait_for
from support.launchd import LAUNCHCTL

pytestmark = pytest.mark.slow  # agents are processes

LABEL = "org.example.job"
UID = os.getuid()
GUI = f"gui/{UID}"
TARGET = f"{GUI}/{LABEL}"


def alive(pid):
    try:
        return not ended(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def gone(launchd):
    return launchd.run("print", TARGET).returncode == 113


def test_bootstrap_runs_the_program_with_launchds_bare_environment(launchd, job, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_SHELL", "x")
    job.plist(EnvironmentVariables={"HF_HOME": "/models"}, SoftResourceLimits={"NumberOfFiles": 123})
    assert launchd.run("bootstrap", GUI, str(job.path)).returncode == 0
    start = job.wait_starts(1)
    env = start["env"]
    assert env["PATH"] == "/usr/bin:/bin:/usr/sbin:/sbin"
    assert env["HF_HOME"] == "/models"
    assert env["XPC_SERVICE_NAME"] == LABEL
    assert "SECRET_OF_THE_SHELL" not in env
    assert start["folder"] == "/"
    assert start["files"] == 123
    assert start["group"] == start["pid"]
    assert job.output.read_text() == "hello\n"


def test_print_list_and_print_disabled_have_their_real_shape(launchd, job):
    launchd.run("bootstrap", GUI, str(job.plist()))
    pid = job.wait_starts(1)["pid"]
    printed = launchd.run("print", TARGET).stdout
    assert printed.startswith(f"{TARGET} = {{\n\tactive count = 1\n\tpath = {job.path}\n")
    assert f"\n\tpid = {pid}\n" in printed
    assert "\n\tstate = running\n" in printed
    assert "\n\t\tstate = active\n" in printed  # the trap for readers that do not look at the tabs
    assert "\n\tlast exit code = (never exited)\n" in printed
    assert f"{pid}\t0\t{LABEL}" in launchd.run("list").stdout
    assert f'\t"PID" = {pid};' in launchd.run("list", LABEL).stdout
    launchd.run("disable", f"{GUI}/org.example.off")
    assert '\t\t"org.example.off" => disabled\n' in launchd.run("print-disabled", GUI).stdout
    assert launchd.run("print", GUI).stdout.startswith(f"{GUI} = {{\n\ttype = login\n")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["print", TARGET], 113),
        (["print", f"gui/{UID + 1}"], 112),
        (["print", "nonsense"], 64),
        (["no-such-verb"], 64),
        (["bootout", TARGET], 3),
        (["kickstart", TARGET], 113),
        (["list", LABEL], 113),
        (["start", LABEL], 3),
        (["enable", TARGET], 0),
    ],
)
def test_exit_codes_for_what_is_not_there(launchd, arguments, code):
    assert launchd.run(*arguments).returncode == code


def test_a_crash_is_restarted_and_a_clean_end_is_not(launchd, job):
    launchd.run("bootstrap", GUI, str(job.plist(KeepAlive={"SuccessfulExit": False}, ThrottleInterval=10)))
    os.kill(job.wait_starts(1)["pid"], signal.SIGKILL)
    second = job.wait_starts(2)
    assert "\tlast terminating signal = Killed: 9\n" in launchd.run("print", TARGET).stdout
    assert launchd.run("stop", LABEL).returncode == 0
    wait_for(lambda: not alive(second["pid"]), 30, "its end")
    wait_for(lambda: "\tstate = not running\n" in launchd.run("print", TARGET).stdout, 30, "not running")
    assert len(job.starts) == 2
    assert launchd.run("start", LABEL).returncode == 0
    job.wait_starts(3)
    assert "\truns = 3\n" in launchd.run("print", TARGET).stdout


def test_a_program_that_fails_at_once_is_throttled(launchd, job):
    launchd.configure(throttle_scale=1.0)
    launchd.run(
        "bootstrap", GUI, str(job.plist("exit=3", KeepAlive={"SuccessfulExit": False}, ThrottleInterval=3600))
    )
    job.wait_starts(1)
    wait_for(lambda: "\tstate = spawn scheduled\n" in launchd.run("print", TARGET).stdout, 30, "the schedule")
    assert "\tlast exit code = 3: No such process\n" in launchd.run("print", TARGET).stdout
    assert len(job.starts) == 1


def test_a_missing_program_is_78(launchd, job):
    job.plist(Program="/nowhere/at/all")
    launchd.run("bootstrap", GUI, str(job.path))
    assert "\tlast exit code = 78: EX_CONFIG\n" in launchd.run("print", TARGET).stdout


def test_bootout_kills_what_does_not_end(launchd, job):
    launchd.run("bootstrap", GUI, str(job.plist("deaf", ExitTimeOut=1)))
    pid = job.wait_starts(1)["pid"]
    launchd.run("bootout", TARGET)
    wait_for(lambda: gone(launchd), 30, "the end")
    assert not alive(pid)


def test_bootout_drains_and_bootstrap_answers_5_meanwhile(launchd, job, tmp_path):
    launchd.configure(drain=300)
    gate = tmp_path / "gate"
    launchd.run("bootstrap", GUI, str(job.plist(f"until={gate}", ExitTimeOut=300)))
    pid = job.wait_starts(1)["pid"]
    assert launchd.run("bootout", TARGET).returncode == 36
    assert "\tstate = SIGTERMed\n" in launchd.run("print", TARGET).stdout
    assert launchd.run("bootstrap", GUI, str(job.path)).returncode == 5
    gate.touch()
    wait_for(lambda: gone(launchd), 30, "the end")
    assert not alive(pid)
    assert launchd.run("bootstrap", GUI, str(job.path)).returncode == 5
    launchd.configure(drain=0)
    assert launchd.run("bootstrap", GUI, str(job.path)).returncode == 0
    assert launchd.run("bootstrap", GUI, str(job.path)).returncode == 5


def test_kickstart_k_replaces_the_process_by_what_was_bootstrapped(launchd, job):
    launchd.run("bootstrap", GUI, str(job.plist()))
    first = job.wait_starts(1)["pid"]
    job.plist(EnvironmentVariables={"NEW": "1"})
    assert launchd.run("kickstart", TARGET).returncode == 37
    assert launchd.run("kickstart", "-k", TARGET).returncode == 0
    second = job.wait_starts(2)
    assert not alive(first)
    assert "NEW" not in second["env"]


def test_disabled_labels_and_login_items(launchd, job):
    job.plist()
    launchd.run("disable", TARGET)
    assert launchd.run("bootstrap", GUI, str(job.path)).returncode == 119
    launchd.configure(disabled_code=5)
    assert launchd.run("bootstrap", GUI, str(job.path)).returncode == 5
    launchd.run("enable", TARGET)
    launchd.store.switch_off(LABEL)
    assert launchd.run("bootstrap", GUI, str(job.path)).returncode == 119


@pytest.mark.parametrize("code", [112, 125])
def test_without_a_graphical_session_there_is_only_the_user_domain(launchd, job, code):
    launchd.configure(graphical=False, no_session_code=code)
    assert launchd.run("print", GUI).returncode == code
    assert launchd.run("bootstrap", GUI, str(job.plist())).returncode == code
    assert launchd.run("bootstrap", f"user/{UID}", str(job.path)).returncode == 134
    job.plist(LimitLoadToSessionType="Background")
    assert launchd.run("bootstrap", f"user/{UID}", str(job.path)).returncode == 0


@pytest.mark.parametrize(
    ("content", "mode", "code"),
    [
        (b"no plist", 0o644, 109),
        (b'<plist version="1.0"><dict/></plist>', 0o644, 110),
        (b'<plist version="1.0"><dict><key>Label</key><string>x</string></dict></plist>', 0o644, 111),
        (b"", 0o666, 122),
    ],
)
def test_bad_property_lists(launchd, tmp_path, content, mode, code):
    path = tmp_path / "bad.plist"
    path.write_bytes(content)
    path.chmod(mode)
    assert launchd.run("bootstrap", GUI, str(path)).returncode == code


@pytest.mark.parametrize("spared", [False, True])
def test_what_a_dead_job_leaves_in_its_process_group_is_killed(launchd, job, spared):
    launchd.configure(spare_process_group=spared)
    launchd.run("bootstrap", GUI, str(job.plist("child")))
    start = job.wait_starts(1)
    os.kill(start["pid"], signal.SIGKILL)
    wait_for(lambda: "Killed: 9" in launchd.run("print", TARGET).stdout, 30, "its end")
    if spared:
        assert alive(start["child"])
        os.kill(start["child"], signal.SIGKILL)
    wait_for(lambda: not alive(start["child"]), 30, "the child's end")


def test_nothing_remains_when_the_owner_dies(launchd, job):
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    launchd.configure(owner=owner.pid)
    subprocess.run([LAUNCHCTL, "bootstrap", GUI, str(job.plist("deaf"))], check=True)
    pid = job.wait_starts(1)["pid"]
    owner.kill()
    owner.wait()
    wait_for(lambda: not alive(pid), 30, "the job's end")
    wait_for(lambda: not launchd._processes(), 30, "the supervisor's end")
