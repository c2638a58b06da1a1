# files PATTERN EXTENDED FIND-ARGUMENT...
#   Prints the program that searches, its error if it refuses the pattern, and those of find's files
#   that have a matching line, in no order. Each is followed by NUL. EXTENDED is the pattern for
#   grep -E.
# lines PATTERN EXTENDED PROGRAM COUNT WIDTH BINARY FILE...
#   Prints for each file, in order, "+", its first COUNT matching lines with their numbers, each cut
#   to WIDTH bytes, and NUL. For a file without a match, or with a NUL byte unless BINARY is set, it
#   prints "-" and NUL.
LC_ALL=C
export LC_ALL
mode=$1 pattern=$2 extended=$3
shift 3

use() {
    program=$1
    case $program in
        ripgrep) command='rg --no-config --no-messages --color never --no-heading --text' ;;
        'grep -P') command='grep -s -a -P' ;;
        *)
            command='grep -s -E' pattern=$extended
            if printf x | grep -a -q x 2>/dev/null; then command='grep -s -a -E'; fi
            ;;
    esac
}

find_files() {
    if command -v rg >/dev/null; then
        use ripgrep
    elif printf x | grep -P -q x 2>/dev/null; then
        use 'grep -P'
    else
        use 'grep -E'
    fi
    printf '%s\000' "$program"
    # busybox reads the pattern only when there is a line to match.
    error=$(echo | $command -q -e "$pattern" -- - 2>&1)
    [ $? -le 1 ] || {
        printf '%s\000' "$error"
        exit 0
    }
    printf '\000'
    command -v find >/dev/null || {
        echo 'the container has no find' >&2
        exit 1
    }
    break='
'
    find "$@" ! -path "*$break*" -exec $command -l -e "$pattern" -- {} + 2>/dev/null | tr '\n' '\000'
    find "$@" -path "*$break*" -exec $command -q -e "$pattern" -- {} \; -exec printf '%s\000' {} \; 2>/dev/null
}

is_binary() {
    [ -n "$(tr -dc '\000' <"$1" 2>/dev/null | tr '\000' x | dd bs=1 count=1 2>/dev/null)" ]
}

print_lines() {
    use "$1"
    count=$2 width=$3 binary=$4
    shift 4
    for file do
        if { [ -z "$binary" ] && is_binary "$file"; } || ! $command -q -e "$pattern" -- "$file"; then
            printf -- '-\000'
            continue
        fi
        printf +
        if [ "$count" -gt 0 ]; then
            $command -n -e "$pattern" -- "$file" | head -n "$count" | tr -d '\000' | cut -b "1-$width"
        fi
        printf '\000'
    done
}

case $mode in
    files) find_files "$@" ;;
    lines) print_lines "$@" ;;
esac
exit 0
