# shellcheck shell=bash
# Sourced by the checks next to it. A check prints what is wrong as file:line: text and ends with
# status 1; it prints one line when all is fine.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"

# sources FOLDER...: the C++ files of those folders that exist.
sources() {
  local folder
  for folder; do
    if [[ -d $folder ]]; then find "$folder" -name '*.h' -o -name '*.cpp'; fi
  done | sort
}

# finish WHAT: reads findings from stdin.
finish() {
  local findings
  findings=$(cat)
  if [[ -n $findings ]]; then
    printf '%s\n' "$findings"
    exit 1
  fi
  printf '%s: fine\n' "$1"
}
