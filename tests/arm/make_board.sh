#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# make_board.sh FOLDER PYTHON   Make FOLDER/root: an arm64 machine with this project's wheel.
#
# Needs root. Packages come from this machine's apt and pip sources alone; the wheel is installed by
# the emulated machine's own pip, as a board would do it.
set -euo pipefail
folder=$1
python=$2
here=$(dirname "$0")
root=$folder/root

if [ "$(id -u)" != 0 ]; then
  echo "make_board.sh: needs root, to install qemu and to enter another userland" >&2
  exit 1
fi
if ! command -v qemu-aarch64-static > /dev/null && ! command -v qemu-aarch64 > /dev/null; then
  apt-get -qq update
  apt-get -qq -y --no-install-recommends install qemu-user-static
fi
if [ ! -e "$root/usr/bin/python3" ]; then
  "$here/userland.sh" "$root" python3 python3-venv libstdc++6 bash coreutils procps
fi

rm -rf "$folder/source" "$folder/dist" "$root/wheels"
mkdir -p "$folder/source" "$root/wheels" "$root/tmp"
cp -r pyproject.toml README.md LICENSE python passes schedules "$folder/source"
"$python" -m pip --disable-pip-version-check -q wheel --no-deps -w "$folder/dist" "$folder/source"
version=$("$here/enter.sh" "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
platforms=(--platform manylinux2014_aarch64)
for glibc in 17 24 26 27 28; do
  platforms+=(--platform "manylinux_2_${glibc}_aarch64")
done
"$python" -m pip --disable-pip-version-check -q download -d "$folder/wheels" --only-binary=:all: \
  --python-version "$version" "${platforms[@]}" "$folder"/dist/*.whl
cp "$folder"/wheels/*.whl "$root/wheels"
cp "$folder"/dist/*.whl "$root/wheels"

if [ ! -e "$root/opt/decnn/bin/pip" ]; then
  "$here/enter.sh" "$root" python3 -m venv /opt/decnn
fi
pip=(pip --disable-pip-version-check -q install --no-index --find-links /wheels)
"$here/enter.sh" "$root" "${pip[@]}" 'decnn-tvm[worker]'
# The version does not change with every edit.
"$here/enter.sh" "$root" "${pip[@]}" --no-deps --force-reinstall decnn-tvm
