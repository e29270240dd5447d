# shellcheck shell=bash
# Makes the userland: a Debian tree with the packages of userland/packages, in the cache. Sourced by ./dev.
#
# The archive's address, proxies, passwords and time-outs are those of this machine's own apt.

SUITE=forky
FORMAT=1 # of the tree: count up when what lies in it changes for another reason than its packages
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/caravan

userland_key() {
  { echo "$FORMAT $SUITE $(uname -m)"; packages | sort; } | sha256sum | cut -c 1-12
}

# The tools that make and enter a userland, and the right to use them.
need_tools() {
  local -a lacks=()
  local fix=''
  command -v apt-get >/dev/null || missing "no apt here: install ggml >= $GGML_MIN, llama.cpp and the libraries that \
userland/packages names, then CARAVAN_USERLAND=system ./dev ..."
  command -v mmdebstrap >/dev/null || lacks+=(mmdebstrap)
  command -v bwrap >/dev/null || lacks+=(bubblewrap)
  [ -e "$KEYRING" ] || lacks+=(debian-archive-keyring)
  if [ "$EUID" = 0 ]; then
    [ ${#lacks[@]} = 0 ] || apt_get_install "${lacks[@]}"
    return
  fi
  command -v newuidmap >/dev/null || lacks+=(uidmap)
  [ ${#lacks[@]} = 0 ] || fix="sudo apt-get install -y ${lacks[*]}"
  if ! grep -qsE "^($(id -un)|$EUID):" /etc/subuid || ! grep -qsE "^($(id -un)|$EUID):" /etc/subgid; then
    fix="${fix:+$fix && }sudo usermod --add-subuids 200000-265535 --add-subgids 200000-265535 $(id -un)"
  fi
  [ -z "$fix" ] || missing "the userland cannot be made yet; run: $fix"
}

# The machine's own apt settings for fetching, as a file that apt and mmdebstrap read. Not its hooks.
apt_settings() {
  local file
  apt-config dump Acquire | grep -vE '^Acquire::(IndexTargets|Changelogs|Languages|CompressionTypes)\b'
  for file in /etc/apt/auth.conf /etc/apt/auth.conf.d/*; do
    [ ! -e "$file" ] || [ -r "$file" ] || return 0 # root's passwords: an ordinary user fetches without
  done
  echo 'Dir::Etc::netrc "/etc/apt/auth.conf";'
  echo 'Dir::Etc::netrcparts "/etc/apt/auth.conf.d";'
}

# Debian main archives in this machine's apt sources, best first. A machine that has never run apt-get update knows no
# origin yet: such sources come last, and probe() looks at them.
archives() {
  if [ -n "${CARAVAN_MIRROR:-}" ]; then
    echo "$CARAVAN_MIRROR"
    return
  fi
  # shellcheck disable=SC2016 # apt expands these
  apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk -F'|' '$3 == "main" && $4 !~ /^cdrom:/ {
      if ($1 == "Debian" && $2 == "Debian") known[++k] = $4
      else if ($1 == "" && $4 !~ /security/) unknown[++u] = $4
    }
    END { for (i = 1; i <= k; i++) print known[i]; for (i = 1; i <= u; i++) print unknown[i] }' | awk '!seen[$0]++'
}

# probe WORK ARCHIVE SETTING...: fetches the suite's signed Release file alone, which takes a second, into apt folders
# of its own under WORK. WORK/probe.log has what apt said.
probe() {
  local work=$1 archive=$2
  shift 2
  rm -rf "$work/lists" && mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  echo "deb ${SIGNED_BY}$archive $SUITE main" >"$work/probe.list"
  {
    cat "$work/settings"
    printf '%s;\n' 'Dir::Etc::parts "/dev/null"' 'Dir::Etc::main "/dev/null"' 'APT::Sandbox::User "root"' \
      "Dir::State::lists \"$work/lists\"" "Dir::Cache \"$work/cache\"" "Dir::Etc::sourcelist \"$work/probe.list\"" \
      'Dir::Etc::sourceparts "/dev/null"' 'Acquire::IndexTargets::deb::Packages::DefaultEnabled "false"' "$@"
  } >"$work/probe.conf"
  APT_CONFIG=$work/probe.conf LC_ALL=C apt-get update --error-on=any >"$work/probe.log" 2>&1 &&
    grep -qsx 'Origin: Debian' "$work"/lists/*Release
}

# Sets ARCHIVE, and appends to WORK/settings what its Release file needs.
choose_archive() {
  local work=$1 candidate found=''
  SIGNED_BY=''
  [ ! -e "$KEYRING" ] || SIGNED_BY="[signed-by=$KEYRING] "
  while read -r candidate; do
    found=yes ARCHIVE=$candidate
    # Checked even where this machine's apt is told not to, so that an archive that stands still is not used unsaid.
    if probe "$work" "$ARCHIVE" 'Acquire::Check-Date "true"' 'Acquire::Check-Valid-Until "true"'; then
      return
    fi
    grep -qE 'is expired|not valid yet' "$work/probe.log" || continue
    if probe "$work" "$ARCHIVE" 'Acquire::Check-Valid-Until "false"'; then
      note "warning: the archive's $SUITE Release file is past its valid-until date; signature good, going on with it"
      echo 'Acquire::Check-Valid-Until "false";' >>"$work/settings"
      return
    fi
  done < <(archives)
  if [ -z "$found" ]; then
    missing "apt on this machine names no Debian archive; name one: CARAVAN_MIRROR=URL ./dev ..."
  fi
  tail -n 5 "$work/probe.log" >&2
  missing "Debian $SUITE cannot be fetched from $ARCHIVE (apt's words are above); see: apt-get update"
}

# Shows mmdebstrap's phases with the seconds gone: one line that is rewritten on a terminal, else a line a phase.
show_phases() { # LOG
  local line='' phase='starting' start=$SECONDS tty='' rc
  trap '' INT TERM # it ends when mmdebstrap does, which has to clean up first and must not lose its stderr
  [ ! -t 2 ] || tty=yes
  while :; do
    rc=0
    IFS= read -r -t 1 line || rc=$?
    [ "$rc" = 0 ] || [ "$rc" -gt 128 ] || break
    if [ "$rc" = 0 ]; then
      echo "$line" >>"$1"
      case $line in
        'I: running apt-get update'*) phase='reading the package lists' ;;
        'I: downloading'*) phase='fetching the base packages' ;;
        'I: extracting'*) phase='unpacking the base' ;;
        'I: installing essential'*) phase='installing the base' ;;
        'I: installing remaining'*) phase='fetching and installing compilers and libraries' ;;
        'I: cleaning'*) phase='cleaning up' ;;
        'I: creating tarball'*) phase='copying into place' ;;
        *) continue ;;
      esac
      [ -n "$tty" ] || printf 'dev: [%3d s] %s\n' $((SECONDS - start)) "$phase" >&2
    fi
    [ -z "$tty" ] || printf '\r\033[Kdev: [%3d s] %s' $((SECONDS - start)) "$phase" >&2
  done
  [ -z "$tty" ] || printf '\r\033[K' >&2
}

# bootstrap MODE TREE LOG: fills TREE. Its own temporary tree goes to TMPDIR.
# Dropped: what a build never reads, device files (they come from the host), and the apt settings, which may hold a
# proxy's password.
bootstrap() {
  local mode=$1 tree=$2 log=$3
  local -a include settings alone=()
  mapfile -t include < <(packages)
  mapfile -t settings <"$WORK/settings" # not given as a file: in unshare mode mmdebstrap may not read this folder
  [ "$mode" != root ] || alone=(unshare --mount) # its mounts end with it, whatever happens
  {
    "${alone[@]}" mmdebstrap --variant=apt --mode="$mode" --format=tar "${settings[@]/#/--aptopt=}" \
      --dpkgopt='force-unsafe-io' \
      --dpkgopt='path-exclude=/usr/share/man/*' \
      --dpkgopt='path-exclude=/usr/share/info/*' \
      --dpkgopt='path-exclude=/usr/share/locale/*' \
      --dpkgopt='path-exclude=/usr/share/doc/*' \
      --dpkgopt='path-include=/usr/share/doc/*/copyright' \
      --include="$(IFS=,; echo "${include[*]}")" "$SUITE" - "deb ${SIGNED_BY}$ARCHIVE $SUITE main" 2>&3 |
      tar -x -C "$tree" --no-same-owner --exclude='./dev/*' --exclude='./var/cache/*' --exclude='./var/lib/apt/*' \
        --exclude='./usr/lib/udev/hwdb*' --exclude='./etc/apt/apt.conf.d/99mmdebstrap' 2>&3
  } 3>&1 | show_phases "$log"
}

# Ends a bootstrap that is under way and removes what is not finished.
abandon() {
  trap - EXIT
  if [ -n "$JOB" ]; then
    note "stopping, and removing what was begun"
    kill -TERM -- "-$JOB" 2>/dev/null || true
    wait "$JOB" 2>/dev/null || true
  fi
  # In unshare mode the files belong to the user's subordinate ids.
  [ "$EUID" = 0 ] || [ -z "$(ls -A "$TMPDIR")" ] || mmdebstrap --unshare-helper rm -rf "$TMPDIR"/* || true
  rm -rf "$TMPDIR" "$WORK"
}

# Made beside its place and renamed, under a lock: another clone either finds it whole or not at all.
make_userland() { # KEY
  local key=$1 mode=unshare start log=$CACHE/userland.log
  mkdir -p "$CACHE"
  exec {lock}>"$CACHE/userland.lock"
  if ! flock -n "$lock"; then
    note "another ./dev is making the userland; waiting for it"
    flock "$lock"
  fi
  if [ -e "$CACHE/userland-$key/etc/caravan-userland" ]; then
    exec {lock}>&-
    return
  fi
  start=$SECONDS
  [ "$EUID" != 0 ] || mode=root
  rm -rf "$CACHE"/.making-* # left by one that was killed: the lock says that nobody is at it now
  # Globals, for abandon(). /var/tmp and not /tmp, which is memory on many machines.
  WORK=$CACHE/.making-$key JOB='' TMPDIR_BEFORE=${TMPDIR:-}
  TMPDIR=$(mktemp -d "${TMPDIR:-/var/tmp}/caravan-userland.XXXXXX")
  export TMPDIR
  trap abandon EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  chmod 755 "$TMPDIR" # in unshare mode another id works in it
  mkdir -p "$WORK/tree"
  apt_settings >"$WORK/settings"
  choose_archive "$WORK"
  note "making the Debian $SUITE userland, once for all clones, in about a minute: $CACHE/userland-$key"
  : >"$log"
  # A job with a process group of its own: then the traps above run at once, and abandon() ends it in good order.
  set -m
  (bootstrap "$mode" "$WORK/tree" "$log") </dev/null &
  JOB=$!
  set +m
  if ! wait "$JOB"; then
    JOB=''
    tail -n 20 "$log" >&2
    missing "the userland could not be made; all that was said: less $log"
  fi
  JOB=''
  # Files that enter.sh lays the host's own over must be there, and be plain files.
  (cd "$WORK/tree/etc" && rm -f resolv.conf hosts && touch resolv.conf hosts passwd group)
  echo "$key" >"$WORK/tree/etc/caravan-userland"
  mv -T "$WORK/tree" "$CACHE/userland-$key"
  rm -f "$log"
  abandon
  trap - INT TERM
  if [ -n "$TMPDIR_BEFORE" ]; then TMPDIR=$TMPDIR_BEFORE; else unset TMPDIR; fi
  exec {lock}>&-
  note "userland made in $((SECONDS - start)) s"
}
