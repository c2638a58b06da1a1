# The inner part of guarded.sh, after the same assignments: runs the command, then sends its
# results.
capstan_shell=sh
! command -v bash >/dev/null 2>&1 || capstan_shell=bash
capstan_setsid=
! command -v setsid >/dev/null 2>&1 || capstan_setsid=setsid
exec 3>&1 1>&2
{
    (
        exec 3>&-
        IFS=' ' read -r capstan_pid capstan_rest </proc/self/stat
        printf '%s start %s\n' "$nonce" "$capstan_pid"
        CDPATH='' cd -- "$cwd" || exit 126
        unset capstan_pid capstan_rest OLDPWD
        capstan_launch
    ) 2>&1
    printf '\n%s end %s\n' "$nonce" "$?"
    # shellcheck disable=SC2086 # a list of paths without spaces
    (cd / && tar -c -f - $collected) >&3
    printf '%s done\n' "$nonce" >&3
} </dev/null 2>/dev/null | cat 3>&-
