# shellcheck shell=bash
# Finds a Docker engine, or installs Debian's after saying so. Sets the arrays DOCKER and COMPOSE, the commands to use.
# Needs common.sh. Other scripts call ensure_engine, and ensure_compose if they run several containers together.

DOCKER=()
COMPOSE=()
SUDO=()
ENGINE_LOG=/var/log/usmed-dockerd.log

# Sets SUDO to what makes a command run as the administrator.
find_administrator() {
    SUDO=()
    [ "$(id -u)" -eq 0 ] && return 0
    have sudo || die "this step needs the administrator's rights, and there is no sudo" \
        "run the script as root, or install sudo and add $(id -un) to its group"
    # Asked for here, so that no question for the password appears in the middle of a long step.
    sudo -v || die "this step needs the administrator's rights, and sudo refused them"
    SUDO=(sudo)
}

# Sets DOCKER to the first client that an engine answers; returns 1 if none does. A client may be there without an
# engine, and an engine may be older than what the first client in PATH can talk to, so each client is tried.
find_engine() {
    local client candidates
    mapfile -t candidates < <(type -ap docker | awk '!seen[$0]++')
    # The package's own client, in case it was installed just now and PATH was searched before.
    [ -x /usr/bin/docker ] && candidates+=(/usr/bin/docker)
    for client in "${candidates[@]}"; do
        if "$client" version --format '{{.Server.Version}}' > /dev/null 2>&1; then
            DOCKER=("$client")
            return 0
        fi
    done
    # The engine's socket belongs to root and to the group docker.
    if [ "$(id -u)" -ne 0 ] && have sudo && [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ]; then
        for client in "${candidates[@]}"; do
            if sudo "$client" version --format '{{.Server.Version}}' > /dev/null 2>&1; then
                DOCKER=(sudo --preserve-env "$client")
                return 0
            fi
        done
    fi
    return 1
}

# True if this machine's package sources have the package $1.
is_packaged() {
    # Not "| grep -q": it would end before apt-cache has written everything, which pipefail takes for a failure.
    [[ $(apt-cache policy "$1" 2> /dev/null) == *'Candidate: '[!\(]* ]]
}

# Debian's packages for an engine on this machine, one a line.
engine_packages() {
    echo docker.io
    # Since Debian 13 the client is a package of its own.
    if is_packaged docker-cli; then echo docker-cli; fi
    # A kernel with AppArmor refuses containers until its tool has loaded Docker's profile.
    if [ "$(cat /sys/module/apparmor/parameters/enabled 2> /dev/null)" = Y ] && ! have apparmor_parser; then
        echo apparmor
    fi
    # systemd mounts the control groups; without it something else must.
    if [ ! -d /run/systemd/system ] && ! grep -q '^cgroup' /proc/mounts; then
        echo cgroupfs-mount
    fi
    have iptables || echo iptables
    [ -s /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
}

# Refreshes apt's lists once. Sources that do not answer are no reason to stop: what counts is whether the packages
# are to be had, which install_packages says.
APT_UPDATED=0
update_package_lists() {
    [ "$APT_UPDATED" = 0 ] || return 0
    APT_UPDATED=1
    quiet_step apt-update "Refreshing the list of Debian's packages" "${SUDO[@]}" apt-get update || true
}

# Installs Debian packages, after saying which and asking.
#   install_packages WHY PACKAGE...
install_packages() {
    local why=$1 package
    shift
    say "${BOLD}To install from Debian's packages:${PLAIN} $* ($why)"
    confirm "Install them?" || die "nothing was installed" "install them yourself and start again: apt-get install $*"
    update_package_lists
    for package in "$@"; do
        is_packaged "$package" ||
            die "Debian's package $package is not to be had from this machine's package sources" \
                "see build/logs/apt-update.log and /etc/apt/sources.list*"
    done
    # Without "env" sudo would drop the variable. Policy: a failed start of a service must not fail the installation.
    step "apt-install-$1" "Installing $*" "${SUDO[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "$@" ||
        die "the installation failed" "see above; the whole log is build/logs/apt-install-$1.log"
}

# Starts the engine that is installed, and waits until it answers.
start_engine() {
    local waited
    # The package may have started it already.
    for waited in 1 2 3; do
        if find_engine; then return 0; fi
        sleep "$waited"
    done
    if [ -d /run/systemd/system ]; then
        step docker-start "Starting the Docker engine (systemd)" "${SUDO[@]}" systemctl start docker ||
            die "the Docker engine did not start" "see: journalctl -u docker"
    else
        say "Starting the Docker engine in the background: this machine has no systemd; log in $ENGINE_LOG"
        if ! grep -q '^cgroup' /proc/mounts && have cgroupfs-mount; then
            "${SUDO[@]}" cgroupfs-mount || true
        fi
        # In a session of its own, so that it stays when this script and its terminal are gone.
        "${SUDO[@]}" sh -c "setsid nohup dockerd > '$ENGINE_LOG' 2>&1 < /dev/null &"
    fi
    for ((waited = 0; waited < 60; waited++)); do
        if find_engine; then return 0; fi
        sleep 1
        [ $((waited % 15)) -ne 14 ] || note "waiting for the engine, $((waited + 1)) s"
    done
    [ -d /run/systemd/system ] || "${SUDO[@]}" tail -n 20 "$ENGINE_LOG" >&2 || true
    die "the Docker engine was started but does not answer after 60 s" \
        "its messages are above, or in: journalctl -u docker"
}

# Makes sure that an engine answers; sets DOCKER.
ensure_engine() {
    if find_engine; then return 0; fi
    if [ -n "${DOCKER_HOST:-}" ]; then
        die "the Docker engine at DOCKER_HOST=$DOCKER_HOST does not answer" \
            "start it, or unset DOCKER_HOST to use this machine's own"
    fi
    find_administrator
    if ! have dockerd && [ ! -x /usr/sbin/dockerd ]; then
        have apt-get || die "there is no Docker engine, and this is no Debian system that could install one" \
            "install Docker (https://docs.docker.com/engine/install/) and start again"
        say "No Docker engine answers on this machine."
        local packages
        # The lists say which packages this Debian has, so they must be there before the plan is made.
        update_package_lists
        mapfile -t packages < <(engine_packages)
        install_packages "the Docker engine" "${packages[@]}"
        hash -r
    fi
    start_engine
    note "engine $("${DOCKER[@]}" version --format '{{.Server.Version}}'), client ${DOCKER[*]}"
}

# Makes sure that there is a compose that fits the engine; sets COMPOSE.
ensure_compose() {
    if "${DOCKER[@]}" compose version > /dev/null 2>&1; then
        COMPOSE=("${DOCKER[@]}" compose)
    else
        if ! docker-compose version > /dev/null 2>&1; then
            find_administrator
            have apt-get || die "there is no docker compose" "install it: https://docs.docker.com/compose/install/"
            install_packages "starts several containers together" docker-compose
            hash -r
        fi
        COMPOSE=(docker-compose)
        [ "${DOCKER[0]}" != sudo ] || COMPOSE=(sudo --preserve-env docker-compose)
    fi
}

# True if COMPOSE is the first generation (docker-compose 1.x, as in Debian 12).
compose_is_old() {
    [[ $("${COMPOSE[@]}" version --short 2> /dev/null) == 1.* ]]
}
