# shellcheck shell=bash
# Builds the lab's kernels from Debian packages and caches them. Sourced by ./dev, after userland/make.sh.
#
# Downloads use this machine's apt, so they run outside the userland; kernel.py does the rest inside.

# Must match image.key() in image.py.
lab_folder() { # stock|uml
  local from=$ROOT/lab/stock.modules
  [ "$1" = stock ] || from=$ROOT/lab/uml.config
  echo "$CACHE/lab-$1-$(sha256sum <"$from" | cut -c 1-12)"
}

# Prints the names of the packages that contain the suite's newest kernel.
lab_packages() { # stock|uml
  local package=linux-source pattern='^linux-source-[0-9]'
  if [ "$1" = stock ]; then
    package=linux-image-amd64
    pattern='^linux-(base|binary|image|modules)-[0-9]'
  fi
  apt-cache depends --recurse --important "$package" | grep -E "$pattern"
}

# Downloads them into WORK/debs, with separate apt folders.
lab_fetch() { # stock|uml
  local -a names
  apt_settings >"$WORK/settings"
  choose_archive "$WORK"
  mkdir -p "$WORK"/{debs,lists/partial,cache/archives/partial}
  echo "deb ${SIGNED_BY}$ARCHIVE $SUITE main" >"$WORK/fetch.list"
  {
    cat "$WORK/settings"
    printf '%s;\n' 'Dir::Etc::parts "/dev/null"' 'Dir::Etc::main "/dev/null"' 'APT::Sandbox::User "root"' \
      "Dir::State::lists \"$WORK/lists\"" "Dir::Cache \"$WORK/cache\"" "Dir::Etc::sourcelist \"$WORK/fetch.list\"" \
      'Dir::Etc::sourceparts "/dev/null"' 'Dir::State::status "/dev/null"' \
      'Acquire::IndexTargets::deb::Translations::DefaultEnabled "false"'
  } >"$WORK/fetch.conf"
  export APT_CONFIG=$WORK/fetch.conf
  if ! apt-get update --error-on=any >"$WORK/fetch.log" 2>&1 || ! mapfile -t names < <(lab_packages "$1") ||
    [ ${#names[@]} = 0 ] || ! (cd "$WORK/debs" && apt-get download "${names[@]}") >>"$WORK/fetch.log" 2>&1; then
    tail -n 5 "$WORK/fetch.log" >&2
    missing "cannot download the kernel packages from $ARCHIVE (apt's output is above)"
  fi
  unset APT_CONFIG
}

# lab_make KIND: builds that kernel unless it exists. Needs TREE from locate().
lab_make() {
  local kind=$1 folder log=$CACHE/lab.log start=$SECONDS
  folder=$(lab_folder "$kind")
  [ ! -e "$folder/version" ] || return 0
  [ "$(uname -m)" = x86_64 ] || missing "the lab needs an x86-64 machine"
  command -v apt-get >/dev/null || missing "apt is not installed: the lab's kernels come from Debian packages"
  mkdir -p "$CACHE"
  exec {lab_lock}>"$CACHE/lab.lock"
  if ! flock -n "$lab_lock"; then
    note "another ./dev is building a kernel for the lab; waiting for it"
    flock "$lab_lock"
  fi
  if [ ! -e "$folder/version" ]; then
    rm -rf "$CACHE"/.lab-making-* # left by a killed build: the lock is free
    (
      WORK=$CACHE/.lab-making-$kind
      trap 'rm -rf "$WORK"' EXIT
      trap 'exit 130' INT
      trap 'exit 143' TERM
      mkdir -p "$WORK/made"
      if [ "$kind" = uml ]; then
        note "downloading Debian's kernel source and building User Mode Linux: about 5 minutes on 2 cores"
      else
        note "downloading Debian's stock kernel for the lab: about half a minute"
      fi
      lab_fetch "$kind"
      set -m # a job in its own process group, so that the traps above run at once
      (
        [ -z "$TREE" ] || enter "$TREE" python3 "$ROOT/lab/kernel.py" "$kind" "$WORK/debs" "$WORK/made"
        exec python3 "$ROOT/lab/kernel.py" "$kind" "$WORK/debs" "$WORK/made"
      ) >"$log" 2>&1 </dev/null &
      set +m
      trap 'kill -TERM -- -$! 2>/dev/null || true; wait || true; rm -rf "$WORK"' EXIT
      if ! wait $!; then
        tail -n 20 "$log" >&2
        missing "building the kernel failed; see $log"
      fi
      mv -T "$WORK/made" "$folder"
      rm -f "$log"
    ) || exit
    note "built the kernel in $((SECONDS - start)) s: $folder"
  fi
  exec {lab_lock}>&-
}

# Builds the kernel that lab/backend.py will choose.
lab_prepare() {
  case ${CARAVAN_LAB:-} in
    uml) lab_make uml ;;
    kvm | tcg) lab_make stock ;;
    '') [ -e "$(lab_folder uml)/version" ] || lab_make stock ;;
    *) usage_error "CARAVAN_LAB is '$CARAVAN_LAB'; choose uml, kvm or tcg" ;;
  esac
}
