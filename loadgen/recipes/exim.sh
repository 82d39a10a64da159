# Exim (the light daemon), unpacked beside the system, with a configuration and spool of its own.
#
# Delivers at once, as it is shipped to do, in a process per message; a queue runner every ten seconds takes what was left.
# Split spool, no log per message, one message per outgoing connection (handing a connection on costs a new process image
# and is slower on loopback).
root=$cache/exim
exim=$root/usr/sbin/exim4
export LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu"

case $verb in
install)
  [ -x "$exim" ] || unpack "$root" exim4-daemon-light exim4-base libnsl2 libidn12 libgnutls-dane0 libunbound8 libevent-2.1-7
  # Set-user-ID programs are not told where the unpacked libraries are; the daemon is started by root anyway.
  chmod u-s "$exim"
  user Debian-exim ;;
version)
  need "$exim"
  echo "exim $("$exim" -bV 2>/dev/null | sed -n 's/^Exim version \([^ ]*\).*/\1/p')" ;;
run)
  need "$exim"
  mkdir -p "$dir/spool" "$dir/log"
  chmod 755 "$dir"
  chown Debian-exim "$dir/spool" "$dir/log"
  cat >"$dir/exim.conf" <<END
exim_path = $exim
exim_user = Debian-exim
exim_group = Debian-exim
never_users = root
keep_environment = LD_LIBRARY_PATH
spool_directory = $dir/spool
log_file_path = $dir/log/%slog
pid_file_path = $dir/spool/exim.pid
primary_hostname = relay.example.com
daemon_smtp_ports = $port
local_interfaces = 127.0.0.1
disable_ipv6
host_lookup =
rfc1413_query_timeout = 0s
tls_advertise_hosts =
acl_smtp_rcpt = take
acl_smtp_data = take
message_size_limit = 256M
recipients_max = 0
smtp_accept_max = 0
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
smtp_accept_reserve = 0
smtp_connect_backlog = 1024
remote_max_parallel = 20
queue_run_max = 20
split_spool_directory
no_message_logs
deliver_drop_privilege

begin acl
take:
  accept

begin routers
onward:
  driver = manualroute
  route_list = * 127.0.0.1::$sink_port byname
  self = send
  transport = outward

begin transports
outward:
  driver = smtp
  hosts_try_chunking =
  connection_max_messages = 1
  max_rcpt = 100

begin retry
* * F,1h,1m
END
  exec "$exim" -C "$dir/exim.conf" -bdf -q10s ;;
esac
