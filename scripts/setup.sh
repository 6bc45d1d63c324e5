#!/bin/bash
# Sets up what is missing to use, develop, accept or measure Open Gallery. Does nothing, fast, when all is there.
# Usage: scripts/setup.sh use|check|develop|accept|bench|soak
#   use      .venv from requirements/users.txt; QEMU and the tools that build the boot image
#   check    .venv from requirements/development.txt; no Debian packages
#   develop  both of these, a PostgreSQL server and the tools of a file system for the tests; where node and
#            npm are there already, an OpenID issuer too
#   accept   the same, and .venv-az: the real az, in a virtual environment of its own
#   bench    the same, and the tools that build the large images
#   soak     as develop, an OpenID issuer (npm), and real object stores: Ceph's S3 (269 MB of Debian packages),
#            Azurite (npm)
# PYTHON names the interpreter to use; otherwise the first python3 of version 3.11 or newer is taken.
set -euo pipefail
cd "$(dirname "$0")/.."

# What stands in somebody's shell must not leak into the environments made here.
unset PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX

RUN_PACKAGES="qemu-system-x86 qemu-utils qemu-block-extra ovmf"
BOOT_IMAGE_PACKAGES="syslinux syslinux-common syslinux-efi mtools dosfstools fdisk busybox-static dropbear-bin
  cpio zstd openssl openssh-client"
DEVELOP_PACKAGES="postgresql btrfs-progs"
SOAK_PACKAGES="ceph-mon ceph-osd radosgw nodejs npm curl"
AZURITE_VERSION=3.35.0
BENCH_PACKAGES="mmdebstrap extlinux e2fsprogs casync restic borgbackup rsync wrk iproute2 nginx-light curl"

say() { printf '%s\n' "setup: $*" >&2; }
fail() { say "$@"; exit 1; }

is_python_new() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if is_python_new "$candidate"; then command -v "$candidate"; return; fi
  done
  fail "Open Gallery needs Python 3.11 or newer; found ${PYTHON:-$(python3 --version 2>/dev/null || echo none)}." \
    "Install one (Debian 12, Ubuntu 24.04 and later bring it: apt-get install python3) or name it: make PYTHON=/path/to/python3 ..."
}

as_root() {
  # Descriptor 9 is this script's lock: a service that a package starts must not inherit it.
  if [ "$(id -u)" = 0 ]; then "$@" 9>&-; elif [ -t 0 ]; then sudo "$@" 9>&-; else sudo -n "$@" 9>&-; fi
}

apt() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@" </dev/null >&2
}

missing_packages() {
  local package installed
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
  for package; do
    grep -qx "installed $package" <<<"$installed" || printf '%s ' "$package"
  done
}

install_packages() {
  local missing
  command -v dpkg-query >/dev/null ||
    fail "This is no Debian or Ubuntu. Install what these Debian packages hold, then run '.venv/bin/gallery' by hand: $*"
  missing=$(missing_packages "$@")
  [ -n "$missing" ] || return 0
  say "these Debian packages are missing and are installed now: $missing"
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    fail "That needs root, and there is no sudo. Ask an administrator to run: apt-get install --no-install-recommends $missing"
  fi
  # shellcheck disable=SC2086
  if ! apt-cache show $missing >/dev/null 2>&1; then apt update || true; fi
  # Old lists name files that are gone: then a second try after an update finds the new ones.
  # shellcheck disable=SC2086
  apt install --no-install-recommends $missing || { apt update && apt install --no-install-recommends $missing; } ||
    fail "apt-get could not install them (its own words are above). Install them by hand, then try again: $missing"
}

# The boot image takes its kernel from apt: lists that are missing or old would name no kernel, or one that is gone.
refresh_package_lists() {
  [ ! -f .cache/boot.raw ] || return 0
  [ -z "$(find /var/lib/apt/lists -name '*Packages*' -ctime -1 -print -quit 2>/dev/null)" ] || return 0
  say "bringing apt's package lists up to date"
  apt update || say "that failed; going on with the lists that are there"
}

# A virtual environment is up to date when its stamp says what would be written there now. The stamp
# holds this folder's path too, since a moved environment's scripts point to where it was.
checksum() { cat "$@" | sha256sum | cut -d' ' -f1; }

is_up_to_date() { [ -x "$1/bin/python" ] && [ "$(cat "$1/.setup" 2>/dev/null)" = "$2" ]; }

make_environment() {
  local folder=$1 python
  [ "$(sed -n 's/^folder //p' "$folder/.setup" 2>/dev/null)" = "$PWD" ] && "$folder/bin/python" -c '' 2>/dev/null && return
  python=$(find_python)
  "$python" -c 'import ensurepip' 2>/dev/null || install_packages python3-venv
  "$python" -c 'import ensurepip' 2>/dev/null ||
    fail "$python can't make virtual environments (no ensurepip). Install its venv package, or name another: make PYTHON=..."
  say "making $folder with $("$python" --version)"
  rm -rf "$folder"
  "$python" -m venv "$folder"
}

# An interrupted set-up goes on in the folder that it began.
mark_unfinished() { printf 'folder %s\n' "$PWD" >"$1/.setup"; }

project_environment() {
  local lock=$1 stamp
  # Who has the development environment keeps it: it holds all that users need.
  grep -qx 'lock development' .venv/.setup 2>/dev/null && lock=development
  stamp="folder $PWD
lock $lock
$(checksum requirements/uv.txt "requirements/$lock.txt" pyproject.toml)"
  is_up_to_date .venv "$stamp" && return
  make_environment .venv
  mark_unfinished .venv
  say "installing requirements/$lock.txt into .venv"
  .venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/uv.txt
  .venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes --no-build --compile-bytecode "requirements/$lock.txt"
  .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
  printf '%s\n' "$stamp" >.venv/.setup
}

az_environment() {
  local stamp
  stamp="folder $PWD
$(checksum requirements/uv.txt requirements/az.txt)"
  is_up_to_date .venv-az "$stamp" && return
  make_environment .venv-az
  mark_unfinished .venv-az
  say "installing requirements/az.txt into .venv-az (the real az: some minutes)"
  .venv/bin/uv pip sync --quiet --python .venv-az/bin/python --require-hashes --no-build --compile-bytecode requirements/az.txt
  printf '%s\n' "$stamp" >.venv-az/.setup
}

azurite() {
  [ "$(cat .cache/azurite/.setup 2>/dev/null)" = "$AZURITE_VERSION" ] && return
  say "installing azurite $AZURITE_VERSION into .cache/azurite"
  mkdir -p .cache/azurite
  npm install --silent --no-fund --no-audit --no-package-lock --prefix .cache/azurite "azurite@$AZURITE_VERSION" >&2
  printf '%s\n' "$AZURITE_VERSION" >.cache/azurite/.setup
}

oidc_issuer() {
  local stamp
  stamp=$(checksum requirements/oidc-issuer/package.json requirements/oidc-issuer/package-lock.json)
  [ "$(cat .cache/oidc-issuer/.setup 2>/dev/null)" = "$stamp" ] && return
  say "installing requirements/oidc-issuer into .cache/oidc-issuer"
  mkdir -p .cache/oidc-issuer
  cp requirements/oidc-issuer/package*.json .cache/oidc-issuer/
  npm ci --silent --no-fund --no-audit --ignore-scripts --prefix .cache/oidc-issuer >&2
  printf '%s\n' "$stamp" >.cache/oidc-issuer/.setup
}

# npm brings hundreds of Debian packages: only who has it tests with it.
oidc_issuer_where_node_is() {
  if command -v node >/dev/null && command -v npm >/dev/null; then oidc_issuer; fi
}

# Who has node and npm from elsewhere keeps them.
without_node() {
  if command -v node >/dev/null && command -v npm >/dev/null; then
    printf '%s\n' "${1//nodejs npm/}"
  else
    printf '%s\n' "$1"
  fi
}

mkdir -p .cache
exec 9>.cache/setup.lock
flock 9

# shellcheck disable=SC2086
case "${1:-}" in
  use)
    install_packages $RUN_PACKAGES $BOOT_IMAGE_PACKAGES
    refresh_package_lists
    project_environment users ;;
  check)
    project_environment development ;;
  develop)
    install_packages $RUN_PACKAGES $BOOT_IMAGE_PACKAGES $DEVELOP_PACKAGES
    oidc_issuer_where_node_is
    project_environment development ;;
  accept)
    install_packages $RUN_PACKAGES $BOOT_IMAGE_PACKAGES $DEVELOP_PACKAGES
    oidc_issuer_where_node_is
    project_environment development
    az_environment ;;
  bench)
    install_packages $RUN_PACKAGES $BOOT_IMAGE_PACKAGES $DEVELOP_PACKAGES $BENCH_PACKAGES
    project_environment development
    az_environment ;;
  soak)
    install_packages $RUN_PACKAGES $BOOT_IMAGE_PACKAGES $DEVELOP_PACKAGES $(without_node "$SOAK_PACKAGES")
    azurite
    oidc_issuer
    project_environment development ;;
  *)
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2 ;;
esac
