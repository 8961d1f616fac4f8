#!/bin/sh
# Installs the command `pensieved` for this user, with uv, pipx or a virtual environment: whichever is there.
#
#   sh packaging/install.sh            from a checkout: that checkout
#   curl -LsSf URL-OF-THIS-FILE | sh   the released package
#
# Doing it again upgrades. Nothing is written outside the home folder, and sudo is neither needed nor wanted.
#
#   PENSIEVED_SOURCE      what to install instead: a requirement, a folder, a wheel, a git+https URL
#   PENSIEVED_EXTRA       Linux: cpu (default), cuda12 or cuda13
#   PENSIEVED_INSTALLER   uv, pipx or venv, to choose for yourself

set -eu

say() { printf '%s\n' "$*"; }
fail() {
    printf 'install: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# The extra of this platform; refuses what MLX has no build for.
platform_extra() {
    case "$(uname -s)" in
    Darwin)
        if [ "$(uname -m)" != arm64 ]; then
            [ "$(sysctl -n sysctl.proc_translated 2>/dev/null || echo 0)" = 1 ] &&
                fail "this shell runs under Rosetta; open a native one: arch -arm64 zsh"
            fail "MLX needs Apple Silicon; this Mac has an Intel processor."
        fi
        ;;
    Linux) printf '%s' "${PENSIEVED_EXTRA:-cpu}" ;;
    *) fail "pensieved runs on macOS and Linux, not on $(uname -s)." ;;
    esac
}

# What to install: what is asked for, else the checkout around this script, else the released package.
source_of() {
    here=
    [ ! -f "$0" ] || here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
    if [ -n "${PENSIEVED_SOURCE:-}" ]; then
        printf '%s' "$PENSIEVED_SOURCE"
    elif [ -n "$here" ] && grep -qs '^name = "pensieved"' "$here/pyproject.toml"; then
        printf '%s' "$here"
    else
        printf 'pensieved'
    fi
}

# SOURCE and EXTRA as one requirement; one that names a URL must say its name first to carry an extra.
requirement() {
    case "$1" in
    *://*) printf 'pensieved%s @ %s' "${2:+[$2]}" "$1" ;;
    *) printf '%s%s' "$1" "${2:+[$2]}" ;;
    esac
}

# The newest Python that is new enough.
find_python() {
    for name in python3.14 python3.13 python3.12 python3.11 python3; do
        if have "$name" && "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.11 or newer with venv is here; install one, or install uv, which brings its own."
}

choose_installer() {
    if [ -n "${PENSIEVED_INSTALLER:-}" ]; then
        printf '%s' "$PENSIEVED_INSTALLER"
    elif have uv; then
        printf 'uv'
    elif have pipx; then
        printf 'pipx'
    else
        printf 'venv'
    fi
}

with_venv() {
    venv="${XDG_DATA_HOME:-$HOME/.local/share}/pensieved/venv"
    python=$(find_python)
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --upgrade pip "$1" ||
        fail "pip could not install $1; what it said stands above."
    mkdir -p "$HOME/.local/bin"
    ln -sf "$venv/bin/pensieved" "$HOME/.local/bin/pensieved"
}

main() {
    [ -z "${SUDO_USER:-}" ] || fail "run it without sudo: it installs for you alone."
    extra=$(platform_extra)
    wanted=$(requirement "$(source_of)" "$extra")
    installer=$(choose_installer)
    say "Installing $wanted with $installer."
    case "$installer" in
    uv)
        uv tool install --upgrade --force "$wanted"
        bin=$(uv tool dir --bin)
        ;;
    pipx)
        pipx install --force "$wanted"
        bin=$(pipx environment --value PIPX_BIN_DIR 2>/dev/null || printf '%s' "$HOME/.local/bin")
        ;;
    venv)
        with_venv "$wanted"
        bin="$HOME/.local/bin"
        ;;
    *) fail "PENSIEVED_INSTALLER is uv, pipx or venv, not $installer." ;;
    esac
    finish "$bin"
}

# What the user does next.
finish() {
    version=$("$1/pensieved" version) || fail "$1/pensieved does not run; please report what stands above."
    say "pensieved $version is in $1."
    case ":$PATH:" in
    *":$1:"*) ;;
    *) say "That folder is not on your PATH; add it: export PATH=\"$1:\$PATH\"" ;;
    esac
    for plist in "$HOME"/Library/LaunchAgents/*.plist; do
        if grep -qs '<string>pensieved</string>' "$plist"; then
            say "An agent is installed and still runs what was there before. This starts the new one: pensieved install"
            return
        fi
    done
    say "Try it: pensieved run"
    [ "$(uname -s)" != Darwin ] || say "Have it after every login: pensieved install --model-url MODEL --port 8765"
}

main "$@"
