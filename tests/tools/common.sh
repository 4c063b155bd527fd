# shellcheck shell=bash
# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# What the demo and the tests share. Sourced from the top folder of the repository.

# The real program of a Python version: shims that end with an error do not count.
find_python() {
  local version candidate
  for version in "$@"; do
    for candidate in $(type -ap "python$version") "$HOME"/.pyenv/versions/"$version".*/bin/python"$version"; do
      if [ -x "$candidate" ] && "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
        echo "$candidate"
        return 0
      fi
    done
  done
  return 1
}

# make_venv DIRECTORY REQUIREMENTS PYTHON: made anew when the requirements or the Python changed.
make_venv() {
  local stamp
  stamp=$("$3" --version; requirements "$2")
  if [ "$(cat "$1/stamp" 2>/dev/null)" != "$stamp" ]; then
    rm -rf "$1"
    "$3" -m venv "$1"
    "$1/bin/pip" install -qq --disable-pip-version-check --requirement "$2"
    printf '%s' "$stamp" >"$1/stamp"
  fi
}

# requirements FILE: its text, and that of the files it includes.
requirements() {
  local other
  cat "$1"
  sed -n 's/^-r //p' "$1" | while IFS= read -r other; do requirements "$(dirname "$1")/$other"; done
}

# build_collection ANSIBLE_GALAXY OUTPUT: builds what git knows or could know, and prints the tarball.
build_collection() {
  local copy
  copy=$(mktemp -d)
  copy_sources "$copy"
  "$1" collection build --force --output-path "$2" "$copy" >/dev/null
  rm -rf "$copy"
  ls "$2"/pve-autosnap-*.tar.gz
}

# copy_sources DIRECTORY: the files of the repository without what is ignored.
copy_sources() {
  if git rev-parse --git-dir >/dev/null 2>&1; then
    git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
      if [ -e "$file" ]; then printf '%s\0' "$file"; fi
    done | tar --null --files-from=- -cf - | tar -C "$1" -xf -
  else
    cp -r . "$1"
  fi
}
