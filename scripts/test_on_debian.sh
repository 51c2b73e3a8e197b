#!/bin/sh
# Run the tests with the Python, the torch and the newest everything else of a release of Debian.
#
#     scripts/test_on_debian.sh FOLDER SUITE [what pytest is to do]
#     sudo scripts/test_on_debian.sh /var/tmp/chroots sid -q tests/test_nussl_*.py
#
# SUITE is trixie (Python 3.13) or sid (3.14, today). FOLDER/SUITE becomes a Debian of its own, with Debian's
# torch for the CPU and a virtual environment with the package and its extras, at the newest versions that its
# ranges allow (constraints.txt is left aside). It takes 6 GB and some ten minutes; what is there is used again.
# Needs root and debootstrap (apt-get install debootstrap), on Linux. MIRROR in the environment names a mirror.
set -eu

if [ $# -lt 2 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 2
fi
mkdir -p "$1"
root=$(cd "$1" && pwd)/$2
suite=$2
shift 2
cd "$(dirname "$0")/.."

if ! [ -e "$root/debian" ]; then
    rm -rf "$root"
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" \
        "${MIRROR:-http://deb.debian.org/debian}"
    touch "$root/debian"
fi

# The network as this machine has it.
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/usr/local/share/ca-certificates"
cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/" 2>/dev/null || true

rm -rf "$root/src"
mkdir "$root/src"
git ls-files -z --cached --others --exclude-standard | tar -c --null --ignore-failed-read -T - | tar -x -C "$root/src"

# What is mounted here is gone when the last process here has ended, however it ends.
export ROOT="$root"
exec unshare --mount sh -euc '
    mount -t proc proc "$ROOT/proc"
    mount --rbind /dev "$ROOT/dev"
    exec chroot "$ROOT" env -u PYTHONPATH -u VIRTUAL_ENV HOME=/root LANG=C.UTF-8 OMP_NUM_THREADS=1 \
        PATH=/usr/sbin:/usr/bin:/sbin:/bin sh /src/scripts/test_on_debian_inside.sh "$@"' sh "$@"
