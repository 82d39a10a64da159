# Haraka from the npm registry, one worker per core, through its outbound queue on disk (which it flushes per message)
# and not its plain proxy. One small plugin takes all recipients and names the next hop. TLS where the other end wants it.
root=$cache/haraka

case $verb in
install)
  if [ ! -x "$root/node_modules/.bin/haraka" ]; then
    mkdir -p "$root"
    cd "$root"
    [ -e package.json ] || npm init -y >/dev/null
    npm install --no-audit --no-fund Haraka@3.3.4 >&2
  fi ;;
version)
  need "$root/node_modules/Haraka/package.json"
  echo "haraka $(node -p "require('$root/node_modules/Haraka/package.json').version"), node $(node --version)" ;;
run)
  need "$root/node_modules/.bin/haraka"
  h=$dir/haraka
  mkdir -p "$h/config" "$h/queue" "$h/plugins"
  cd "$h"
  echo '{"name":"relay","version":"1.0.0"}' >package.json
  echo relay.example.com | tee config/me >config/host_list
  certificate
  cp "$dir/tls.key" config/tls_key.pem
  cp "$dir/tls.crt" config/tls_cert.pem
  printf 'tls\nonward\n' >config/plugins
  echo NOTICE >config/loglevel
  printf 'level=notice\n' >config/log.ini
  printf 'listen=127.0.0.1:%s\nnodes=cpus\n' "$port" >config/smtp.ini
  # A file of one's own takes the place of the whole shipped one: every section has to be there.
  cat >config/connection.ini <<END
[main]
[haproxy]
hosts[] =
[headers]
max_lines=1000
max_received=100
[max]
bytes=268435456
mime_parts=1000
line_length=1024
data_line_length=1000
[message]
helo=relay
close=bye
[uuid]
banner_chars=6
deny_chars=0
END
  printf 'concurrency_max=20\nenable_tls=true\n' >config/outbound.ini
  cat >plugins/onward.js <<END
exports.hook_connect_init = (next, connection) => { connection.relaying = true; next() }
exports.hook_rcpt = (next) => next(OK)
exports.hook_get_mx = (next) => next(OK, { priority: 0, exchange: '127.0.0.1', port: $sink_port })
END
  exec node "$root/node_modules/.bin/haraka" -c "$h" ;;
esac
