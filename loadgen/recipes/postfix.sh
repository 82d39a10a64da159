# Postfix with a configuration, queue and data directory of its own.
#
# Tuned for throughput to one smart host: no flow control between reception and delivery, as many receiving processes as
# sessions, twenty deliveries at a time that keep their connections, no DNS, no lookups of clients, no anvil limits. TLS where
# the other end wants it, on connections that are kept as well.
daemons=/usr/lib/postfix/sbin

case $verb in
install)
  if [ ! -x "$daemons/master" ]; then
    # The package must not start a service of its own.
    guard=/usr/sbin/policy-rc.d guarded=
    if [ ! -e "$guard" ]; then printf '#!/bin/sh\nexit 101\n' >"$guard"; chmod 755 "$guard"; guarded=yes; fi
    echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections
    apt-get install -y --no-install-recommends postfix >&2
    [ -z "$guarded" ] || rm -f "$guard"
  fi ;;
version)
  need "$daemons/master"
  echo "postfix $(postconf -d -h mail_version)" ;;
run)
  need "$daemons/master"
  mkdir -p "$dir/etc" "$dir/queue" "$dir/data"
  chmod 755 "$dir"
  chown postfix "$dir/data"
  certificate
  cat >"$dir/etc/main.cf" <<END
compatibility_level = 3.6
queue_directory = $dir/queue
data_directory = $dir/data
daemon_directory = $daemons
command_directory = /usr/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = $dir/mail.log
maillog_file_prefixes = $dir
myhostname = relay.example.com
mydestination =
alias_maps =
local_recipient_maps =
local_transport = error:no local mail
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:$sink_port
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtp_tls_security_level = may
smtp_tls_connection_reuse = yes
smtp_tls_session_cache_database = btree:\${data_directory}/smtp_cache
smtpd_tls_security_level = may
smtpd_tls_cert_file = $dir/tls.crt
smtpd_tls_key_file = $dir/tls.key
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
message_size_limit = 268435456
mailbox_size_limit = 0
in_flow_delay = 0
max_use = 1000
default_process_limit = 100
qmgr_message_active_limit = 50000
qmgr_message_recipient_limit = 50000
default_destination_concurrency_limit = 20
initial_destination_concurrency = 20
smtp_connection_cache_on_demand = yes
smtp_connection_reuse_count_limit = 0
END
  cat >"$dir/etc/master.cf" <<END
127.0.0.1:$port inet n - n - 600 smtpd
cleanup  unix n - n - 0 cleanup
qmgr     unix n - n 300 1 qmgr
rewrite  unix - - n - - trivial-rewrite
bounce   unix - - n - 0 bounce
defer    unix - - n - 0 bounce
trace    unix - - n - 0 bounce
flush    unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
tlsmgr   unix - - n 1000? 1 tlsmgr
tlsproxy unix - - n - 0 tlsproxy
smtp     unix - - n - 20 smtp
relay    unix - - n - 20 smtp
error    unix - - n - - error
retry    unix - - n - - error
anvil    unix - - n - 1 anvil
scache   unix - - n - 1 scache
showq    unix n - n - - showq
postlog  unix-dgram n - n - 1 postlogd
END
  postfix -c "$dir/etc" check
  # What the postfix command would set for it.
  export MAIL_CONFIG="$dir/etc"
  exec "$daemons/master" -s ;;
esac
