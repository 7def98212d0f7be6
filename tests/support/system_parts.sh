#!/usr/bin/env bash
# Debian packages that tests marked `real` need, each installed only where its program is absent.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"

packages=()
need() { # program package
  command -v "$1" >/dev/null || packages+=("$2")
}
need ip iproute2
need ping iputils-ping
need sshd openssh-server
need dockerd docker.io
need docker docker.io
need chromium chromium
need slurmctld slurmctld
need slurmd slurmd
need srun slurm-client
need munged munge

if [ ${#packages[@]} -eq 0 ]; then
  exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "tests of real parts will skip: install ${packages[*]}" >&2
  exit 0
fi
# Started by hand by the tests, never by the package: a policy that says no stops the post-install start.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends "${packages[@]}" >&2
