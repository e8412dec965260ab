#!/bin/sh
# Become systemd, as process 1 of namespaces of its own, which can write to nothing of the host.
# Called by service_manager.py: `outside FOLDER GROUP PATH…` makes control groups and namespaces, `inside …` fills them. FOLDER has
# etc/ and lib/, which lie over /etc and /var/lib, visible/tmp/, and empty/. What the paths name stays visible.
set -e
groups=/sys/fs/cgroup
case $1 in
outside)
  for mount in "$groups" "$groups/systemd" "$groups/devices" "$groups/unified"; do
    [ -e "$mount/cgroup.procs" ] || continue
    mkdir "$mount/$3"
    echo $$ > "$mount/$3/cgroup.procs"
  done
  shift
  exec unshare --fork --kill-child --pid --mount --mount-proc --uts --ipc --net --cgroup "$0" inside "$@"
  ;;
inside)
  mount --make-rprivate /
  hybrid=$([ -e $groups/systemd/cgroup.procs ] && echo yes) || hybrid=
  umount -R $groups
  if [ -n "$hybrid" ]; then
    mount -t tmpfs tmpfs $groups
    mkdir $groups/systemd $groups/devices $groups/unified
    mount -t cgroup -o none,name=systemd cgroup $groups/systemd
    mount -t cgroup -o devices cgroup $groups/devices
    mount -t cgroup2 cgroup2 $groups/unified
  else
    mount -t cgroup2 cgroup2 $groups
  fi
  # The host's units, generators and settings are not there: nothing but what the test gives is ever started.
  for folder in system system-generators; do
    mount --bind "$2/empty" /usr/lib/systemd/$folder
  done
  mount --bind "$2/etc" /etc
  mount --bind "$2/lib" /var/lib
  # An empty /tmp, but for what is needed of it: this repository may lie there.
  for path in "$@"; do
    case $path in /tmp/*) mkdir -p "$2/visible$path" && mount --rbind "$path" "$2/visible$path" ;; esac
  done
  mount --rbind "$2/visible/tmp" /tmp
  mount -t tmpfs -o mode=1777 tmpfs /var/tmp
  mount -t tmpfs tmpfs /run
  mkdir /run/lock
  mount -o remount,bind,ro /
  mount -o remount,bind,ro /dev
  mount -o remount,bind,ro /sys
  mount --bind /proc/sys /proc/sys
  mount -o remount,bind,ro /proc/sys
  ip link set lo up
  export container=test
  exec /lib/systemd/systemd --system --unit=nothing.target --log-target=console --log-level=info --show-status=no
  ;;
esac
