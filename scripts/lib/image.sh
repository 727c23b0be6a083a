# shellcheck shell=bash
# Builds the images. Needs common.sh and engine.sh (ensure_engine called before).
#
#   usmed-packages   Debian's packages that everything runs on
#   usmed            the image that hospitals run
#   usmed-demo       packages and pip, for the sample data and the workstation of the demonstration
#   usmed-test       packages, browser and test tools
#
# The base is Docker Hub's debian:forky-slim, or where Docker Hub cannot be reached (an air-gapped hospital network)
# the same suite made with mmdebstrap from the Debian archive that this machine uses.

BASE_FROM_HUB=debian:forky-slim
BASE_FROM_ARCHIVE=usmed-base:forky
BASE=
ARCHIVE_OPTIONS=$BUILD/archive-options

has_image() { "${DOCKER[@]}" image inspect "$1" > /dev/null 2>&1; }

# Prints the Debian mirror that this machine itself uses; deb.debian.org if it has none.
debian_mirror() {
    if [ -n "${USMED_DEBIAN_MIRROR:-}" ]; then
        echo "${USMED_DEBIAN_MIRROR%/}"
        return 0
    fi
    local mirror
    # shellcheck disable=SC2016  # apt-get fills in $(REPO_URI)
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2> /dev/null |
        sed 's,/*$,,' | grep -E '^(https?|file|copy)://?.*/debian$' | head -n 1 || true)
    echo "${mirror:-http://deb.debian.org/debian}"
}

# Sets BASE to an image of Debian forky, fetching or making it if there is none yet.
ensure_base() {
    if [ -n "${USMED_BASE:-}" ]; then
        BASE=$USMED_BASE
    elif has_image "$BASE_FROM_ARCHIVE"; then
        BASE=$BASE_FROM_ARCHIVE
    elif has_image "$BASE_FROM_HUB"; then
        BASE=$BASE_FROM_HUB
    elif quiet_step base-pull "Fetching $BASE_FROM_HUB from Docker Hub" timeout 90 "${DOCKER[@]}" pull "$BASE_FROM_HUB"; then
        BASE=$BASE_FROM_HUB
    else
        note "Docker Hub cannot be reached: $(last_line "$LOGS/base-pull.log")"
        make_base_from_archive
        BASE=$BASE_FROM_ARCHIVE
    fi
}

make_base_from_archive() {
    find_administrator
    local packages=()
    have mmdebstrap || packages+=(mmdebstrap)
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || packages+=(debian-archive-keyring)
    have apt-get || die "neither Docker Hub nor Debian's tools are to be had here" \
        "on a machine that reaches Docker Hub: docker pull $BASE_FROM_HUB && docker save -o base.tar $BASE_FROM_HUB" \
        "then bring base.tar here: docker load -i base.tar"
    [ ${#packages[@]} -eq 0 ] || install_packages "makes the base image from Debian's archive" "${packages[@]}"
    local mirror
    mirror=$(debian_mirror)
    mkdir -p "$BUILD"
    if quiet_step base-make "Making the base image from $mirror" archive_to_image "$mirror" ''; then
        return 0
    fi
    if archive_is_frozen base-make; then
        accept_frozen_archive base-make
        if step base-make-frozen "Making the base image from the frozen copy" archive_to_image "$mirror" frozen; then
            return 0
        fi
    else
        show_log base-make
    fi
    die "the base image could not be made from $mirror" "another mirror: USMED_DEBIAN_MIRROR=http://HOST/debian $0"
}

# Debian forky without documentation, from the mirror $1, as an image; $2 is "frozen" for an expired archive.
archive_to_image() {
    local options=()
    [ "$2" != frozen ] || options+=(--aptopt='Acquire::Check-Valid-Until "false"')
    local file=$BUILD/base.tar
    # mmdebstrap checks the archive's signature against Debian's keys on this machine.
    "${SUDO[@]}" mmdebstrap --variant=minbase --include=ca-certificates "${options[@]}" \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        forky "$file" "deb $1 forky main" &&
        "${DOCKER[@]}" import --change 'CMD ["bash"]' "$file" "$BASE_FROM_ARCHIVE" &&
        "${SUDO[@]}" rm -f "$file"
}

# True if the log $1 shows that apt refused the archive only because its date has passed.
archive_is_frozen() {
    grep -qE 'Release file .*(is expired|expired)|is not valid anymore' "$LOGS/$1.log"
}

accept_frozen_archive() {
    note "$(grep -hoE 'Release file .*expired[^.]*' "$LOGS/$1.log" | head -n 1 | cut -c 1-100)"
    note "This machine's Debian archive is a frozen copy: signed by Debian, but without the newest security updates."
    mkdir -p "$BUILD"
    echo '-o Acquire::Check-Valid-Until=false' > "$ARCHIVE_OPTIONS"
}

# Builds one image.  build_image NAME TITLE ARGUMENT-OF-DOCKER-BUILD...
build_image() {
    local name=$1 title=$2
    shift 2
    if run_build quiet_step "image-$name" "$title" "$@"; then
        return 0
    fi
    if [ ! -s "$ARCHIVE_OPTIONS" ] && archive_is_frozen "image-$name"; then
        accept_frozen_archive "image-$name"
        if run_build step "image-$name" "$title, from the frozen copy" "$@"; then
            return 0
        fi
    else
        show_log "image-$name"
    fi
    die "the image $name could not be built" "the whole log is build/logs/image-$name.log"
}

run_build() {
    local how=$1 log=$2 title=$3 apt_options='' builder=0
    shift 3
    [ ! -s "$ARCHIVE_OPTIONS" ] || apt_options=$(cat "$ARCHIVE_OPTIONS")
    # BuildKit needs a plugin that a plain client has not; the files build with either.
    if "${DOCKER[@]}" buildx version > /dev/null 2>&1; then builder=1; fi
    DOCKER_BUILDKIT=$builder "$how" "$log" "$title" "${DOCKER[@]}" build --network host \
        --build-arg "APT_OPTIONS=$apt_options" "$@"
}

# Debian's packages: what does not change with our code.
build_packages() {
    ensure_base
    build_image usmed-packages "Image 1: Debian's packages (Orthanc, PostgreSQL, Python libraries)" \
        --build-arg "BASE=$BASE" --build-arg "DEBIAN_MIRROR=${USMED_DEBIAN_MIRROR:-}" \
        --target packages -f "$ROOT/docker/Dockerfile" -t usmed-packages:latest "$ROOT"
}

# The image that hospitals run.
build_usmed() {
    build_packages
    build_image usmed "Image 2: our programs" \
        --build-arg "BASE=$BASE" --build-arg "DEBIAN_MIRROR=${USMED_DEBIAN_MIRROR:-}" \
        -f "$ROOT/docker/Dockerfile" -t usmed:latest "$ROOT"
}

# The image for the demonstration's workstation and sample data.
build_demo() {
    build_image usmed-demo "Image 3: the demonstration's workstation" \
        --target demo -f "$ROOT/docker/Dockerfile.test" -t usmed-demo:latest "$ROOT/docker"
}

# The image for the tests.
build_test() {
    build_image usmed-test "Image 3: browser and test tools" \
        -f "$ROOT/docker/Dockerfile.test" -t usmed-test:latest "$ROOT/docker"
}

# Prints arguments of `docker run` that let pip in a container reach the package index as it is reached from here:
# the host's certificate authorities (a hospital's proxy has its own), its proxy and its index.
pip_arguments() {
    printf '%s\n' --network host
    [ ! -s /etc/ssl/certs/ca-certificates.crt ] || printf '%s\n' -v /etc/ssl/certs:/etc/ssl/certs:ro \
        -e PIP_CERT=/etc/ssl/certs/ca-certificates.crt
    local name
    for name in PIP_INDEX_URL PIP_PROXY http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        [ -z "${!name:-}" ] || printf '%s\n' -e "$name"
    done
}
