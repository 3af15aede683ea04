#!/usr/bin/env bash
# Makes .venv with everything pinned by constraints.txt. Safe to run again: a finished set-up is recognised in milliseconds.
#
# Environment:
#   PYTHON                  the interpreter to use; otherwise python3.11, 3.12, 3.13 or python3, the first that is 3.11 or newer
#   STREAM_FT_ALLOW_CUDA=1  take the CUDA build of torch (several GB) where no CPU build is wanted or can be had
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
stamp=$venv/.setup-done
say() { printf 'setup: %s\n' "$*"; }
stop() { printf 'setup: %s\n' "$@" >&2; exit 1; }

wanted="$(cat constraints.txt pyproject.toml deploy/setup.sh | cksum) ${STREAM_FT_ALLOW_CUDA:-0}"
if [ -x "$venv/bin/python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
  say "$venv is up to date."
  exit 0
fi

# --- Python, in the first second ---------------------------------------------------------------------------------
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
python=
if [ -n "${PYTHON:-}" ]; then
  new_enough "$PYTHON" || stop "PYTHON=$PYTHON does not run, or is older than 3.11 ($("$PYTHON" --version 2>&1 | head -n 1))." \
    "Name another one: PYTHON=/path/to/python3.11 make setup"
  python=$PYTHON
else
  for candidate in python3.11 python3.12 python3.13 python3; do
    if command -v "$candidate" >/dev/null && new_enough "$candidate"; then python=$candidate; break; fi
  done
  [ -n "$python" ] || stop "Python 3.11 or newer is needed; python3 here is $(python3 --version 2>&1 | head -n 1)." \
    "Install one (apt install python3.11 python3.11-venv, brew install python@3.11), or name it: PYTHON=/path/to/python3.11 make setup"
fi
"$python" -c 'import venv, ensurepip' 2>/dev/null || stop "$python cannot make virtual environments: its venv or ensurepip is missing." \
  "On Debian and Ubuntu: apt install python3-venv"
say "$("$python" --version) ($(command -v "$python"))"

# --- What it will cost, before anything large --------------------------------------------------------------------
torch=$(sed -n 's/^torch==//p' constraints.txt)
system=$(uname -s)
free_mb=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')
need_mb=3000
cost="about 0.5 GB to download (a CPU build of torch is 0.2 GB, the model 0.1 GB), 2 GB on disk"
if [ "${STREAM_FT_ALLOW_CUDA:-0}" = 1 ] && [ "$system" = Linux ]; then
  need_mb=10000
  cost="about 4 GB to download (the CUDA build of torch), 8 GB on disk"
fi
say "$cost, into $PWD/$venv; free there: $((free_mb / 1024)) GB. What is already on this machine is not downloaded."
[ "$free_mb" -ge "$need_mb" ] || stop "$need_mb MB of free disk are needed, $free_mb MB are there." \
  "Free some, or clone the project onto a larger disk."

# --- The environment ---------------------------------------------------------------------------------------------
# A half-made environment has no working pip: `venv --clear` starts it over. A good one is kept and brought up to date.
if ! "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
  "$python" -m venv --clear "$venv"
fi
rm -f "$stamp"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
# Quiet but for errors; what pip said is shown when it fails.
quietly() {
  local log=$venv/setup.log
  if ! "$@" >"$log" 2>&1; then tail -n 25 "$log" >&2; return 1; fi
}

cpu_index=https://download.pytorch.org/whl/cpu
reachable() {
  "$venv/bin/python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=3)' "$cpu_index" >/dev/null 2>&1
}
has_torch() { "$venv/bin/python" -c 'import sys; from importlib.metadata import version; sys.exit(version("torch").partition("+")[0] != sys.argv[1])' "$torch" 2>/dev/null; }

if has_torch; then
  say "torch $torch is there."
elif [ "$system" != Linux ]; then
  say "torch $torch ..."
  quietly pip install "torch==$torch" -c constraints.txt || stop "torch $torch could not be installed." "Is the network there? Then run make setup again."
elif [ "${STREAM_FT_ALLOW_CUDA:-0}" = 1 ]; then
  say "torch $torch, CUDA build ..."
  quietly pip install "torch==$torch" -c constraints.txt || stop "torch $torch could not be installed." "Is the network there? Then run make setup again."
else
  # A version that ends in +cpu is never on PyPI, whose Linux build brings gigabytes of CUDA: asking for it by that
  # name finds a wheel on this machine or on PyTorch's CPU index, and nothing else.
  if pip install --no-deps --quiet "torch==$torch+cpu" >/dev/null 2>&1; then
    say "torch $torch: a CPU build that this machine's pip knows."
  elif reachable; then
    say "torch $torch: CPU build from $cpu_index ..."
    quietly pip install --no-deps --extra-index-url "$cpu_index" "torch==$torch+cpu" || stop "torch $torch could not be installed." "Run make setup again."
  else
    stop "No CPU build of torch $torch is here, and $cpu_index does not answer within 3 s." \
      "Connect to the network, or put the wheel into a folder and run: PIP_FIND_LINKS=FOLDER make setup" \
      "The build on PyPI brings several GB of CUDA; to take it all the same: STREAM_FT_ALLOW_CUDA=1 make setup"
  fi
  if command -v nvidia-smi >/dev/null; then
    say "There is an NVIDIA GPU here: STREAM_FT_ALLOW_CUDA=1 make setup takes the CUDA build instead (remove $venv first)."
  fi
fi

say "stream-ft and everything it needs ..."
quietly pip install -c constraints.txt -e '.[demo,ingest,dev]' || stop "The packages could not be installed (the reason is above)." \
  "Is the network there? Then run make setup again: what was installed is kept."
# Faust without its own list of packages (the extra `ingest` has them): pyproject.toml says why.
quietly pip install --no-deps -c constraints.txt faust-streaming || stop "Faust could not be installed (the reason is above)." \
  "Is the network there? Then run make setup again: what was installed is kept."
printf '%s' "$wanted" >"$stamp"
say "done: $venv ($(du -sh "$venv" | cut -f1))."
