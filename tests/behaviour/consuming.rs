//! Starting and ending consumers.

use posthouse_testkit::{Consume, Handshake, Method, Queue, expect_method};

use super::{broker, unique};

#[test]
fn tags_are_chosen_by_either_side() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    let one = peer.consume(1, &Consume::from(&queue));
    let two = peer.consume(1, &Consume::from(&queue));
    assert_ne!(one, two);
    assert!(one.starts_with("amq.ctag-"), "{one}");
    assert_eq!(peer.consume(1, &Consume { consumer_tag: "mine", ..Consume::from(&queue) }), "mine");
    // Tags belong to their channel.
    peer.open_channel(2);
    assert_eq!(peer.consume(2, &Consume { consumer_tag: "mine", ..Consume::from(&queue) }), "mine");
    assert_eq!(peer.counts(1, &queue), (0, 4));
    // Once it is cancelled, a tag is free.
    peer.cancel(1, "mine");
    assert_eq!(peer.consume(1, &Consume { consumer_tag: "mine", ..Consume::from(&queue) }), "mine");
}

#[test]
fn the_answer_comes_before_the_first_delivery() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    peer.publish(1, "", &queue, "waiting");
    let tag = peer.consume(1, &Consume::no_ack(&queue));
    assert_eq!(peer.message(1).consumer_tag, tag);
}

#[test]
fn without_waiting_there_is_no_answer() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    peer.publish(1, "", &queue, "x");
    peer.send(1, &Consume { nowait: true, consumer_tag: "t", ..Consume::no_ack(&queue) }.method());
    assert_eq!(peer.message(1).consumer_tag, "t");
    peer.send(1, &Method::BasicCancel { consumer_tag: "t", nowait: true });
    peer.expect_quiet(1);
    assert_eq!(peer.counts(1, &queue), (0, 0));
}

#[test]
fn a_cancelled_consumers_messages_stay_outstanding() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = peer.server_named(1);
    peer.prefetch(2, 2, false);
    let tag = peer.consume(2, &Consume::from(&queue));
    for text in ["a", "b", "c"] {
        peer.publish(1, "", &queue, text);
    }
    assert_eq!(peer.messages(2, 2), ["a", "b"]);
    peer.cancel(2, &tag);
    assert_eq!(peer.counts(1, &queue), (1, 0));
    peer.ack(2, 1);
    peer.send(2, &Method::BasicReject { delivery_tag: 2, requeue: true });
    peer.expect_quiet(2);
    assert_eq!(peer.drain(1, &queue), ["b", "c"]);
}

#[test]
fn cancelling_what_is_not_there_is_answered() {
    let mut peer = broker().peer();
    peer.send(1, &Method::BasicCancel { consumer_tag: "never", nowait: false });
    expect_method!(peer, 1, Method::BasicCancelOk { consumer_tag: "never" });
}

#[test]
fn an_exclusive_consumer_is_alone_until_it_ends() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = peer.server_named(1);
    let tag = peer.consume(1, &Consume { exclusive: true, ..Consume::from(&queue) });
    let text = format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use");
    peer.refused(2, &Consume::from(&queue).method(), 403, &text);
    peer.cancel(1, &tag);
    peer.consume(2, &Consume::from(&queue));
}

#[test]
fn the_end_of_the_queue_is_told_to_those_who_ask_for_it() {
    let broker = broker();
    let queue = unique("q");
    let (mut owner, mut told) = (broker.peer(), broker.peer());
    let mut untold = broker.peer_with(&Handshake::default().without_capabilities());
    owner.declare(1, &Queue::named(&queue));
    for peer in [&mut told, &mut untold] {
        peer.prefetch(1, 1, false);
    }
    let tag = told.consume(1, &Consume::from(&queue));
    untold.consume(1, &Consume { consumer_tag: "t", ..Consume::from(&queue) });
    for text in ["x", "y"] {
        owner.publish(1, "", &queue, text);
    }
    for peer in [&mut told, &mut untold] {
        peer.message(1);
    }
    owner.delete(1, &queue);
    expect_method!(told, 1, Method::BasicCancel { consumer_tag, nowait: true } => assert_eq!(consumer_tag, tag));
    // Its deliveries can still be acknowledged.
    told.ack(1, 1);
    told.expect_quiet(1);
    untold.ack(1, 1);
    untold.expect_quiet(1);
    // The tag is free once the broker knows that the queue is gone: here the other client has been told.
    untold.server_named(1);
    untold.consume(1, &Consume { consumer_tag: "u", ..Consume::from("") });
}

#[test]
fn messages_follow_as_they_come() {
    let broker = broker();
    let (mut publisher, mut consumer) = (broker.peer(), broker.peer());
    let queue = unique("q");
    publisher.declare(1, &Queue { auto_delete: true, ..Queue::named(&queue) });
    consumer.consume(1, &Consume::from(&queue));
    for i in 0..200 {
        publisher.publish(1, "", &queue, &i.to_string());
        let message = consumer.message(1);
        assert_eq!((message.text(), message.redelivered), (i.to_string(), false));
        consumer.ack(1, message.tag);
    }
}

#[test]
fn one_channel_may_consume_from_many_queues() {
    let mut peer = broker().peer();
    let queues: Vec<String> = (0..10).map(|_| peer.server_named(1)).collect();
    let tags: Vec<String> = queues.iter().map(|queue| peer.consume(1, &Consume::from(queue))).collect();
    for (i, queue) in queues.iter().enumerate() {
        peer.publish(1, "", queue, "x");
        let message = peer.message(1);
        assert_eq!((message.consumer_tag, message.tag), (tags[i].clone(), i as u64 + 1));
    }
    peer.send(1, &Method::BasicAck { delivery_tag: 10, multiple: true });
    peer.close_channel(1);
    peer.open_channel(1);
    for queue in &queues {
        assert_eq!(peer.counts(1, queue), (0, 0));
    }
}
