#!/bin/bash
# A real S3 server on loopback, for tests: Ceph RGW with one monitor and one OSD.
# Usage: ceph-s3.sh start|restart|stop DIR [S3PORT] [MONPORT]
# Needs: apt-get install --no-install-recommends ceph-mon ceph-osd radosgw (269 MB).
# DIR is absolute and holds everything, pids included. Access key test, secret testsecret.
# STORE=memstore starts in 2 seconds and keeps nothing.
set -euo pipefail
dir=$2
port=${3:-7480}
monitor_port=${4:-6799}
export CEPH_CONF=$dir/ceph.conf

# A daemon in foreground mode, detached; its pid is kept.
daemon() {
  local name=$1
  shift
  setsid "$@" </dev/null >"$dir/$name.out" 2>&1 &
  echo $! >"$dir/$name.pid"
}

gateway() {
  daemon rgw radosgw -f -n client.admin --keyring "$dir/keyring"
  for _ in $(seq 600); do
    curl -so /dev/null "http://127.0.0.1:$port/" && return
    sleep 0.1
  done
  exit 1
}

configure() {
  mkdir -p "$dir"/{mon,osd,rgw,run}
  cat >"$CEPH_CONF" <<EOF
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon host = v2:127.0.0.1:$monitor_port
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv4 = true
ms bind msgr1 = false
keyring = $dir/keyring
run dir = $dir/run
admin socket = $dir/run/\$name.asok
log file = $dir/\$name.log
mon cluster log file = $dir/cluster.log
crash dir = $dir/run
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 2
paxos propose interval = 0.05
paxos min wait = 0.01
osd memory target = 1073741824
[mon]
mon data = $dir/mon
[osd]
osd data = $dir/osd
osd objectstore = ${STORE:-bluestore}
bluestore block size = 21474836480
memstore device bytes = 8589934592
[client]
rgw data = $dir/rgw
rgw frontends = beast endpoint=127.0.0.1:$port
rgw enable usage log = false
rgw dynamic resharding = false
rgw gc obj min wait = 30
rgw gc processor period = 30
EOF
}

case $1 in
  stop)
    for name in rgw osd mon; do kill -9 "$(cat "$dir/$name.pid")" || true; done
    ;;
  restart)
    daemon mon ceph-mon -f -i a
    daemon osd ceph-osd -f -i 0
    gateway
    ;;
  start)
    configure
    # Without cephx (auth none) the gateway loops: so there are keys.
    monmaptool --create --fsid "$(awk '/fsid/{print $3;exit}' "$CEPH_CONF")" \
      --addv a "[v2:127.0.0.1:$monitor_port]" "$dir/monmap" >/dev/null
    ceph-authtool -C "$dir/keyring" -g -n mon. --cap mon 'allow *' >/dev/null
    ceph-authtool "$dir/keyring" -g -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
    ceph-authtool "$dir/keyring" -g -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
    ceph-mon --mkfs -i a --monmap "$dir/monmap" --keyring "$dir/keyring"
    daemon mon ceph-mon -f -i a
    osd_id=$(cat /proc/sys/kernel/random/uuid)
    timeout 30 ceph osd new "$osd_id" >/dev/null
    ceph-osd -i 0 --mkfs --osd-uuid "$osd_id" >"$dir/mkfs.out" 2>&1
    daemon osd ceph-osd -f -i 0
    timeout 60 radosgw-admin user create --uid test --display-name test \
      --access-key test --secret-key testsecret >/dev/null 2>"$dir/user.out"
    gateway
    ;;
  *)
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
