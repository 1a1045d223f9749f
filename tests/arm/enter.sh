#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# enter.sh ROOT COMMAND...   Run a command in an arm64 userland under qemu-user; needs root.
#
# It has mounts of its own, and shares network and processes with this machine. $QEMU_CPU names the
# processor. Where the kernel does not know arm64 programs it is told so for this command alone.
set -euo pipefail
root=$(realpath "$1")
shift
inside='
set -e
if [ ! -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]; then
  mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
  program=$(command -v qemu-aarch64-static || command -v qemu-aarch64)
  magic="\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00"
  mask="\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff"
  printf "%s" ":qemu-aarch64:M::$magic:$mask:$program:F" > /proc/sys/fs/binfmt_misc/register
fi
mount --rbind /proc "$0/proc"
mount --rbind /dev "$0/dev"
exec chroot "$0" /usr/bin/env -i PATH=/opt/decnn/bin:/usr/bin:/bin HOME=/root LANG=C.UTF-8 \
  ${QEMU_CPU:+QEMU_CPU=$QEMU_CPU} TVM_NUM_THREADS=1 "$@"'
spaces=(--mount)
# From Linux 6.7 on a user namespace has programs of its own; before, the package registers them.
[ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || spaces+=(--user --map-root-user)
exec unshare "${spaces[@]}" bash -c "$inside" "$root" "$@"
