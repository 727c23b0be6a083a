# shellcheck shell=bash
# How the image's programs read their settings; sourced by docker/entrypoint and docker/usmed, starts nothing.

usmed_fail() {
    printf 'usmed: %s\n' "$@" >&2
    exit 1
}

# Exports $1 from the file that $1_FILE names. A value and a file at once is a mistake nobody should have to guess at.
usmed_secret() {
    local name=$1 file_name=$1_FILE
    local file=${!file_name:-}
    [ -n "$file" ] || return 0
    [ -z "${!name:-}" ] || usmed_fail "both $name and $file_name are set: set one of them"
    [ -r "$file" ] || usmed_fail "$file_name: cannot read $file as user $(id -u)" \
        "give the file to that user: chown 10001 FILE && chmod 0400 FILE"
    export "$name=$(cat "$file")"
    unset "$file_name"
}

# Prints $1 percent-encoded for the user and password part of a URL (RFC 3986 section 2.1).
usmed_percent_encoded() {
    local LC_ALL=C text=$1 position character
    for ((position = 0; position < ${#text}; position++)); do
        character=${text:position:1}
        case $character in
            [a-zA-Z0-9._~-]) printf '%s' "$character" ;;
            *) printf '%%%02X' "'$character" ;;
        esac
    done
}

# Sets USMED_DATABASE_URL: as given, or from a file, or on the same PostgreSQL server that USMED_POSTGRESQL_* names.
usmed_database_url() {
    usmed_secret USMED_DATABASE_URL
    usmed_secret USMED_POSTGRESQL_PASSWORD
    [ -z "${USMED_DATABASE_URL:-}" ] && [ "${USMED_POSTGRESQL:-false}" = true ] || return 0
    USMED_DATABASE_URL="postgresql+psycopg://${USMED_POSTGRESQL_USER:-usmed}:$(
        usmed_percent_encoded "${USMED_POSTGRESQL_PASSWORD:-}")@${USMED_POSTGRESQL_HOST:-localhost}:$(
        )${USMED_POSTGRESQL_PORT:-5432}/${USMED_OWN_DATABASE:-usmed}"
    export USMED_DATABASE_URL
}
