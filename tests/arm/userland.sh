#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# userland.sh FOLDER PACKAGE...   Unpack Debian packages for arm64, with what they depend on.
#
# They come from the machine's own apt sources, or from those in the file $ARM_SOURCES (Ubuntu keeps
# arm64 on another server). apt has a state of its own here: that of the machine stays as it is.
set -euo pipefail
folder=$1
shift
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
mkdir -p "$state/lists/partial" "$state/archives/partial" "$folder"
: > "$state/status"
options=(
  -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Sandbox::User=root
  -o Dir::State="$state" -o Dir::State::Lists="$state/lists" -o Dir::State::status="$state/status"
  -o Dir::Cache="$state" -o Dir::Cache::Archives="$state/archives"
  -o Acquire::Languages=none -o Debug::NoLocking=1
)
if [ -n "${ARM_SOURCES:-}" ]; then
  options+=(-o Dir::Etc::SourceList="$(realpath "$ARM_SOURCES")" -o Dir::Etc::SourceParts=/dev/null)
fi
apt-get "${options[@]}" -qq update
apt-get "${options[@]}" -qq -y --no-install-recommends --download-only install "$@" > /dev/null
for package in "$state"/archives/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar -x -C "$folder" --exclude='./usr/share/doc' \
    --exclude='./usr/share/man' --exclude='./usr/share/locale' --exclude='./usr/share/info'
done
# Where packages count on /bin being a link to /usr/bin, theirs is not unpacked as one.
for name in bin lib sbin; do
  [ -e "$folder/$name" ] || ln -s "usr/$name" "$folder/$name"
done
[ -e "$folder/bin/sh" ] || ln -s bash "$folder/bin/sh"
