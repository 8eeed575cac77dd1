//! One line per row of the table: code, scope and exact text.

use super::*;
use crate::args::QueueKind;
use crate::reply::{ReplyError, Scope};

fn check(scope: Scope, rows: Vec<(ReplyError, u16, &str)>) {
    for (error, code, text) in rows {
        assert_eq!((error.code as u16, error.text.as_str()), (code, text));
        assert_eq!(error.scope, scope, "{text}");
        assert!(error.reply_text().len() <= 255, "{text}");
    }
}

#[test]
#[rustfmt::skip]
fn connection_errors() {
    check(Scope::Connection, vec![
        (vhost_not_found("nope"), 530, "vhost nope not found"),
        (vhost_access_refused("/", "lim"), 530, "access to vhost '/' refused for user 'lim'"),
        (vhost_down("v", "u"), 541, "access to vhost 'v' refused for user 'u': vhost 'v' is down"),
        (vhost_connection_limit("/", "guest", 0), 530, "access to vhost '/' refused for user 'guest': connection limit (0) is reached"),
        (user_connection_limit("lim", 0), 530, "connection refused for user 'lim': user connection limit (0) is reached"),
        (node_connection_limit(7), 530, "connection refused: node connection limit (7) is reached"),
        (login_refused("PLAIN"), 403, "Login was refused using authentication mechanism PLAIN. For details see the broker logfile."),
        (new_secret_refused(), 530, "New secret was refused by one of the backends"),
        (secret_update_failed(), 530, "Secret update failed"),
        (too_many_channels(2, 2), 530, "number of channels opened (2) has reached the negotiated channel_max (2)"),
        (user_channel_limit("lim", 1), 530, "number of channels opened for user 'lim' has reached the maximum allowed user limit of 1"),
        (node_channel_limit("n", 9), 530, "number of channels opened on node 'n' has reached the maximum allowed limit of 9"),
        (unexpected_method("running"), 504, "unexpected method in connection state running"),
        (second_channel_open(), 504, "second 'channel.open' seen"),
        (expected_channel_open(), 504, "expected 'channel.open'"),
        (unimplemented_method(), 503, "unimplemented method"),
        (unexpected_frame(8, b""), 505, "type 8, all octets = <<>>"),
        (unknown_frame_type(9, b"abc"), 501, "type 9, all octets = <<\"abc\">>: unknown_frame"),
        (unknown_frame_type(9, &[7; 17]), 501, "type 9, first 16 octets = <<7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7>>: unknown_frame"),
        (invalid_frame_end(1, &[0, 20, 0, 20], 0), 501, "type 1, all octets = <<0,20,0,20>>: {invalid_frame_end_marker,0}"),
        (frame_too_large(3, 140000, 131064), 501, "type 3, all octets = <<>>: {frame_too_large,140000,131064}"),
        (cannot_decode(&[0]), 501, "cannot decode <<0>>"),
        (malformed_utf8(), 501, "Malformed UTF-8 in shortstr"),
        (expected_method_frame(), 505, "expected method frame, got non method frame instead"),
        (expected_content_header(60), 505, "expected content header for class 60, got non content header frame instead"),
        (content_header_of_other_class(60, 50), 505, "expected content header for class 60, got one for class 50 instead"),
        (expected_content_body(), 505, "expected content body, got non content body frame instead"),
        (body_exceeds_declared_size(), 501, "content body frame exceeds remaining content size"),
        (declared_body_too_large(629145600, 536870912), 501, "content body size 629145600 exceeds maximum allowed size 536870912"),
        (immediate_not_supported(), 540, "immediate=true"),
        (prefetch_size_not_supported(10), 540, "prefetch_size!=0 (10)"),
        (recover_without_requeue(), 540, "requeue=false"),
        (flow_stop_not_supported(), 540, "active=false"),
        (consumer_tag_in_use("t"), 530, "attempt to reuse consumer tag 't'"),
        (too_many_consumers(5), 530, "reached maximum (5) of consumers per channel"),
        (deprecated_feature("queue_master_locator"), 541, "Feature `queue_master_locator` is deprecated.\nBy default, this feature is not permitted anymore.\nThe feature will be removed from a future major RabbitMQ version, regardless of the configuration."),
        (too_many_unfinished_bytes(5, 4), 506, "messages sent in part may take 4 bytes together, got 5"),
        (transactions_too_large(5, 4), 506, "transactions may hold 4 bytes together, got 5"),
        (internal_error(), 541, ""),
        (closed_by_operator("Closed via management plugin"), 320, "Closed via management plugin"),
        (broker_shutdown(), 320, "broker forced connection closure with reason 'shutdown'"),
        (vhost_deleted("x"), 320, "vhost 'x' is deleted"),
        (user_deleted("x"), 320, "user 'x' is deleted"),
        (exchange_type_not_supported("x-random", Resource::exchange("/", "e")), 540, "type 'x-random' of exchange 'e' in vhost '/' is not supported yet"),
    ]);
}

#[test]
#[rustfmt::skip]
fn channel_errors() {
    let q = Resource::queue("/", "x");
    let e = Resource::exchange("/", "x");
    let reply = Resource::queue("/", "amq.rabbitmq.reply-to.a");
    check(Scope::Channel, vec![
        (no_exchange("/", "nope"), 404, "no exchange 'nope' in vhost '/'"),
        (publish_to_internal_exchange("/", "e_int"), 403, "cannot publish to internal exchange 'e_int' in vhost '/'"),
        (access_refused(Permission::Write, Resource::exchange("/", "amq.direct"), "lim"), 403, "write access to exchange 'amq.direct' in vhost '/' refused for user 'lim'"),
        (access_refused(Permission::Write, Resource::exchange("/", ""), "lim"), 403, "write access to exchange 'amq.default' in vhost '/' refused for user 'lim'"),
        (access_refused(Permission::Configure, Resource::queue("/", "zz"), "lim"), 403, "configure access to queue 'zz' in vhost '/' refused for user 'lim'"),
        (access_refused(Permission::Read, q, "lim"), 403, "read access to queue 'x' in vhost '/' refused for user 'lim'"),
        (topic_access_refused(Permission::Write, "zzz", Resource::exchange("/", "amq.topic"), "lim"), 403, "write access to topic 'zzz' in exchange 'amq.topic' in vhost '/' refused for user 'lim'"),
        (message_too_large(17825792, 16777216), 406, "message size 17825792 is larger than configured max size 16777216"),
        (invalid_expiration("-1", "{value_negative,-1}"), 406, "invalid expiration '-1': {value_negative,-1}"),
        (user_id_mismatch("bob", "guest"), 406, "user_id property set to 'bob' but authenticated user was 'guest'"),
        (invalid_extra_keys_header("CC", "longstr"), 406, "invalid message: {unacceptable_type_in_header,\"CC\",longstr}"),
        (no_fast_reply_consumer(), 406, "fast reply consumer does not exist"),
        (reply_consumer_already_set(), 406, "reply consumer already set"),
        (reply_consumer_cannot_acknowledge(), 406, "reply consumer cannot acknowledge"),
        (cannot_bind_reply_queue(), 403, "cannot bind or unbind to a volatile (direct reply-to) queue"),
        (not_reply_queue_creator(reply), 406, "only creator channel may consume from queue 'amq.rabbitmq.reply-to.a' in vhost '/'"),
        (unknown_delivery_tag(5), 406, "unknown delivery tag 5"),
        (delivery_timeout(1, 1800000), 406, "delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms. This timeout value can be configured, see consumers doc guide to learn more"),
        (cannot_switch_from_tx_to_confirm(), 406, "cannot switch from tx to confirm mode"),
        (cannot_switch_from_confirm_to_tx(), 406, "cannot switch from confirm to tx mode"),
        (channel_not_transactional(), 406, "channel is not transactional"),
        (partial_tx_completion(), 406, "partial tx completion"),
        (no_previously_declared_queue(), 404, "no previously declared queue"),
        (no_queue("/", "nope"), 404, "no queue 'nope' in vhost '/'"),
        (reserved_prefix(Resource::queue("/", "amq.foo")), 403, "queue name 'amq.foo' contains reserved prefix 'amq.*'"),
        (default_exchange_not_permitted(), 403, "operation not permitted on the default exchange"),
        (system_exchange_deletion("/", "amq.direct"), 403, "deletion of system exchange 'amq.direct' in vhost '/' not allowed"),
        (unknown_exchange_type("nosuch"), 406, "unknown exchange type 'nosuch'"),
        (delayed_type_missing(), 406, "Invalid argument, 'x-delayed-type' must be an existing exchange type"),
        (delayed_type_is_itself(), 406, "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'"),
        (exchange_limit(e, 3), 406, "cannot declare exchange 'x' in vhost '/': exchange limit of 3 is reached"),
        (vhost_queue_limit("/", "newq", 1), 406, "cannot declare queue 'newq': queue limit in vhost '/' (1) is reached"),
        (queue_limit("newq", 1), 406, "cannot declare queue 'newq': queue limit in cluster (1) is reached"),
        (inequivalent_flag("durable", q, false, true), 406, "inequivalent arg 'durable' for queue 'x' in vhost '/': received 'false' but current is 'true'"),
        (inequivalent("type", e, Shown::Value("fanout"), Shown::Value("direct")), 406, "inequivalent arg 'type' for exchange 'x' in vhost '/': received 'fanout' but current is 'direct'"),
        (inequivalent("x-message-ttl", q, Shown::Typed("5", "signedint"), Shown::Absent), 406, "inequivalent arg 'x-message-ttl' for queue 'x' in vhost '/': received the value '5' of type 'signedint' but current is none"),
        (inequivalent("x-dead-letter-exchange", q, Shown::Absent, Shown::Typed("foo", "longstr")), 406, "inequivalent arg 'x-dead-letter-exchange' for queue 'x' in vhost '/': received none but current is the value 'foo' of type 'longstr'"),
        (exclusive_access(q), 405, "cannot obtain exclusive access to locked queue 'x' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration."),
        (invalid_argument("x-expires", q, "{value_zero,0}"), 406, "invalid arg 'x-expires' for queue 'x' in vhost '/': {value_zero,0}"),
        (argument_of_other_queue_type("x-stream-offset", QueueKind::Classic, q), 406, "invalid arg 'x-stream-offset' for queue 'x' in vhost '/' of queue type rabbit_classic_queue"),
        (invalid_argument_type("alternate-exchange", e, "signedint"), 406, "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost '/'"),
        (invalid_x_match(b"foo"), 406, "Invalid x-match field value <<\"foo\">>; expected all, any, all-with-x, or any-with-x"),
        (invalid_x_match_type("signedint", "1"), 406, "Invalid x-match field type signedint (value 1); expected longstr"),
        (too_many_wildcards("#.a.#.b.#", 3, 2), 406, "Topic binding key '#.a.#.b.#' uses 3 '#' wildcards, at most 2 are allowed"),
        (exclusive_consumer(q), 403, "queue 'x' in vhost '/' in exclusive use"),
        (in_use(e), 406, "exchange 'x' in vhost '/' in use"),
        (not_empty(q), 406, "queue 'x' in vhost '/' not empty"),
    ]);
}

#[test]
#[rustfmt::skip]
fn stream_errors() {
    let q = Resource::queue("/", "q");
    check(Scope::Connection, vec![
        (not_for_streams("queue.purge", q), 540, "queue.purge not supported by stream queues queue 'q' in vhost '/'"),
        (stream_consumer_without_acks(q), 540, "automatic acknowledgement not supported by stream queue 'q' in vhost '/'"),
        (no_global_qos(q), 540, "queue 'q' in vhost '/' does not support global qos"),
    ]);
    check(Scope::Channel, vec![
        (argument_of_no_stream("x-expires", q), 406, "invalid arg 'x-expires' for queue 'q' in vhost '/' of queue type rabbit_stream_queue"),
        (invalid_property("non-durable", q), 406, "invalid property 'non-durable' for queue 'q' in vhost '/'"),
        (server_named_stream(), 406, "Cannot declare a server-named queue for type rabbit_stream_queue"),
        (stream_consumer_without_prefetch(q), 406, "consumer prefetch count is not set for stream queue 'q' in vhost '/'"),
        (exceeded_max_value("x-a"), 406, "Exceeded max value for x-a"),
        (invalid_value_for("x-a"), 406, "Invalid value for x-a"),
        (invalid_type_for("x-a"), 406, "Invalid type for x-a"),
    ]);
}
