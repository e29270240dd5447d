# shellcheck shell=bash
# Creates the userland: a Debian tree with the packages of userland/packages, in the cache. Sourced by ./dev.
#
# The archive's address, proxies, passwords and time-outs are those of this machine's apt.

SUITE=forky
FORMAT=1 # of the tree: increase it if its contents change for another reason than the packages
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/caravan

userland_key() {
  { echo "$FORMAT $SUITE $(uname -m)"; packages | sort; } | sha256sum | cut -c 1-12
}

# Checks the tools that create and enter a userland, and the rights to use them; installs tools as root.
need_tools() {
  local -a lacks=()
  local fix=''
  command -v apt-get >/dev/null || missing "apt is not installed: install ggml >= $GGML_MIN, llama.cpp and the libraries in \
userland/packages, then run CARAVAN_USERLAND=system ./dev ..."
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
  [ -z "$fix" ] || missing "cannot create the userland yet; run: $fix"
}

# The machine's apt settings for downloads, in the form that apt and mmdebstrap read. Without its hooks.
apt_settings() {
  local file
  apt-config dump Acquire | grep -vE '^Acquire::(IndexTargets|Changelogs|Languages|CompressionTypes)\b'
  for file in /etc/apt/auth.conf /etc/apt/auth.conf.d/*; do
    [ ! -e "$file" ] || [ -r "$file" ] || return 0 # root's passwords: an ordinary user downloads without them
  done
  echo 'Dir::Etc::netrc "/etc/apt/auth.conf";'
  echo 'Dir::Etc::netrcparts "/etc/apt/auth.conf.d";'
}

# Debian main archives in this machine's apt sources, best first. Before the first apt-get update the origin of a source is
# unknown: such sources come last, and probe() checks them.
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

# probe WORK ARCHIVE SETTING...: downloads only the suite's signed Release file, which takes a second, into separate apt
# folders under WORK. WORK/probe.log has the output of apt.
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

# Sets ARCHIVE, and appends the settings that its Release file needs to WORK/settings.
choose_archive() {
  local work=$1 candidate found=''
  SIGNED_BY=''
  [ ! -e "$KEYRING" ] || SIGNED_BY="[signed-by=$KEYRING] "
  while read -r candidate; do
    found=yes ARCHIVE=$candidate
    # Dates are checked even if this machine's apt does not, so that an outdated archive causes a warning.
    if probe "$work" "$ARCHIVE" 'Acquire::Check-Date "true"' 'Acquire::Check-Valid-Until "true"'; then
      return
    fi
    grep -qE 'is expired|not valid yet' "$work/probe.log" || continue
    if probe "$work" "$ARCHIVE" 'Acquire::Check-Valid-Until "false"'; then
      note "warning: the archive's $SUITE Release file is past its valid-until date; its signature is good, so it is used"
      echo 'Acquire::Check-Valid-Until "false";' >>"$work/settings"
      return
    fi
  done < <(archives)
  if [ -z "$found" ]; then
    missing "this machine's apt has no Debian archive; name one: CARAVAN_MIRROR=URL ./dev ..."
  fi
  tail -n 5 "$work/probe.log" >&2
  missing "Debian $SUITE cannot be fetched from $ARCHIVE (apt's output is above); try apt-get update"
}

# Shows mmdebstrap's phases with the elapsed seconds: one rewritten line on a terminal, otherwise a line per phase.
show_phases() { # LOG
  local line='' phase='starting' start=$SECONDS tty='' rc
  trap '' INT TERM # it ends with mmdebstrap, which cleans up first and needs its stderr
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

# bootstrap MODE TREE LOG: fills TREE. Its temporary tree is in TMPDIR. Omits files that a build never reads, device files
# (the host's are used), and the apt settings, which may contain a proxy's password.
bootstrap() {
  local mode=$1 tree=$2 log=$3
  local -a include settings alone=()
  mapfile -t include < <(packages)
  mapfile -t settings <"$WORK/settings" # not passed as a file: in unshare mode mmdebstrap cannot read this folder
  [ "$mode" != root ] || alone=(unshare --mount) # its mounts end with it
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

# Stops a running bootstrap and removes unfinished files.
abandon() {
  trap - EXIT
  if [ -n "$JOB" ]; then
    note "stopping, and removing unfinished files"
    kill -TERM -- "-$JOB" 2>/dev/null || true
    wait "$JOB" 2>/dev/null || true
  fi
  # In unshare mode the files belong to the user's subordinate ids.
  [ "$EUID" = 0 ] || [ -z "$(ls -A "$TMPDIR")" ] || mmdebstrap --unshare-helper rm -rf "$TMPDIR"/* || true
  rm -rf "$TMPDIR" "$WORK"
}

# Created under another name and renamed, under a lock: another clone finds a complete userland or none.
make_userland() { # KEY
  local key=$1 mode=unshare start log=$CACHE/userland.log
  mkdir -p "$CACHE"
  exec {lock}>"$CACHE/userland.lock"
  if ! flock -n "$lock"; then
    note "another ./dev is creating the userland; waiting for it"
    flock "$lock"
  fi
  if [ -e "$CACHE/userland-$key/etc/caravan-userland" ]; then
    exec {lock}>&-
    return
  fi
  start=$SECONDS
  [ "$EUID" != 0 ] || mode=root
  rm -rf "$CACHE"/.making-* # left by a killed ./dev: this one holds the lock
  # Globals, for abandon(). /var/tmp and not /tmp, which is memory on many machines.
  WORK=$CACHE/.making-$key JOB='' TMPDIR_BEFORE=${TMPDIR:-}
  TMPDIR=$(mktemp -d "${TMPDIR:-/var/tmp}/caravan-userland.XXXXXX")
  export TMPDIR
  trap abandon EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  chmod 755 "$TMPDIR" # in unshare mode a subordinate user id needs access
  mkdir -p "$WORK/tree"
  apt_settings >"$WORK/settings"
  choose_archive "$WORK"
  note "creating the Debian $SUITE userland, once for all clones, in about a minute: $CACHE/userland-$key"
  : >"$log"
  # A job in its own process group: the traps above run at once, and abandon() can stop it with its children.
  set -m
  (bootstrap "$mode" "$WORK/tree" "$log") </dev/null &
  JOB=$!
  set +m
  if ! wait "$JOB"; then
    JOB=''
    tail -n 20 "$log" >&2
    missing "creating the userland failed; see the complete log: less $log"
  fi
  JOB=''
  # enter.sh binds the host's files over these, so they must exist and be plain files.
  (cd "$WORK/tree/etc" && rm -f resolv.conf hosts && touch resolv.conf hosts passwd group)
  echo "$key" >"$WORK/tree/etc/caravan-userland"
  mv -T "$WORK/tree" "$CACHE/userland-$key"
  rm -f "$log"
  abandon
  trap - INT TERM
  if [ -n "$TMPDIR_BEFORE" ]; then TMPDIR=$TMPDIR_BEFORE; else unset TMPDIR; fi
  exec {lock}>&-
  note "userland created in $((SECONDS - start)) s"
}
