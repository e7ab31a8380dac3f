#!/bin/sh
# Sets everything up in .venv and then
#   sh try.sh demo    shrinks examples/digits.keras for three targets and writes digits-tfcompress/
#   sh try.sh test    runs the fast tests;  sh try.sh test --slow  runs all of them
# Needs Python 3.11 or 3.12 with venv (Debian: apt-get install python3-venv; macOS: brew install
# python@3.12) and nothing else. Takes about 2 GB in .venv.
set -eu
cd "$(dirname "$0")"

if [ ! -x .venv/bin/python ]; then
    for python in ${PYTHON:-python3.12 python3.11 python3}; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            "$python" -m venv .venv && break
        fi
    done
fi
if [ ! -x .venv/bin/python ]; then
    echo "try.sh: no Python 3.11 or 3.12 with venv found" >&2
    echo "  Debian: apt-get install python3-venv; macOS: brew install python@3.12; or set PYTHON=" >&2
    exit 1
fi
if ! cmp -s requirements.lock .venv/installed.lock; then
    echo "installing the packages of requirements.lock into .venv (a few minutes, once)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
    cp requirements.lock .venv/installed.lock
fi

# Programs that some tests run for real: a browser, npm, an SSH server, a registry, shells. Without one of
# them its tests are skipped and say so.
programs() {
    missing=""
    command -v chromium >/dev/null || command -v google-chrome >/dev/null || missing="$missing chromium"
    command -v npm >/dev/null || missing="$missing npm"
    [ -x /usr/sbin/sshd ] || missing="$missing openssh-server"
    command -v docker-registry >/dev/null || missing="$missing docker-registry"
    command -v zsh >/dev/null || missing="$missing zsh"
    command -v fish >/dev/null || missing="$missing fish"
    [ -z "$missing" ] && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing$missing" >&2
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
    else
        echo "not installed, and their tests are skipped:$missing (Debian: apt-get install$missing)" >&2
    fi
}

case "${1:-}" in
    demo) shift; exec .venv/bin/tfcompress shrink examples/digits.keras --data examples/digits.npz \
        --target tflite-int8 --target tflite-float16 --target tflite-float32 "$@" ;;
    test) shift; programs || true; exec .venv/bin/python -m pytest "$@" ;;
    *) echo "usage: sh try.sh demo | test [--slow]" >&2; exit 2 ;;
esac
