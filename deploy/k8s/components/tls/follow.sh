# Beside a server of NATS: has it read its certificates again when they were renewed, which ends no
# connection. Also once at the start: this may begin after they were.
set -eu
known=
while sleep "$EVERY"; do
    now=$(cat "$CERTIFICATES/ca.crt" "$CERTIFICATES/tls.crt" "$CERTIFICATES/tls.key" | sha256sum)
    if [ "$now" != "$known" ] && nats-server --signal "reload=$PID_FILE"; then
        known=$now
    fi
done
