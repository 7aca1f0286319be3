# shellcheck shell=bash
# Prometheus' own programs for scripts/check-deploy and deploy/try-queries. Sourced after scripts/lib.sh.

# Debian ships promtool with the server, which nobody wants installed and started
# here: so single files are taken out of the package.
from_prometheus_package() { # FOLDER PROGRAM...
    local folder=$1 package as_root=()
    shift
    on_debian || fail "missing: $* (they come with Prometheus)"
    ((EUID == 0)) || as_root=(sudo)
    package=$(mktemp -d)
    download() { (cd "$package" && apt-get -qq -o APT::Sandbox::User=root download prometheus); }
    # A fresh machine has no list of packages, or an old one.
    download 2>/dev/null || { "${as_root[@]}" apt-get -qq -o DPkg::Lock::Timeout=120 update && download; }
    dpkg-deb --fsys-tarfile "$package"/prometheus_*.deb | tar -x -C "$package" "${@/#/./usr/bin/}"
    mv "${@/#/$package/usr/bin/}" "$folder/"
    rm -r "$package"
}
