# shellcheck shell=bash
# The npm packages of tests/node, installed by this machine's npm from the registry that it is configured for. Sourced by ./dev.

# Exports CARAVAN_NODE: a folder with node and node_modules, in the cache, which userlands share. Leaves it unset without npm.
prepare_node() {
  local tool key folder new arch version
  [ -z "${CARAVAN_NODE:-}" ] || return 0
  for tool in node npm; do
    command -v $tool >/dev/null || { note "no $tool on this machine: tests that need it are skipped"; return 0; }
  done
  key=$({ cat "$ROOT/tests/node/package.json"; node --version; uname -m; } | sha256sum | cut -c 1-12)
  folder=$CACHE/node-$key
  if [ ! -e "$folder" ]; then
    note "installing the npm packages of tests/node"
    mkdir -p "$CACHE"
    new=$(mktemp -d "$CACHE/node.XXXXXX")
    arch=$(node -p 'process.arch')
    version=$(node -p 'require(process.argv[1]).dependencies["node-llama-cpp"]' "$ROOT/tests/node/package.json")
    cp "$ROOT/tests/node/package.json" "$new"
    # Its optional packages are the binaries for all machines and GPUs: only those for this machine's CPU are installed.
    if (cd "$new" && timeout 300 npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts --omit=optional \
      "node-llama-cpp@$version" "@node-llama-cpp/linux-$arch@$version") && cp -L "$(command -v node)" "$new/node"; then
      mv -T "$new" "$folder" 2>/dev/null || true # another ./dev may have been faster
    fi
    rm -rf "$new"
    [ -e "$folder" ] || { note "npm cannot install the packages: tests that need them are skipped"; return 0; }
  fi
  export CARAVAN_NODE=$folder
}
