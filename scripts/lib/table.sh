# shellcheck shell=bash
# A table whose rows are printed as they come: step, what was expected, what happened, how long. Needs common.sh.

TABLE_WIDTHS=()
TABLE_PASSED=0
TABLE_FAILED=0

table_start() {
    local width=120 rest
    [ ! -t 1 ] || width=$(tput cols 2> /dev/null || echo 120)
    [ "$width" -le 140 ] || width=140
    [ "$width" -ge 80 ] || width=80
    # Five columns with two spaces between them: the mark, three texts, the seconds.
    rest=$((width - 4 - 8 - 8))
    TABLE_WIDTHS=(4 $((rest * 38 / 100)) $((rest * 30 / 100)) $((rest * 32 / 100)) 8)
    printf '\n%s' "$BOLD"
    table_line '' step expected happened time
    printf '%s' "$PLAIN"
}

# Prints one line of a row, each text padded to its column.
table_line() {
    local column text width line=
    for column in 0 1 2 3; do
        text=${*:column+1:1} width=${TABLE_WIDTHS[column]}
        # printf pads by bytes; the shell counts characters.
        line+=$text
        [ "${#text}" -ge "$width" ] || line+=$(printf '%*s' $((width - ${#text})) '')
        line+='  '
    done
    text=$5
    printf '%s%*s\n' "$line" "${TABLE_WIDTHS[4]}" "$text"
}

# Prints a text broken at words into lines of at most $2 characters.
wrapped() {
    local word line=
    for word in $1; do
        if [ -n "$line" ] && [ $((${#line} + 1 + ${#word})) -gt "$2" ]; then
            printf '%s\n' "$line"
            line=
        fi
        while [ "${#word}" -gt "$2" ]; do
            printf '%s\n' "${word:0:$2}"
            word=${word:$2}
        done
        line+=${line:+ }$word
    done
    printf '%s\n' "$line"
}

# Prints a row and counts it.  table_row ok|FAIL STEP EXPECTED HAPPENED SECONDS
table_row() {
    local steps expected happened index mark=$1 seconds=$5 colour=$GREEN
    if [ "$mark" = ok ]; then
        TABLE_PASSED=$((TABLE_PASSED + 1))
    else
        TABLE_FAILED=$((TABLE_FAILED + 1))
        colour=$RED
    fi
    set -f
    mapfile -t steps < <(wrapped "$2" "${TABLE_WIDTHS[1]}")
    mapfile -t expected < <(wrapped "$3" "${TABLE_WIDTHS[2]}")
    mapfile -t happened < <(wrapped "$4" "${TABLE_WIDTHS[3]}")
    set +f
    for ((index = 0; index < ${#steps[@]} || index < ${#expected[@]} || index < ${#happened[@]}; index++)); do
        [ "$index" -ne 0 ] || printf '%s' "$colour"
        table_line "$mark" "${steps[index]:-}" "${expected[index]:-}" "${happened[index]:-}" "$seconds"
        printf '%s' "$PLAIN"
        mark='' seconds=''
    done
}

# Prints rows from standard input: lines of five fields with tabs between them, as table_row takes them.
table_rows() {
    local mark name expected happened seconds
    while IFS=$'\t' read -r mark name expected happened seconds; do
        table_row "$mark" "$name" "$expected" "$happened" "$seconds"
    done
}
