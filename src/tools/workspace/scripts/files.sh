# Paths are absolute and normalised. `real` follows links of the last component; `guard` checks the
# path behind all links.

# real PATH: sets RP to the target of the links in its last component, or to PATH itself.
real() {
  RP=$1 n=0
  while [ -L "$RP" ]; do
    n=$((n + 1))
    [ $n -le 40 ] || fail loop
    link_text "$RP"
    case $TEXT in
      /*) RP=$TEXT ;;
      *) RP=${RP%/*}/$TEXT ;;
    esac
  done
}

# link_text PATH: sets TEXT to the link's text, including trailing newlines.
link_text() {
  TEXT=$(readlink "$1" && echo .) && TEXT=${TEXT%??} && return
  TEXT=$(ls -ld "$1" && echo .)
  TEXT=${TEXT%??} TEXT=${TEXT#*" $1 -> "}
}

# guard PATH: refuses paths that are off limits, behind any link. The file need not exist.
guard() {
  at=$1
  while [ -n "$at" ] && [ ! -d "$at" ]; do at=${at%/*}; done
  at=$(cd -P -- "${at:-/}" && pwd -P)
  case $at/ in
    /workspace/agent/* | /tests/* | /solution/* | /logs/verifier/*) fail forbidden "$at" ;;
  esac
}

# get PATH OFFSET COUNT: header "size kind", then the bytes.
rpc_get() {
  real "$1"
  guard "$RP"
  [ ! -d "$RP" ] || fail isdir
  [ -e "$RP" ] || fail missing
  [ -r "$RP" ] || fail denied
  kind=other
  [ ! -f "$RP" ] || kind=file
  header "$(size_of_file "$RP")" $kind
  case $kind in
    file) part "$RP" "$2" "$3" | encode ;;
    # A device or a pipe may block or never end.
    *) : ;;
  esac
  footer
}
size_of_file() {
  if [ -f "$1" ]; then size_of "$1" || echo 0; else echo 0; fi
}

# meta PATH...: "raw mode in hex, size" of each. Without stat, they come from ls.
meta() {
  if [ -n "$STAT" ]; then
    lines=$(stat -c '%f %s' -- "$@") && printf '%s\n' "$lines" && return
  fi
  for m in "$@"; do
    line=$(ls -ldn -- "$m") || line=
    set -- $line
    bits=$(octal "${1:-?---------}")
    echo "$bits ${5:-0}"
  done
}
# octal drwxr-xr-x: type and permissions as a raw mode in hex.
octal() {
  s=$1
  case $s in
    -*) o=32768 ;; d*) o=16384 ;; l*) o=40960 ;; b*) o=24576 ;; c*) o=8192 ;; p*) o=4096 ;; s*) o=49152 ;; *) o=0 ;;
  esac
  case $s in ?r*) o=$((o + 256)) ;; esac
  case $s in ??w*) o=$((o + 128)) ;; esac
  case $s in ???x* | ???s*) o=$((o + 64)) ;; esac
  case $s in ???s* | ???S*) o=$((o + 2048)) ;; esac
  case $s in ????r*) o=$((o + 32)) ;; esac
  case $s in ?????w*) o=$((o + 16)) ;; esac
  case $s in ??????x* | ??????s*) o=$((o + 8)) ;; esac
  case $s in ??????s* | ??????S*) o=$((o + 1024)) ;; esac
  case $s in ???????r*) o=$((o + 4)) ;; esac
  case $s in ????????w*) o=$((o + 2)) ;; esac
  case $s in ?????????x* | ?????????t*) o=$((o + 1)) ;; esac
  case $s in ?????????t* | ?????????T*) o=$((o + 512)) ;; esac
  printf '%x' $o
}

# stat PATH: header "mode size", and for a link "link target-mode target-size" and its text as
# bytes.
rpc_stat() {
  guard "${1%/*}"
  [ -e "$1" ] || [ -L "$1" ] || {
    header none
    footer
    exit 0
  }
  if [ ! -L "$1" ]; then
    guard "$1"
    header $(meta "$1") -
    footer
    return
  fi
  link_text "$1"
  text=$TEXT own=$(meta "$1")
  real "$1"
  guard "$RP"
  target='- -'
  [ ! -e "$RP" ] || target=$(meta "$RP")
  header $own link $target
  printf %s "$text" | encode
  footer
}

# place PATH MODE SIZE: writes the output of `produce` to the file, all of it or nothing.
place() {
  real "$1"
  guard "$RP"
  [ ! -d "$RP" ] || fail isdir
  [ -f "$RP" ] || [ ! -e "$RP" ] || fail notfile
  dir=${RP%/*}
  why=$(mkdir -p -- "${dir:-/}" 2>&1) || fail parents "$why"
  tmp=$dir/.$A.$$ in_place=
  why=$( (: >"$tmp") 2>&1) || {
    # No file can be created in the folder, but an existing one may be writable.
    [ -f "$RP" ] && [ -w "$RP" ] || fail denied "${why##*: }"
    tmp=$D/$A.$$ in_place=1
  }
  produce >"$tmp"
  [ "$(size_of "$tmp")" = "$3" ] || {
    got=$(size_of "$tmp")
    rm -f -- "$tmp"
    fail short "$got"
  }
  if [ -n "$in_place" ]; then
    overwrite
  else
    if [ -n "$2" ]; then
      chmod "$2" "$tmp"
    elif [ -f "$RP" ]; then
      same_mode
    fi
    # A file that is a mount of its own (/etc/hosts in Docker) cannot be replaced by renaming.
    mv -f -- "$tmp" "$RP" || { [ -f "$RP" ] && overwrite; } || {
      rm -f -- "$tmp"
      fail denied
    }
  fi
  [ -z "$in_place" ] || [ -z "$2" ] || chmod "$2" "$RP"
  header ok
  footer
}
overwrite() {
  cp -- "$RP" "$D/$A.old" && [ -w "$RP" ] || {
    rm -f -- "$tmp" "$D/$A.old"
    fail denied
  }
  if cat "$tmp" >"$RP"; then
    rm -f -- "$tmp" "$D/$A.old"
  else
    cat "$D/$A.old" >"$RP"
    rm -f -- "$tmp" "$D/$A.old"
    fail disk
  fi
}
same_mode() {
  if [ -n "$STAT" ]; then
    chown "$(stat -c %u:%g -- "$RP")" "$tmp"
    chmod "$(stat -c %a -- "$RP")" "$tmp"
  else
    chmod "$(printf %o $((0x$(octal "$(ls -ldn -- "$RP")") % 4096)))" "$tmp"
  fi
}

# put PATH MODE SIZE PAYLOAD: writes a file that fits into one request.
rpc_put() {
  payload=$4
  produce() { decode "$payload"; }
  place "$1" "$2" "$3"
}

# chunk ID NUMBER PAYLOAD, then join PATH MODE SIZE ID COUNT GZIPPED: writes a larger file.
rpc_chunk() {
  decode "$3" >"$D/$1.$2" || fail disk
  header ok
  footer
}
rpc_join() {
  id=$4 count=$5 zipped=$6
  chunks() {
    i=0
    while [ $i -lt "$count" ]; do
      cat "$D/$id.$i"
      i=$((i + 1))
    done
  }
  produce() { if [ -n "$zipped" ]; then chunks | gzip -dc; else chunks; fi; }
  trap 'rm -f "$D/$id".[0-9]*' EXIT
  place "$1" "$2" "$3"
}
rpc_discard() {
  for id in "$@"; do rm -f "$D/$id".*; done
  header ok
  footer
}

rpc_remove() {
  guard "${1%/*}"
  [ -L "$1" ] || [ ! -d "$1" ] || fail isdir
  [ -L "$1" ] || [ -e "$1" ] || fail missing
  why=$(rm -f -- "$1" 2>&1) || fail denied "$why"
  header ok
  footer
}

# list PATH DEPTH BYTES: entries below a folder as "mode size", NUL, path, NUL; at most BYTES bytes.
rpc_list() {
  guard "$1"
  [ -e "$1" ] || fail missing
  [ -d "$1" ] || fail notdir
  [ -r "$1" ] && [ -x "$1" ] || fail denied
  header ok
  { if [ -n "$FIND" ]; then
    find "$1/" -mindepth 1 -maxdepth "$2" -printf '%y %s\0%P\0'
  else
    below "$1/" '' "$2"
  fi; } | limited "$3" | encode
  footer
}
limited() { if [ -n "$HEADC" ]; then head -c "$1"; else dd bs=4096 count=$(($1 / 4096)); fi; }
# below ROOT PREFIX DEPTH: runs one stat for all entries of a folder.
below() (
  set -- "$1" "$2" "$3" "$1$2"* "$1$2".[!.]* "$1$2"..?*
  root=$1 depth=$3
  shift 3
  n=$#
  while [ $n -gt 0 ]; do
    e=$1
    shift
    n=$((n - 1))
    if [ -e "$e" ] || [ -L "$e" ]; then set -- "$@" "$e"; fi
  done
  [ $# -gt 0 ] || exit 0
  meta "$@" | for e in "$@"; do
    read -r line
    printf '%s\0%s\0' "$line" "${e#"$root"}"
    if [ "$depth" -gt 1 ] && [ -d "$e" ] && [ ! -L "$e" ]; then
      below "$root" "${e#"$root"}/" $((depth - 1))
    fi
  done
)
