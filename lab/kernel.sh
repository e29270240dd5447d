# shellcheck shell=bash
# The lab's kernels, made from Debian packages and cached. Sourced by ./dev, after userland/make.sh.
#
# Fetching needs this machine's apt, so it happens outside the userland; kernel.py does the rest inside.

# image.key() in image.py makes the same names.
lab_folder() { # stock|uml
  local from=$ROOT/lab/stock.modules
  [ "$1" = stock ] || from=$ROOT/lab/uml.config
  echo "$CACHE/lab-$1-$(sha256sum <"$from" | cut -c 1-12)"
}

# The packages that a kernel is made of, by name: those that the suite's newest version is split into.
lab_packages() { # stock|uml
  local package=linux-source pattern='^linux-source-[0-9]'
  if [ "$1" = stock ]; then
    package=linux-image-amd64
    pattern='^linux-(base|binary|image|modules)-[0-9]'
  fi
  apt-cache depends --recurse --important "$package" | grep -E "$pattern"
}

# Fetches them into WORK/debs, with apt folders of its own.
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
    missing "the kernel packages cannot be fetched from $ARCHIVE (apt's words are above)"
  fi
  unset APT_CONFIG
}

# lab_make KIND: makes that kernel unless it is there. Needs TREE, as locate() sets it.
lab_make() {
  local kind=$1 folder log=$CACHE/lab.log start=$SECONDS
  folder=$(lab_folder "$kind")
  [ ! -e "$folder/version" ] || return 0
  [ "$(uname -m)" = x86_64 ] || missing "the lab's machines are x86-64, and this one is not"
  command -v apt-get >/dev/null || missing "no apt here: the lab's kernels come from Debian packages"
  mkdir -p "$CACHE"
  exec {lab_lock}>"$CACHE/lab.lock"
  if ! flock -n "$lab_lock"; then
    note "another ./dev is making a kernel for the lab; waiting for it"
    flock "$lab_lock"
  fi
  if [ ! -e "$folder/version" ]; then
    rm -rf "$CACHE"/.lab-making-* # left by one that was killed: the lock says that nobody is at it now
    (
      WORK=$CACHE/.lab-making-$kind
      trap 'rm -rf "$WORK"' EXIT
      trap 'exit 130' INT
      trap 'exit 143' TERM
      mkdir -p "$WORK/made"
      if [ "$kind" = uml ]; then
        note "fetching Debian's kernel source, and building User Mode Linux of it: about 5 minutes on 2 cores"
      else
        note "fetching Debian's stock kernel for the lab, in about half a minute"
      fi
      lab_fetch "$kind"
      set -m # a job with a process group of its own: then the traps above run at once
      (
        [ -z "$TREE" ] || enter "$TREE" python3 "$ROOT/lab/kernel.py" "$kind" "$WORK/debs" "$WORK/made"
        exec python3 "$ROOT/lab/kernel.py" "$kind" "$WORK/debs" "$WORK/made"
      ) >"$log" 2>&1 </dev/null &
      set +m
      trap 'kill -TERM -- -$! 2>/dev/null || true; wait || true; rm -rf "$WORK"' EXIT
      if ! wait $!; then
        tail -n 20 "$log" >&2
        missing "the kernel could not be made; all that was said: less $log"
      fi
      mv -T "$WORK/made" "$folder"
      rm -f "$log"
    ) || exit
    note "kernel made in $((SECONDS - start)) s: $folder"
  fi
  exec {lab_lock}>&-
}

# The kernel that lab/backend.py will choose, or one that it can.
lab_prepare() {
  case ${CARAVAN_LAB:-} in
    uml) lab_make uml ;;
    kvm | tcg) lab_make stock ;;
    '') [ -e "$(lab_folder uml)/version" ] || lab_make stock ;;
    *) usage_error "CARAVAN_LAB is '$CARAVAN_LAB': only uml, kvm and tcg are known" ;;
  esac
}
