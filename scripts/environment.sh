#!/usr/bin/env bash
# Makes .venv with everything in requirements.txt, once: a second call finds it made and does nothing.
# PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=3.10
venv=.venv
made=$venv/.made-from

runs() { # is this command a Python of the wanted version that starts at all, with venv?
  [ "$("$@" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$wanted" ]
}

base_of() { # the interpreter under a virtual environment, which may be the one to be made anew
  "$1" -c 'import os, sys; print(os.path.realpath(sys._base_executable))'
}

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    if runs "$PYTHON"; then base_of "$PYTHON"; return; fi
    echo "error: PYTHON=$PYTHON is no Python $wanted that runs and has venv." >&2
    return 1
  fi
  local candidate
  for candidate in "python$wanted" python3 \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$wanted".*/bin/python \
    "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}"/cpython-"$wanted".*/bin/python; do
    if [ -n "$candidate" ] && runs "$candidate"; then base_of "$candidate"; return; fi
  done
  echo "error: no Python $wanted was found (looked for PYTHON, python$wanted, python3, pyenv's" \
    "and uv's versions): install one, or name it with PYTHON=/path/to/python$wanted." >&2
  return 1
}

wants=$(cat requirements.txt setup.py | sha256sum)
if [ "$(cat "$made" 2>/dev/null)" = "$wants" ] && runs "$venv/bin/python"; then exit 0; fi

python=$(find_python)
echo "making $venv with $("$python" --version) ($python): about 3 GB, some minutes"
"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --requirement requirements.txt
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps \
  --no-build-isolation --editable .
"$venv/bin/python" -m pip check
echo "$wants" >"$made"
