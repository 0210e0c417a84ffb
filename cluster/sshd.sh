#!/usr/bin/env bash
# An sshd on loopback with a key of its own, for `make test-cluster`: nothing of the user's ssh is touched but one marked line.
set -euo pipefail
folder=${1:-/tmp/whim-sshd}
port=${2:-22}
if ! command -v sshd >/dev/null && [ ! -x /usr/sbin/sshd ] || ! command -v rsync >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq openssh-server rsync
fi
mkdir -p "$folder" /run/sshd ~/.ssh
chmod 700 "$folder" ~/.ssh
[ -f "$folder/key" ] || ssh-keygen -q -t ed25519 -N '' -C whim-test-cluster -f "$folder/key"
[ -f "$folder/host" ] || ssh-keygen -q -t ed25519 -N '' -f "$folder/host"
touch ~/.ssh/authorized_keys
chmod 600 ~/.ssh/authorized_keys
sed -i '/whim-test-cluster$/d' ~/.ssh/authorized_keys
sed "s/^/from=\"127.0.0.1\" /" "$folder/key.pub" >>~/.ssh/authorized_keys
cat >"$folder/config" <<CONFIG
Port $port
ListenAddress 127.0.0.1
HostKey $folder/host
PidFile $folder/pid
AuthorizedKeysFile .ssh/authorized_keys
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
Subsystem sftp internal-sftp
CONFIG
if ! { [ -f "$folder/pid" ] && kill -0 "$(cat "$folder/pid")" 2>/dev/null; }; then
    /usr/sbin/sshd -f "$folder/config"
fi
echo "sshd on 127.0.0.1:$port, key $folder/key"
