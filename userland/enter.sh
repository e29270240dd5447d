# shellcheck shell=bash
# Runs a command inside the userland with bubblewrap. Sourced by ./dev.
#
# Only the file system changes: /usr and /etc are those of the userland, read-only; everything else is the host's, at the
# same path. Network, pids and users are the host's too, so loopback servers and signals work as outside, and root keeps its
# capabilities (network namespaces can be created).

# Fills BINDS. A parent comes before its children, or it would hide them.
userland_binds() { # TREE
  local tree=$1 path name
  local -a own=()
  BINDS=(--dir /usr --dir /var) # bwrap would create them for the owner only
  for path in "$tree"/* "$tree"/usr/*; do
    name=${path#"$tree"}
    case $name in
      /usr/local | /usr/src) ;; # not bound: the host may have a checkout there
      /bin | /sbin | /lib* | /usr/*)
        if [ -L "$path" ]; then
          BINDS+=(--symlink "$(readlink "$path")" "$name")
        else
          BINDS+=(--ro-bind "$path" "$name")
        fi
        ;;
    esac
  done
  BINDS+=(--ro-bind "$tree/etc" /etc)
  for path in /etc/resolv.conf /etc/hosts /etc/passwd /etc/group; do
    [ ! -e "$path" ] || BINDS+=(--ro-bind "$path" "$path")
  done
  BINDS+=(--dev-bind /dev /dev --bind /proc /proc --bind /sys /sys --tmpfs /run --dir /var/lib
    --symlink /run /var/run --symlink /run/lock /var/lock --dir /run/lock)

  # The host's other top-level folders: /home, /tmp, /data, ... Symbolic links are kept.
  for path in /*; do
    case $path in
      /bin | /sbin | /lib | /lib[0-9x]* | /usr | /etc | /var | /run | /dev | /proc | /sys) continue ;;
      /boot | /lost+found) continue ;;
    esac
    if [ -L "$path" ]; then
      BINDS+=(--symlink "$(readlink "$path")" "$path")
    elif [ -d "$path" ] && [ -x "$path" ]; then
      BINDS+=(--bind "$path" "$path")
    fi
  done

  # Folders below /var, /run or /usr that are used are bound by name, also by their names through symbolic links.
  own=(/var/tmp "$ROOT" "$PWD" "$(pwd -P)" "$HOME" "$(realpath -m "$HOME")" "${TMPDIR:-/tmp}")
  while IFS= read -r -d '' path; do
    case $path in
      /var/?* | /run/?* | /usr/local/?* | /usr/src/?*) ;;
      /usr/?*)
        name=${path#/usr/}
        [ ! -e "$tree/usr/${name%%/*}" ] || continue
        ;;
      *) continue ;;
    esac
    [ ! -d "$path" ] || BINDS+=(--bind "$(realpath "$path")" "$path")
  done < <(printf '%s\0' "${own[@]}" | sort -zu)
  BINDS+=(--remount-ro /)
}

# enter TREE COMMAND...: does not return. The exit code is that of the command; 128 + N if signal N ended it.
enter() {
  local tree=$1 name
  shift
  command -v bwrap >/dev/null || need_tools
  if ! bwrap --bind / / --dev-bind /dev /dev true 2>/dev/null; then
    if [ "$(cat /proc/sys/kernel/apparmor_restrict_unprivileged_userns 2>/dev/null)" = 1 ] && [ "$EUID" != 0 ]; then
      missing "AppArmor blocks bubblewrap; run: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    fi
    missing "bubblewrap cannot mount here (a container?): give it CAP_SYS_ADMIN, or use a container of Debian $SUITE"
  fi
  userland_binds "$tree"
  # Variables that name the host's libraries, compilers or locales do not fit the userland's programs.
  unset LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT PYTHONHOME PYTHONPATH PERL5LIB GCONV_PATH LOCPATH LANGUAGE \
    CC CXX CMAKE_GENERATOR CMAKE_PREFIX_PATH CMAKE_TOOLCHAIN_FILE PKG_CONFIG_PATH GGML_BACKEND_PATH BASH_ENV ENV
  for name in "${!LC_@}"; do unset "$name"; done
  export LANG=C.UTF-8
  export PATH="$ROOT/build/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
  # Keyboard signals reach the command (same process group), but not bwrap, which would exit before it. If bwrap ends
  # otherwise, the command gets SIGTERM.
  trap '' INT QUIT
  exec bwrap "${BINDS[@]}" --chdir "$PWD" -- \
    setpriv --pdeathsig TERM env --default-signal=INT,QUIT "$@"
}
