#!/bin/sh
# Says what this machine lacks and which command brings it.
#
#   check_host.sh build PYTHON   what compiling pykvm and its guests needs; fails if anything is missing
#   check_host.sh kvm            whether this user can use /dev/kvm; fails if not
set -u

packages=

miss() {
    echo "pykvm: $1" >&2
    packages="$packages $2"
}

compiles() { echo "$1" | gcc -E -x c ${2:+-I"$2"} - > /dev/null 2>&1; }

check_build() {
    python=$1
    if ! command -v "$python" > /dev/null; then
        miss "no $python: pykvm needs Python 3.11 or newer" "python3 python3-venv python3-dev"
    elif ! "$python" -c '' > /dev/null 2>&1; then
        echo "pykvm: $(command -v "$python") does not start: $("$python" -c '' 2>&1 | head -n 1)" >&2
        echo "Where that is pyenv's: select a Python (pyenv shell 3.12), or name one with make PYTHON=/usr/bin/python3" >&2
        exit 1
    elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "pykvm: $("$python" -V 2>&1) is too old, 3.11 is needed: name a newer one with make PYTHON=python3.12" >&2
        exit 1
    else
        # Debian and Ubuntu name the packages of a Python that is not the system's own by its version.
        prefix=python3
        [ "$(command -v "$python")" = /usr/bin/python3 ] ||
            prefix=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        "$python" -c 'import ensurepip, venv' 2> /dev/null ||
            miss "$python cannot make a virtual environment (its venv or ensurepip module is missing)" "$prefix-venv"
    fi
    if ! command -v gcc > /dev/null; then
        miss "no gcc" "gcc libc6-dev"
    else
        compiles '#include <stdio.h>' || miss "no C library headers" libc6-dev
        compiles '#include <linux/kvm.h>' || miss "no <linux/kvm.h>" linux-libc-dev
        if command -v "$python" > /dev/null; then
            include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
            compiles '#include <Python.h>' "$include" || miss "no <Python.h> for $python" "$prefix-dev"
        fi
    fi
    [ -z "$packages" ] || { echo "On Debian or Ubuntu: sudo apt-get install$packages" >&2; exit 1; }
}

check_kvm() {
    if [ ! -c /dev/kvm ]; then
        echo "pykvm: this machine has no /dev/kvm" >&2
        if grep -qw vmx /proc/cpuinfo; then
            echo "Load KVM for this Intel CPU: sudo modprobe kvm_intel" >&2
        elif grep -qw svm /proc/cpuinfo; then
            echo "Load KVM for this AMD CPU: sudo modprobe kvm_amd" >&2
        elif grep -qw hypervisor /proc/cpuinfo; then
            echo "This is a virtual machine: turn on nested virtualization for it on its host, then" >&2
            echo "sudo modprobe kvm_intel (Intel) or sudo modprobe kvm_amd (AMD)" >&2
        else
            echo "Turn on virtualization (Intel VT-x or AMD-V) in the firmware's set-up" >&2
        fi
        echo "Without hardware for it, docs/contributing.md shows how to use an emulated KVM" >&2
    elif ( : <> /dev/kvm ) 2> /dev/null; then
        return
    elif [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
        echo "pykvm: /dev/kvm is there but does not open" >&2
        echo "In a container, give it the device: docker run --device /dev/kvm ..." >&2
    elif [ "$(stat -c %G /dev/kvm)" = kvm ]; then
        echo "pykvm: $(id -un) may not use /dev/kvm" >&2
        echo "Join the group kvm and log in anew: sudo usermod -aG kvm $(id -un)" >&2
    else
        echo "pykvm: $(id -un) may not use /dev/kvm, and it does not belong to the group kvm" >&2
        echo "Open it to all users, as udev does by default: sudo chmod a+rw /dev/kvm" >&2
    fi
    exit 1
}

case ${1-} in
    build) check_build "${2:-python3}" ;;
    kvm) check_kvm ;;
    *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
