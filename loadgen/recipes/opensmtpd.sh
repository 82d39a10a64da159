# OpenSMTPD, unpacked beside the system; all its limits on connections and delays raised.
#
# The place of its spool is compiled in, so it runs in a mount namespace of its own with the run's directory in that place.
# Its listening backlog is compiled in as well (5): many sessions that connect at once wait for SYN to be sent again.
# It makes nothing durable before it answers 250: beside the others it is fast for that reason too.
root=$cache/opensmtpd
smtpd=$root/usr/sbin/smtpd
export LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu"

case $verb in
install)
  [ -x "$smtpd" ] || unpack "$root" opensmtpd libevent-2.1-7
  user opensmtpd
  user opensmtpq
  # Its jail, which must be there and be empty.
  mkdir -p /var/lib/opensmtpd/empty /var/spool/smtpd ;;
version)
  need "$smtpd"
  echo "opensmtpd $("$smtpd" -h 2>&1 | sed -n 's/^version: OpenSMTPD \([^ ]*\).*/\1/p')" ;;
run)
  need "$smtpd"
  mkdir -p "$dir/spool"
  chmod 755 "$dir"
  chown root:root "$dir/spool"
  chmod 711 "$dir/spool"
  cat >"$dir/smtpd.conf" <<END
smtp max-message-size 256M
smtp limit max-mails 1000000
smtp limit max-rcpt 1000
queue ttl 1h
mta max-deferred 100000
mta limit max-conn-per-host 100
mta limit max-conn-per-route 100
mta limit max-conn-per-source 100
mta limit max-conn-per-connector 100
mta limit max-conn-per-relay 100
mta limit max-conn-per-domain 100
mta limit conn-delay-route 0
mta limit conn-delay-relay 0
mta limit reconn-delay-route 0
mta limit session-mail-max 100000
mta limit task-hiwat 5000
mta limit task-lowat 3000
mta limit task-release 1000
scheduler limit max-inflight 50000
scheduler limit max-schedule 1000
listen on 127.0.0.1 port $port hostname relay.example.com
action "onward" relay host "smtp://127.0.0.1:$sink_port"
match from any for any action "onward"
END
  chmod 644 "$dir/smtpd.conf"
  ulimit -n 20000 2>/dev/null || true
  exec unshare -m sh -c 'mount --make-rprivate / && mount --bind "$1/spool" /var/spool/smtpd && exec "$2" -d -f "$1/smtpd.conf"' sh "$dir" "$smtpd" ;;
esac
