# Beside a server of NATS: has it read its certificates again when they were renewed, which ends no
# connection. Also once at the start: this may begin after they were. A signal only asks: by when
# the server loaded its configuration last is seen whether it took that, or is to be asked again.
set -eu
known= told= before=
while sleep "$EVERY"; do
    loaded=$(wget -qO- "$MONITOR/varz" | grep '"config_load_time"') || continue
    [ "$loaded" = "$before" ] || known=$told
    now=$(cat "$CERTIFICATES/ca.crt" "$CERTIFICATES/tls.crt" "$CERTIFICATES/tls.key" | sha256sum)
    if [ "$now" != "$known" ] && nats-server --signal "reload=$PID_FILE"; then
        told=$now before=$loaded
    fi
done
