"""packaging/install.sh, with stand-ins for uv, pipx and uname, and with the real pip on a small real wheel."""

from __future__ import annotations

import ensurepip
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # installs

SCRIPT = Path(__file__).parents[2] / "packaging" / "install.sh"
ROOT = SCRIPT.parents[1]


class Machine:
    """A PATH of its own, with the usual small tools and what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.bin = folder / "bin"
        self.calls = folder / "calls"
        for made in (self.home, self.bin):
            made.mkdir()
        for tool in ("sh", "dirname", "grep", "ln", "mkdir", "cat"):
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.tool("uname", 'case "$1" in -s) echo Linux;; *) echo x86_64;; esac')

    def tool(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/sh\n[ {name} = uname ] || echo "{name} $*" >> {self.calls}\n{text}\n')
        path.chmod(0o755)

    def installer(self, name: str) -> None:
        """A uv or pipx that puts a `pensieved` into its folder of commands."""
        made = f'echo "#!/bin/sh\necho 9.9" > {self.home}/tools/pensieved && chmod 755 {self.home}/tools/pensieved'
        (self.home / "tools").mkdir(exist_ok=True)
        (self.bin / "chmod").exists() or (self.bin / "chmod").symlink_to(shutil.which("chmod"))
        self.tool(
            name,
            f'case "$1 $2" in "tool dir"|"environment --value") echo {self.home}/tools;; *) {made};; esac',
        )

    def install(self, script=SCRIPT, stdin=None, **env):
        given = {"HOME": str(self.home), "PATH": str(self.bin), **env}
        command = [str(self.bin / "sh"), *([str(script)] if stdin is None else [])]
        return subprocess.run(
            command,
            env=given,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=self.home,
            input=stdin,
        )

    @property
    def called(self) -> str:
        return self.calls.read_text() if self.calls.exists() else ""


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_uv_comes_first_and_installs_this_checkout(machine):
    machine.installer("uv")
    machine.installer("pipx")
    done = machine.install()
    assert done.returncode == 0, done.stderr
    assert f"uv tool install --upgrade --force {ROOT}[cpu]\n" in machine.called
    assert "pipx" not in machine.called
    assert "pensieved 9.9 is in" in done.stdout
    assert "not on your PATH" in done.stdout
    assert "pensieved run" in done.stdout


def test_pipx_and_the_choice_of_the_user(machine):
    machine.installer("uv")
    machine.installer("pipx")
    done = machine.install(
        PENSIEVED_INSTALLER="pipx", PENSIEVED_EXTRA="cuda13", PENSIEVED_SOURCE="git+https://x/y"
    )
    assert done.returncode == 0, done.stderr
    assert "pipx install --force pensieved[cuda13] @ git+https://x/y\n" in machine.called


def test_from_a_pipe_it_installs_the_released_package(machine):
    machine.installer("uv")
    done = machine.install(stdin=SCRIPT.read_text())
    assert done.returncode == 0, done.stderr
    assert "uv tool install --upgrade --force pensieved[cpu]\n" in machine.called


def test_a_mac_needs_no_extra_and_is_told_of_the_agent(machine):
    machine.installer("uv")
    machine.tool("uname", 'case "$1" in -s) echo Darwin;; *) echo arm64;; esac')
    first = machine.install()
    assert f"--force {ROOT}\n" in machine.called
    assert "after every login" in first.stdout
    agents = machine.home / "Library" / "LaunchAgents"
    agents.mkdir(parents=True)
    (agents / "org.pensieved.daemon.plist").write_text("<string>pensieved</string>")
    assert "This starts the new one: pensieved install" in machine.install().stdout


@pytest.mark.parametrize(
    ("machine_name", "translated", "says"), [("x86_64", "1", "Rosetta"), ("x86_64", "0", "Apple Silicon")]
)
def test_intel_and_rosetta_are_refused(machine, machine_name, translated, says):
    machine.tool("uname", f'case "$1" in -s) echo Darwin;; *) echo {machine_name};; esac')
    machine.tool("sysctl", f"echo {translated}")
    done = machine.install()
    assert done.returncode == 1
    assert says in done.stderr


def test_sudo_other_systems_and_unknown_installers_are_refused(machine):
    assert "without sudo" in machine.install(SUDO_USER="me").stderr
    assert "uv, pipx or venv" in machine.install(PENSIEVED_INSTALLER="brew").stderr
    machine.tool("uname", "echo FreeBSD")
    assert "FreeBSD" in machine.install().stderr


def test_without_a_usable_python(machine):
    machine.tool("python3", "exit 1")
    done = machine.install()
    assert done.returncode == 1
    assert "no Python 3.11" in done.stderr


def test_a_virtual_environment_twice(machine, tmp_path):
    """The real venv and the real pip; the wheel needs no network."""
    (machine.bin / "python3").symlink_to(os.path.realpath(sys.executable))
    wheel = tmp_path / "pensieved-9.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        info = "pensieved-9.9.dist-info"
        file.writestr("pensieved.py", "def main():\n    print('9.9')\n")
        file.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: pensieved\nVersion: 9.9\nProvides-Extra: cpu\n"
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/entry_points.txt", "[console_scripts]\npensieved = pensieved:main\n")
        file.writestr(f"{info}/RECORD", "")
    env = {"PENSIEVED_SOURCE": str(wheel), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": _pip_wheels()}
    for _ in range(2):
        done = machine.install(**env)
        assert done.returncode == 0, done.stderr + done.stdout
        assert "with venv" in done.stdout
    command = machine.home / ".local" / "bin" / "pensieved"
    assert subprocess.run([command, "version"], capture_output=True, text=True, check=True).stdout == "9.9\n"


def _pip_wheels() -> str:
    """The wheel of pip that Python itself bundles."""

    return str(Path(ensurepip.__file__).parent / "_bundled")
