# Runs one command in a root of its own, in which chosen folders are private. guard.py puts
# assignments before it and passes it to `unshare --mount sh -c`. It needs SYS_ADMIN, SYS_CHROOT and
# SETPCAP, and gives them up.
#
# The root is a tmpfs that binds every entry of / but the private folders. Mounting over the folders
# alone is not enough: a process outside can rename or remove a mount point under /, and the mount
# with it. The tmpfs lies on a folder of procfs, which nobody can rename or remove.
#
# stdin: a tar of the private folders' first contents. stderr: framed output, as supervisor.sh says.
# stdout: a tar of the folders in $collect, made when the command has ended, then `<nonce> done`.

for capstan_tool in mount umount chroot setpriv tar cat; do
    command -v $capstan_tool >/dev/null || { echo "no $capstan_tool here" >&2; exit 125; }
done
new=
for folder in /proc/fs /proc/bus /proc/irq; do
    [ -z "$new" ] && [ -d $folder ] && new=$folder
done
mount --make-rprivate / && mount -t tmpfs -o mode=755 capstan "$new" || exit 125

# mirror FOLDER: makes the entries of FOLDER (without its last slash) appear under $new. An entry
# that vanishes meanwhile is left out.
mirror() {
    for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        case " $private " in *" $entry "*) continue ;; esac
        if [ -L "$entry" ]; then
            case " $private" in *" $entry/"*) continue ;; esac
            cp -P -- "$entry" "$new$entry"
        elif [ -d "$entry" ]; then
            mkdir -- "$new$entry"
            case " $private" in
            *" $entry/"*) (mirror "$entry") ;;
            *) mount --rbind -- "$entry" "$new$entry" || rmdir -- "$new$entry" ;;
            esac
        elif [ -f "$entry" ]; then
            : >"$new$entry" && mount --bind -- "$entry" "$new$entry"
        fi
    done 2>/dev/null
}
mirror ''
umount "$new$new" 2>/dev/null # the copy of this very root that came with /proc
for folder in $private; do mkdir -p "$new$folder" || exit 125; done
tar -x -p -f - -C "$new" || exit 125
for folder in $collect; do chmod 777 "$new$folder" || exit 125; done
for file in $executable; do chmod a+x "$new$file" || exit 125; done

cd / || exit 125
exec chroot "$new" setpriv --bounding-set="$capabilities" --inh-caps=-all --no-new-privs sh -c "$inner"
