#!/usr/bin/env bash
# An sshd on 127.0.0.1:22 (Ray's launcher knows no other port) for `make test-cluster`: cluster/sshd.sh start|stop [FOLDER]
# Keys, settings, log and the home directory that logins see lie in FOLDER: nothing of the user's own is read or written.
set -euo pipefail
command=${1:?start or stop}
folder=${2:-/tmp/whim-sshd}

stop() {
    [ ! -f "$folder/pid" ] || kill "$(cat "$folder/pid")" 2>/dev/null || true
    rm -rf "$folder"
}

start() {
    if [ ! -x /usr/sbin/sshd ] || ! command -v rsync >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq openssh-server rsync
    fi
    stop
    mkdir -p "$folder/home" /run/sshd
    chmod 700 "$folder"
    ssh-keygen -q -t ed25519 -N '' -f "$folder/key"
    ssh-keygen -q -t ed25519 -N '' -f "$folder/host"
    cat >"$folder/config" <<CONFIG
ListenAddress 127.0.0.1:22
HostKey $folder/host
PidFile $folder/pid
AuthorizedKeysFile $folder/key.pub
SetEnv HOME=$folder/home
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
Subsystem sftp internal-sftp
CONFIG
    /usr/sbin/sshd -f "$folder/config" -E "$folder/log"
    for _ in $(seq 50); do
        [ -f "$folder/pid" ] && echo "sshd on 127.0.0.1:22, key $folder/key" && return
        sleep 0.1
    done
    cat "$folder/log" >&2
    echo "no sshd on 127.0.0.1:22: it needs root, and the port free" >&2
    return 1
}

"$command"
