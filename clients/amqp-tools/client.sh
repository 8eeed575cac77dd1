#!/usr/bin/env bash
# rabbitmq-c's command-line tools against whatever broker AMQP_URI names.
# The first check that fails ends the program with exit code 1 and says what was expected.
set -euo pipefail

uri=${AMQP_URI:-amqp://guest:guest@127.0.0.1:5672/%2f}
queue=check.tools.$$
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# amqp-consume takes options even behind its command, so what it runs per message is a script.
printf '#!/bin/sh\ncat\necho\n' >"$work/print"
chmod +x "$work/print"

fail() {
    echo "FAIL $*"
    exit 1
}

# equal WHAT EXPECTED GOT
equal() {
    [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
}

# refused TEXT COMMAND...: the command must fail and say why.
refused() {
    local text=$1 output
    shift
    if output=$("$@" 2>&1 </dev/null); then fail "$*: expected '$text', it succeeded"; fi
    case $output in *"$text"*) ;; *) fail "$*: expected '$text', got '$output'" ;; esac
}

# consume COUNT [OPTION...]: prints COUNT bodies, a line each.
consume() {
    local count=$1
    shift
    timeout 10 amqp-consume --url="$uri" --queue="$queue" --count="$count" "$@" "$work/print"
}

declares_and_deletes() {
    equal declare "$queue" "$(amqp-declare-queue --url="$uri" --queue="$queue" --durable)"
    equal redeclare "$queue" "$(amqp-declare-queue --url="$uri" --queue="$queue" --durable)"
    refused "inequivalent arg 'durable' for queue '$queue' in vhost '/': received 'false' but current is 'true'" \
        amqp-declare-queue --url="$uri" --queue="$queue"
    equal delete 0 "$(amqp-delete-queue --url="$uri" --queue="$queue")"
}

publishes_gets_and_consumes() {
    amqp-declare-queue --url="$uri" --queue="$queue" --durable >/dev/null
    if amqp-get --url="$uri" --queue="$queue"; then fail "amqp-get of an empty queue should exit with 2"; else equal "amqp-get's exit code" 2 $?; fi
    local number
    for number in 1 2 3 4 5; do
        amqp-publish --url="$uri" --routing-key="$queue" --persistent --content-type=text/plain --body="message $number"
    done
    equal get "message 1" "$(amqp-get --url="$uri" --queue="$queue")"
    # Acknowledged one by one, two at a time in flight.
    equal consume "$(printf 'message 2\nmessage 3\n')" "$(consume 2 --prefetch-count=2)"
    equal "consume one" "message 4" "$(consume 1 --prefetch-count=1)"
    equal "messages left" 1 "$(amqp-delete-queue --url="$uri" --queue="$queue")"
}

consumes_from_an_exchange() {
    # A server-named exclusive queue, bound to a topic: the consumer says nothing until it is bound, so
    # mandatory publishing is not available here and the publisher repeats until the message is taken.
    timeout 20 amqp-consume --url="$uri" --exchange=amq.topic --routing-key="$queue.#" --count=1 cat >"$work/topic" &
    local consumer=$! tries=0
    while kill -0 "$consumer" 2>/dev/null; do
        [ $((tries += 1)) -lt 200 ] || fail "the bound consumer took no message"
        amqp-publish --url="$uri" --exchange=amq.topic --routing-key="$queue.key" --body="by topic"
        sleep 0.05
    done
    wait "$consumer"
    equal "by topic" "by topic" "$(cat "$work/topic")"
}

carries_large_bodies() {
    amqp-declare-queue --url="$uri" --queue="$queue" >/dev/null
    head -c 10485760 /dev/urandom >"$work/large"
    amqp-publish --url="$uri" --routing-key="$queue" <"$work/large"
    amqp-get --url="$uri" --queue="$queue" >"$work/back"
    cmp "$work/large" "$work/back" || fail "10 MiB came back changed"
    amqp-delete-queue --url="$uri" --queue="$queue" >/dev/null
}

refuses() {
    refused "NOT_FOUND - no queue 'nope' in vhost '/'" amqp-get --url="$uri" --queue=nope
    refused "NOT_FOUND - no queue 'nope' in vhost '/'" amqp-consume --url="$uri" --queue=nope cat
    refused "queue name 'amq.mine' contains reserved prefix 'amq.*'" amqp-declare-queue --url="$uri" --queue=amq.mine
}

for scenario in declares_and_deletes publishes_gets_and_consumes consumes_from_an_exchange carries_large_bodies refuses; do
    "$scenario"
    echo "ok $scenario"
done
