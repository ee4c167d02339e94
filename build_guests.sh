#!/bin/bash
# Builds the guest programs of guests/ with gcc and binutils alone:  ./build_guests.sh [output directory]
# The result is the same to the byte wherever and whenever it is built. If no source changed, nothing is done.
set -euo pipefail

output=$(mkdir -p "${1:-$(dirname "$0")/guests/build}" && cd "${1:-$(dirname "$0")/guests/build}" && pwd)
cd "$(dirname "$0")"

for tool in gcc ld ar objcopy; do
    if ! command -v "$tool" >/dev/null; then
        package=binutils
        [ "$tool" = gcc ] && package=gcc
        echo "build_guests.sh: $tool is missing (Debian: apt-get install $package)" >&2
        exit 1
    fi
done
case $(gcc -dumpmachine) in
x86_64*) ;;
*) echo "build_guests.sh: gcc makes code for $(gcc -dumpmachine), not x86-64" >&2 && exit 1 ;;
esac

exec 9>"$output/.lock"
flock 9 # two runs at a time take turns

# No red zone: interrupts push right below RSP. No vector registers: interrupt handlers do not save them. The others
# keep out what needs a run-time library, an unwinder or a loader.
common=(-g -Wall -Wextra -Werror "-ffile-prefix-map=$PWD=.")
cflags=("${common[@]}" -std=gnu11 -O2 -ffreestanding -fno-pic -mno-red-zone -mgeneral-regs-only -fcf-protection=none
    -fno-stack-protector -fno-asynchronous-unwind-tables -ffunction-sections -fdata-sections)
ldflags=(-static -nostdlib --build-id=none --gc-sections --fatal-warnings -z noexecstack -z max-page-size=4096)
layout=(-T guests/lib/link.ld)

bold='' plain=''
[ -t 1 ] && bold=$'\033[1m' plain=$'\033[0m'
report() { printf '%s%-26s%s %6d bytes  %s\n' "$bold" "$1" "$plain" "$(stat -c %s "$output/$1")" "$2"; }

# Is everything there, and newer than every source?
fresh() {
    [ -f "$output/.built" ] || return 1
    local newer
    newer=$(find guests build_guests.sh -path guests/build -prune -o -newer "$output/.built" -print -quit)
    [ -z "$newer" ] || return 1
    while read -r name _; do [ -f "$output/$name" ] || return 1; done <"$output/.built"
}
if fresh; then
    while read -r name mode; do report "$name" "$mode"; done <"$output/.built"
    exit 0
fi

work=$(mktemp -d "$output/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
: >"$work/began"

object() { # name source [flag...]
    gcc "${cflags[@]}" "${@:3}" -c "$2" -o "$work/$1.o"
}

jobs=()
in_background() {
    "$@" &
    jobs+=($!)
}
wait_for_jobs() {
    local failed=''
    for job in "${jobs[@]}"; do wait "$job" || failed=yes; done
    jobs=()
    [ -z "$failed" ] || exit 1 # the compiler has said why
}

library=()
for source in guests/lib/*.[cS]; do
    name=lib-$(basename "${source%.*}")
    in_background object "$name" "$source"
    [ "$name" = lib-start ] || library+=("$work/$name.o")
done
wait_for_jobs
ar rcsD "$work/library.a" "${library[@]}"

built=()
guest64() { # name source... [-flag...]: with the library
    local name=$1 flags=() objects=("$work/lib-start.o") argument
    for argument in "${@:2}"; do [[ $argument == -* ]] && flags+=("$argument"); done
    for argument in "${@:2}"; do
        [[ $argument == -* ]] && continue
        object "$name-$argument" "guests/$argument" "${flags[@]}"
        objects+=("$work/$name-$argument.o")
    done
    ld "${ldflags[@]}" "${layout[@]}" -o "$work/$name.elf" "${objects[@]}" "$work/library.a"
}

alone() { # name source bits: one assembler file, no library
    case $3 in
    64) object "$1" "guests/$2" && ld "${ldflags[@]}" "${layout[@]}" -o "$work/$1.elf" "$work/$1.o" ;;
    32) object "$1" "guests/$2" -m32 && ld -m elf_i386 "${ldflags[@]}" "${layout[@]}" -o "$work/$1.elf" "$work/$1.o" ;;
    16) object "$1" "guests/$2" -m32 && ld -m elf_i386 -Ttext 0x7C00 --oformat binary -o "$work/$1.bin" "$work/$1.o" ;;
    esac
}

paged32() { # name: C and assembler, 32 bits, no library, a linker script of its own
    object "$1-c" "guests/$1.c" -m32
    object "$1-S" "guests/$1.S" -m32
    ld -m elf_i386 "${ldflags[@]}" -T "guests/$1.ld" -o "$work/$1.elf" "$work/$1-c.o" "$work/$1-S.o"
}

shell32() { # name: shell.c in 32 bits, with those parts of the library that need no interrupts
    object "$1-start" guests/shell32.S -m32
    object "$1-c" guests/shell.c -m32
    for part in string serial power; do object "$1-$part" "guests/lib/$part.c" -m32; done
    ld -m elf_i386 "${ldflags[@]}" "${layout[@]}" -o "$work/$1.elf" "$work/$1"-{start,c,string,serial,power}.o
}

build() { # file kind argument...
    built+=("$1")
    echo "$1 $3" >>"$work/built"
    in_background "$2" "${1%.*}" "${@:4}"
    [ ${#jobs[@]} -lt 8 ] || wait_for_jobs
}

build hello16.bin alone 'real mode' hello16.S 16
build bios.bin alone 'real mode' bios.S 16
build hello32.elf alone 'protected mode' hello32.S 32
build trampoline32.elf alone 'protected and real mode' trampoline32.S 32
build hello64.elf guest64 'long mode' hello64.c
for name in echo disk net internet pci timer hpet clocks chaos deaf demo hash msrs shell; do
    build $name.elf guest64 'long mode' $name.c
done
build smp.elf guest64 'long mode' smp.c smp_trampoline.S
build user.elf guest64 'long mode' user.c user_switch.S user_programs.S
build paged32.elf paged32 '32-bit paging'
build shell32.elf shell32 'protected mode'
build spin.elf alone 'long mode' spin.S 64
build flood.elf alone 'long mode' flood.S 64
build crash-real16.bin alone 'real mode' crash16.S 16
build crash-prot32.elf alone 'protected mode' crash32.S 32
build crash-paging32.elf alone 'protected mode' crash_paging32.S 32
build crash-gdt32.elf alone 'protected mode' crash_gdt32.S 32
build crash-sti32.elf alone 'protected mode' crash_sti32.S 32
build crash-long32.elf alone 'protected mode' crash_long32.S 32
for way in $(sed -n 's/^DEATH \([a-z_0-9]*\)(.*/\1/p' guests/crash.c); do
    # Frame pointers and no tail calls: for the backtrace.
    build "crash-${way//_/-}.elf" guest64 'long mode' crash.c "-DWAY=$way" -fno-omit-frame-pointer \
        -fno-optimize-sibling-calls
done
wait_for_jobs

for name in "${built[@]}"; do mv "$work/$name" "$output/$name"; done # at once: nobody sees half a file
touch -r "$work/began" "$work/built" # what changed since then is built the next time
mv "$work/built" "$output/.built"
while read -r name mode; do report "$name" "$mode"; done <"$output/.built"
