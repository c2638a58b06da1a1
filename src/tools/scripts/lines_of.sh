# lines_of FILE FIRST LAST WIDTH: prints the number of line feeds and 1 if the last line has none,
# else 0. Then prints the lines FIRST to LAST, each cut to WIDTH bytes.
LC_ALL=C
export LC_ALL
open=0
[ -z "$(tail -c 1 "$1")" ] || open=1
echo $(wc -l <"$1") $open
sed -n "$2,$3p;$3q" "$1" | cut -b "1-$4"
