# shellcheck shell=bash
# Sourced by the scripts next to it, which set `root` to the project's folder. Everything here speaks
# on stderr: stdout belongs to what the user asked for.

shopt -s extglob

# Tools of the packages that scripts/setup installs come first, whatever else is on the PATH.
PATH=/usr/bin:/bin:/usr/sbin:/sbin:${PATH:-}
export PATH

say() { printf 'scripts/%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}

# wait_for_lock NAME: one caller at a time; the lock goes with the process (descriptor 9).
wait_for_lock() {
  mkdir -p "$root/build" 2>/dev/null || die "cannot write to $root/build"
  { exec 9>"$root/build/$1.lock"; } 2>/dev/null || die "cannot write to $root/build"
  if ! flock -n 9; then
    say "waiting for another call to finish"
    flock 9
  fi
}

# show_progress: copies the build's output to stderr, as one changing line on a terminal and not at
# all elsewhere.
show_progress() {
  local line
  if [[ ! -t 2 ]]; then
    cat >/dev/null
    return
  fi
  while IFS= read -r line; do
    if [[ $line == '['+([0-9])/* ]]; then printf '\r\033[K%.76s' "$line" >&2; fi
  done
  printf '\r\033[K' >&2
}

# show_failure LOG: what the compiler, the linker or CMake said about the first thing that failed.
show_failure() {
  awk '/^FAILED: / { if (seen++) exit; command_line = 1; next }
       seen && command_line { command_line = 0; next }
       seen && (/^\[[0-9]+\/[0-9]+\]/ || /^ninja: /) { exit }
       !seen && /^CMake Error/ { in_cmake = 1 }
       seen || in_cmake { sub(/^\.\.\/\.\.\//, ""); if (++shown <= 40) print }' "$1" >&2
}

# configure_and_build PRESET TARGET LOG [CMAKE-ARGUMENT...]
configure_and_build() {
  local preset=$1 target=$2 log=$3 tree=$root/build/$1
  shift 3
  mkdir -p "$tree" 2>/dev/null || die "cannot write to $tree"
  if [[ -z ${CMAKE_CXX_COMPILER_LAUNCHER:-} && -w ${HOME:-} ]] && command -v ccache >/dev/null; then
    # Trees of the same preset share objects, wherever the project lies.
    export CMAKE_CXX_COMPILER_LAUNCHER=ccache CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1
  fi
  local fresh=()
  if ! grep -qsxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$tree/CMakeCache.txt"; then
    fresh=(--fresh) # first time, or the project was moved
  fi
  {
    (cd "$root" && cmake --preset "$preset" "${fresh[@]}" "$@") &&
      cmake --build "$tree" --target "$target"
  } </dev/null 2>&1 9>&- | tee "$log" | show_progress || {
    show_failure "$log"
    die "the build failed; all of its output is in $log"
  }
}
