#!/usr/bin/env bash
# Start or stop a cluster of three nodes of etcd on this machine, for agents that run here, and to try what a cluster does:
#     three-nodes.sh start DIRECTORY [FIRST_PORT]      (2379; it takes six ports from there on)
#     three-nodes.sh stop DIRECTORY
# The nodes listen on loopback only, and keep their data in DIRECTORY.  A node that was killed is started again by `start`.
# On one machine three nodes survive the end of a node, not that of the machine: for that, start one on each of three machines.
set -euo pipefail

action=${1:-} directory=${2:-} first=${3:-2379}
if [[ ! $action =~ ^(start|stop)$ || -z $directory ]]; then
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi

# Not by `kill -0`: a node that was killed stays as a zombie where nobody waits for it, as in many containers.
runs() { [ -e "$directory/n$1.pid" ] && [[ $(ps -o stat= -p "$(<"$directory/n$1.pid")") =~ ^[^Z] ]]; }

if [ "$action" = stop ]; then
  for node in 0 1 2; do
    if runs $node; then kill "$(<"$directory/n$node.pid")"; fi
  done
  for node in 0 1 2; do
    for _ in $(seq 100); do
      runs $node || break
      sleep 0.1
    done
    rm -f "$directory/n$node.pid"
  done
  exit
fi

client() { echo "127.0.0.1:$((first + 2 * $1))"; }
peer() { echo "http://127.0.0.1:$((first + 2 * $1 + 1))"; }
serves() {
  exec 3<>"/dev/tcp/127.0.0.1/$((first + 2 * $1))" || return 1
  printf 'GET /health HTTP/1.0\r\n\r\n' >&3
  grep -q '"health":"true"' <&3
} 2>/dev/null

command -v etcd >/dev/null || { echo "etcd is not installed: apt-get install -y etcd-server" >&2; exit 1; }
mkdir -p "$directory" && chmod 700 "$directory"
# Settings of another etcd, which a package or a person has made, are not for these.
for variable in $(compgen -e | grep '^ETCD' || true); do unset "$variable"; done
# Before the first start: another etcd would answer in the place of a node, and agents would claim in two clusters.
for node in 0 1 2; do
  runs $node && continue
  for port in $((first + 2 * node)) $((first + 2 * node + 1)); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "port $port is in use; end what listens there (Debian's own etcd: systemctl disable --now etcd)," \
        "or give the first of six free ports: $0 start $directory PORT" >&2
      exit 1
    fi
  done
done
for node in 0 1 2; do
  runs $node && continue
  nohup etcd --name "n$node" --data-dir "$directory/n$node" \
    --listen-client-urls "http://$(client $node)" --advertise-client-urls "http://$(client $node)" \
    --listen-peer-urls "$(peer $node)" --initial-advertise-peer-urls "$(peer $node)" \
    --initial-cluster "n0=$(peer 0),n1=$(peer 1),n2=$(peer 2)" --initial-cluster-token "$directory" \
    --auto-compaction-retention 1h --log-level warn \
    </dev/null >>"$directory/n$node.log" 2>&1 &
  echo $! >"$directory/n$node.pid"
done
for node in 0 1 2; do
  for _ in $(seq 600); do
    runs $node || break
    serves $node && continue 2
    sleep 0.1
  done
  echo "node n$node does not serve; the end of $directory/n$node.log is:" >&2
  tail -n 3 "$directory/n$node.log" >&2
  exit 1
done
echo "export MCP_CLAIMS_STORE=etcd://$(client 0),$(client 1),$(client 2)/claims"
