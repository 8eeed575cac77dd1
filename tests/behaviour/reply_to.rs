//! Direct reply-to: answers without a queue of one's own.

use posthouse_testkit::{Consume, Method, Peer, Properties, Publish, Queue};

use super::{broker, unique};

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

fn properties(reply_to: &str, correlation_id: &str) -> Properties {
    Properties {
        reply_to: Some(reply_to.into()),
        correlation_id: Some(correlation_id.into()),
        ..Properties::default()
    }
}

fn request(peer: &mut Peer, queue: &str, correlation_id: &str) {
    let properties = properties(REPLY_TO, correlation_id);
    peer.publish_with(1, &Publish { properties, body: b"question", ..Publish::to("", queue) });
}

#[test]
fn a_request_and_its_answer() {
    let broker = broker();
    let (mut client, mut server) = (broker.peer(), broker.peer());
    let queue = unique("requests");
    server.declare(1, &Queue { auto_delete: true, ..Queue::named(&queue) });
    server.consume(1, &Consume::no_ack(&queue));
    let tag = client.consume(1, &Consume::no_ack(REPLY_TO));
    let mut address = None;
    for id in ["first", "second"] {
        request(&mut client, &queue, id);
        let question = server.message(1);
        let asked = question.properties();
        let reply_to = asked.reply_to.expect("an address");
        assert!(reply_to.starts_with("amq.rabbitmq.reply-to."), "{reply_to}");
        assert_eq!((asked.correlation_id.as_deref(), question.body.as_slice()), (Some(id), &b"question"[..]));
        // The address stays the same for the channel.
        assert_eq!(*address.get_or_insert(reply_to.clone()), reply_to);
        // The server may look whether somebody still waits.
        assert_eq!(server.counts(1, &reply_to), (0, 1));
        let properties = Properties { correlation_id: Some(id.into()), ..Properties::default() };
        server.publish_with(1, &Publish { properties, body: b"answer", ..Publish::to("", &reply_to) });
        let answer = client.message(1);
        assert_eq!((answer.consumer_tag.as_str(), answer.exchange.as_str()), (tag.as_str(), ""));
        assert_eq!(answer.routing_key, reply_to);
        assert_eq!(answer.properties().correlation_id.as_deref(), Some(id));
        assert_eq!(answer.body, b"answer");
    }
}

#[test]
fn nobody_waits_any_more() {
    let broker = broker();
    let (mut client, mut server) = (broker.peer(), broker.peer());
    let queue = server.server_named(1);
    client.consume(1, &Consume::no_ack(REPLY_TO));
    request(&mut client, &queue, "id");
    client.expect_quiet(1);
    let question = server.get(1, &queue, true).expect("the request");
    let address = question.properties().reply_to.expect("an address");
    client.close_channel(1);
    let text = format!("NOT_FOUND - no queue '{address}' in vhost '/'");
    server.refused(1, &Queue::named(&address).method(), 404, &text);
    server.publish(1, "", &address, "too late");
    server.expect_quiet(1);
}

#[test]
fn other_addresses_are_left_alone() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    let sent = properties("elsewhere", "id");
    peer.publish_with(1, &Publish { properties: sent.clone(), ..Publish::to("", &queue) });
    assert_eq!(peer.get(1, &queue, true).map(|m| m.properties()), Some(sent));
}

#[test]
fn one_consumer_for_each_channel_and_without_acknowledgements() {
    let mut peer = broker().peer();
    let text = "PRECONDITION_FAILED - reply consumer cannot acknowledge";
    peer.refused(1, &Consume::from(REPLY_TO).method(), 406, text);
    peer.consume(1, &Consume::no_ack(REPLY_TO));
    peer.open_channel(2);
    peer.consume(2, &Consume::no_ack(REPLY_TO));
    let text = "PRECONDITION_FAILED - reply consumer already set";
    peer.refused(1, &Consume::no_ack(REPLY_TO).method(), 406, text);
    // With the channel the consumer has ended.
    let tag = peer.consume(1, &Consume::no_ack(REPLY_TO));
    peer.send(1, &Method::BasicCancel { consumer_tag: &tag, nowait: true });
    peer.consume(1, &Consume::no_ack(REPLY_TO));
}
