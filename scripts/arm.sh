#!/usr/bin/env bash
# Overspan on aarch64, on a machine that is none: an arm64 root of Debian's packages, and QEMU's user emulation.
#
#   scripts/arm.sh make              make the root, or bring this checkout's Overspan into the one that is there
#   scripts/arm.sh run COMMAND...    run a command in it, for example: scripts/arm.sh run overspan detect
#   scripts/arm.sh remove            delete it
#
# It needs root, mmdebstrap and uv; PYTHON names the Python that has uv (python3). The root is in OVERSPAN_ARM
# (/var/tmp/overspan-arm). Programs of aarch64 start there alone: the kernel is told of QEMU in a user namespace, which
# ends with the command. QEMU comes from Debian 13: the one of Debian 12 shows /proc/cpuinfo of the real processor, on
# which torch fails. Of the environment, variables that begin with PIP_, UV_, QEMU_ or OVERSPAN_ go in.
set -euo pipefail

home=${OVERSPAN_ARM:-/var/tmp/overspan-arm}
root=$home/root
checkout=$(cd "$(dirname "$0")/.." && pwd)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

packages() { # suite folder architecture packages
  [ -e "$2/.whole" ] || {
    rm -rf "$2"
    mmdebstrap --quiet --mode=root --variant=extract --skip=check/qemu --architectures="$3" --include="$4" "$1" "$2" "$mirror"
    touch "$2/.whole"
  }
}

make_root() {
  mkdir -p "$home"
  packages trixie "$home/qemu" "$(dpkg --print-architecture)" qemu-user
  packages bookworm "$root" arm64 base-files,bash,coreutils,dash,iproute2,libgomp1,libnuma1,libstdc++6,python3,python3-venv,util-linux
  mkdir -p "$root/opt" "$root/etc/ssl/certs"
  touch "$root/etc/resolv.conf"
  cp -L "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$root/etc/ssl/certs/ca-certificates.crt"
  rm -rf "$home/wheel" "$root/opt/overspan"
  "${PYTHON:-python3}" -m uv build --quiet --wheel --out-dir "$home/wheel" "$checkout"
  # Wheels alone: nothing is compiled, and nothing is run, while they are laid there from outside.
  "${PYTHON:-python3}" -m uv pip install --quiet --python "${PYTHON:-python3}" --target "$root/opt/overspan" \
    --python-version 3.11 --python-platform aarch64-manylinux_2_28 --only-binary :all: "$home"/wheel/*.whl
  printf '#!/bin/sh\nPYTHONPATH=/opt/overspan exec python3 -m overspan "$@"\n' >"$root/usr/bin/overspan"
  chmod 755 "$root/usr/bin/overspan"
}

# In a user and mount namespace of its own.
inside() {
  local binfmt=/proc/sys/fs/binfmt_misc
  mount -t binfmt_misc binfmt_misc $binfmt
  # An ELF file, 64 bits, little endian, for machine 183. Source: elf(5), and QEMU's scripts/qemu-binfmt-conf.sh.
  printf '%s' ":aarch64:M::\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:" \
    "\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:" \
    "$home/qemu/usr/bin/qemu-aarch64:PF" >$binfmt/register
  for folder in proc sys dev; do mount --rbind /$folder "$root/$folder"; done
  mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
  local kept=()
  while IFS= read -r -d '' pair; do
    case $pair in PIP_CERT=*) ;; PIP_* | UV_* | QEMU_* | OVERSPAN_*) kept+=("$pair") ;; esac
  done < <(env -0)
  exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt "${kept[@]}" "$@"
}

case ${1:-} in
make) make_root ;;
run) exec unshare --map-root-user --mount bash "$0" inside "${@:2}" ;;
inside) inside "${@:2}" ;;
remove) rm -rf --one-file-system "$home" ;;
*) sed -n '2,/^set /{/^set /d;p}' "$0" && exit 2 ;;
esac
