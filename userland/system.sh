# shellcheck shell=bash
# Checks whether this system has the dependencies of Caravan. Sourced by ./dev.

GGML_MIN=0.27

packages() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$ROOT/userland/packages"; }

at_least() { # WANTED HAVE
  [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

# Prints missing dependencies, one a line. Checks compilers and libraries rather than packages, which may come from any
# source.
system_lacks() {
  local tool header have
  pkg-config --atleast-version="$GGML_MIN" ggml 2>/dev/null || echo "ggml >= $GGML_MIN with its headers"
  pkg-config --exists llama 2>/dev/null || echo "libllama with its headers"
  for tool in pkg-config g++ cmake ninja git python3 setpriv \
    llama-bench llama-completion llama-perplexity llama-server; do
    command -v "$tool" >/dev/null || echo "$tool"
  done
  if have=$(cmake --version 2>/dev/null); then
    have=${have%%$'\n'*}
    at_least 3.25 "${have##* }" || echo "cmake >= 3.25"
  fi
  if have=$(g++ -dumpfullversion 2>/dev/null); then
    at_least 13 "$have" || echo "g++ >= 13"
    for header in ggml-backend.h llama.h infiniband/verbs.h CLI/CLI.hpp nlohmann/json.hpp \
      blake3.h xxhash.h gtest/gtest.h gmock/gmock.h benchmark/benchmark.h; do
      echo "#if !__has_include(<$header>)"
      echo "lacks <$header>"
      echo "#endif"
    done | g++ -E -P -x c++ - 2>/dev/null | sed -n 's/^lacks //p'
  fi
  if command -v python3 >/dev/null; then
    python3 -c 'import gguf, numpy, pytest' 2>/dev/null || echo "python3's gguf, numpy and pytest"
  fi
}

# True if this system's apt offers a recent enough ggml.
apt_offers() {
  local offered
  command -v apt-cache >/dev/null || return 1
  offered=$(LC_ALL=C apt-cache policy libggml-dev 2>/dev/null | sed -n 's/^ *Candidate: //p')
  [ -n "$offered" ] && [ "$offered" != '(none)' ] && dpkg --compare-versions "$offered" ge "$GGML_MIN"
}

# apt_get_install PACKAGE...: needs root. Updates the package lists only if the first attempt fails.
apt_get_install() {
  local -a install=(apt-get install -y --no-install-recommends "$@")
  local out
  out=$(mktemp)
  note "installing with apt-get: $*"
  if DEBIAN_FRONTEND=noninteractive "${install[@]}" >"$out" 2>&1 </dev/null ||
    { apt-get update >"$out" 2>&1 && DEBIAN_FRONTEND=noninteractive "${install[@]}" >"$out" 2>&1 </dev/null; }; then
    rm -f "$out"
    return 0
  fi
  tail -n 20 "$out" >&2
  rm -f "$out"
  missing "apt-get failed (its output is above); fix that, then run: ${install[*]}"
}
