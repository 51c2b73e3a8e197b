#!/bin/sh
# Check for what pip cannot install, and install it where that needs no password.
#
#   system_needs.sh             what running needs: ffmpeg, sox
#   system_needs.sh python3.11  what installing with that Python needs as well: nussl and scaper ask for
#                               soxbindings, which has no wheels and compiles against SoX's library
#
# Prints nothing when nothing is missing.
set -u

python=${1:-}

# A C++ program that needs SoX's header and library; -lsox is soxbindings' own link option.
builds_against_sox() {
    scratch=$(mktemp -d) || return 1
    echo '#include <sox.h>
int main() { return sox_version() == nullptr; }' >"$scratch/sox.cpp"
    "${CXX:-c++}" -o "$scratch/sox" "$scratch/sox.cpp" -lsox >/dev/null 2>&1
    status=$?
    rm -rf "$scratch"
    return $status
}

python_can() {
    "$python" -c "$1" >/dev/null 2>&1
}

# Sets: missing (for the reader), debian, fedora, homebrew (packages).
look() {
    missing= debian= fedora= homebrew=
    # musdb and stempeg call ffmpeg and ffprobe to read .stem.mp4, .mp3 and .m4a.
    if ! command -v ffmpeg >/dev/null 2>&1 || ! command -v ffprobe >/dev/null 2>&1; then
        need ffmpeg ffmpeg ffmpeg-free ffmpeg
    fi
    # nussl and scaper call SoX through soxbindings; without the program, importing either prints a long complaint.
    command -v sox >/dev/null 2>&1 || need sox sox sox sox
    [ -n "$python" ] || return 0

    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if ! command -v "${CXX:-c++}" >/dev/null 2>&1; then
        need "a C++ compiler" g++ gcc-c++ gcc
        need "SoX's headers" libsox-dev sox-devel sox
    elif ! builds_against_sox; then
        need "SoX's headers" libsox-dev sox-devel sox
    fi
    python_can 'import os, sysconfig; os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))' ||
        need "Python's headers" "python$version-dev" python3-devel "python@$version"
    python_can 'import ensurepip, venv' ||
        need "Python's venv module" "python$version-venv" python3 "python@$version"
}

# need WHAT DEBIAN FEDORA HOMEBREW: add to the lists, each package once.
need() {
    missing="$missing${missing:+, }$1"
    debian="$debian${debian:+ }$2"
    fedora="$fedora${fedora:+ }$3"
    case " $homebrew " in
    *" $4 "*) ;;
    *) homebrew="$homebrew${homebrew:+ }$4" ;;
    esac
}

# Runs its arguments as root if that needs no password.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

may_be_root() {
    [ "$(id -u)" = 0 ] || sudo -n true >/dev/null 2>&1
}

look
[ -n "$missing" ] || exit 0

# The lists are split at their spaces on purpose.
# shellcheck disable=SC2086
if [ "$(uname -s)" = Darwin ]; then
    if command -v brew >/dev/null 2>&1; then
        echo "Missing: $missing. Installing with Homebrew: $homebrew"
        brew install $homebrew
    fi
elif may_be_root; then
    if command -v apt-get >/dev/null 2>&1; then
        echo "Missing: $missing. Installing with apt-get: $debian"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $debian
    elif command -v dnf >/dev/null 2>&1; then
        echo "Missing: $missing. Installing with dnf: $fedora"
        as_root dnf install -y -q $fedora
    fi
fi

look
[ -n "$missing" ] || exit 0
echo "Missing: $missing; install with 'apt-get install $debian' on Debian or Ubuntu," \
    "'dnf install $fedora' on Fedora, or 'brew install $homebrew' on macOS, then run make again." >&2
exit 1
