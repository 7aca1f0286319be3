# shellcheck shell=bash
# Shared by scripts/setup, scripts/setup-tests and tests/clients/run. Sourced, not run.

# Not target/, which has a variable of its own.
cache=${OPLEDGER_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/opledger}

say() { printf "${0##*/}: %s\n" "$@"; }

fail() {
    say "$@" >&2
    exit 1
}

on_debian() { command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; }

install_packages() { # PACKAGE...
    (($#)) || return 0
    local as_root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "these packages are missing, and there is no sudo to install them:" "  $*"
        as_root=(sudo)
    fi
    say "installing $*"
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120)
    "${apt[@]}" update
    "${apt[@]}" install -y --no-install-recommends "$@" >/dev/null
}

# Where the classes of a Java client are. Named by a digest of the source: another
# checkout, with another version of it, shares the cache.
java_classes() { # FILE
    local sum
    sum=$(sha256sum <"$1")
    echo "$cache/clients/java/${sum:0:16}"
}
