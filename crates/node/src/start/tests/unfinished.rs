//! Stops in the middle of something that two parts of a data directory must know: what was confirmed afterwards is kept.

use posthouse_model::policy::{Policy, PolicyKind};

use super::*;
use crate::admin;
use crate::relocate::{self, Action, Request};

/// The deletion of a queue is in the log, and the power was lost before the definitions had it.
#[test]
fn a_queue_whose_deletion_was_not_completed_keeps_what_it_gets() {
    for arguments in [&[][..], &[("x-max-priority", 3)]] {
        let disk = SimDisk::new(1);
        let node = Node::open(&disk, &definitions());
        let queue = node.declare("q", arguments);
        let former = queue.id;
        node.publish(&queue, 0..5);
        let before = node.definitions();
        node.broker.delete_queue(&node.broker.vhost("/").unwrap(), "q", Default::default(), None).unwrap();
        assert!(node.sync());
        let disk = disk.crash();
        let node = Node::start(&disk, &before).unwrap();
        let queue = node.queue("q");
        assert_ne!(queue.id, former);
        assert_eq!(node.get_all(&queue), [] as [u64; 0]);
        // Nobody who declares it sees a difference.
        node.declare("q", arguments);
        node.publish(&queue, 10..15);
        let (after, disk) = (node.definitions(), disk.crash());
        let node = Node::start(&disk, &after).unwrap();
        assert_eq!(node.queue("q").id, queue.id);
        assert_eq!(node.get_all(&node.queue("q")), [10, 11, 12, 13, 14]);
        // What lies in segments, too, and after an orderly stop.
        assert!(node.checkpoint());
        stop(&node.broker).unwrap();
        let node = Node::start(&disk, &after).unwrap();
        assert_eq!(node.get_all(&node.queue("q")), [10, 11, 12, 13, 14]);
    }
}

/// The deletion of a virtual host is in the log, but not that of all that its schedule has.
#[test]
fn a_schedule_whose_deletion_was_not_completed_keeps_what_it_gets() {
    let disk = SimDisk::new(1);
    let node = Node::open(&disk, &definitions());
    let schedule = |node: &Node| node.broker.vhost("/").unwrap().schedule().unwrap().queue().clone();
    node.publish_later(0..3);
    let (former, definitions, disk) = (schedule(&node).id, node.definitions(), disk.crash());
    let deleted = |recovered: &mut Recovered| assert!(recovered.deleted.insert(former));
    let node = Node::start_as_if(&disk, &definitions, deleted).unwrap();
    assert_ne!(schedule(&node).id, former);
    assert_eq!(schedule(&node).lock().machine.ready(), 0);
    node.publish_later(3..5);
    let (definitions, disk) = (node.definitions(), disk.crash());
    let node = Node::start(&disk, &definitions).unwrap();
    assert_eq!(schedule(&node).lock().machine.ready(), 2);
}

/// Definitions that do not belong to the messages are refused however often they are tried, though a queue that they do
/// define would have let messages go.
#[test]
fn a_refused_start_changes_nothing() {
    let disk = SimDisk::new(1);
    let node = Node::open(&disk, &definitions());
    let (a, stray) = (node.queue("a"), node.declare("stray", &[]));
    let mut older = node.definitions();
    older.retain(|op| !matches!(op, MetaOp::Put { key, .. } if *key == records::key(&["/", "stray"])));
    let shorter = serde_json::json!({"pattern": "^a$", "definition": {"max-length": 2}});
    older.push(records::put_parameter("/", "policy", "shorter", &shorter));
    node.publish(&a, 0..5);
    node.publish(&stray, 0..3);
    let right = node.definitions();
    stop(&node.broker).unwrap();
    for _ in 0..2 {
        let refused = Node::start(&disk, &older).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.contains("3 messages are in 1 queues that it does not define"), "{refused}");
    }
    let node = Node::start(&disk, &right).unwrap();
    assert_eq!(node.queue("a").lock().machine.classic().unwrap().delivered_below(), 0, "it was a clean stop");
    assert_eq!(node.get_all(&node.queue("stray")), [0, 1, 2]);
    assert_eq!(node.get_all(&node.queue("a")), [0, 1, 2, 3, 4]);
}

/// A message that was moved may have been delivered where it went, and the power lost before the move was on disk. Moved
/// again, over however many queues and by whomever, it says so.
#[test]
fn what_is_moved_again_after_a_crash_is_marked() {
    for levels in [&[][..], &[("x-max-priority", 1)]] {
        let disk = SimDisk::new(1);
        let node = Node::open(&disk, &definitions());
        node.publish(&node.declare("from", levels), 0..3);
        let node = Node::start(&disk.crash(), &node.definitions()).unwrap();
        let (from, last) = (node.queue("from"), node.declare("last", &[]));
        node.publish(&from, 3..5);
        let vhost = "/".to_owned();
        let (queue, action) = ("from".to_owned(), Action::Move("a".to_owned()));
        let request = Request { vhost, queue, action, filters: Vec::new(), count: 10, progress: None };
        assert_eq!(relocate::step(&node.broker, &request).unwrap().messages, 5);
        let policy = serde_json::json!({
            "pattern": "^a$",
            "definition": {"dead-letter-exchange": "", "dead-letter-routing-key": "last", "max-length": 0},
        });
        let policy = Policy::from_value("p", &policy, PolicyKind::User).unwrap();
        admin::set_policy(&node.broker, "/", PolicyKind::User, policy).unwrap();
        while last.lock().machine.ready() < 5 {
            std::thread::yield_now();
        }
        let expected = [(0, true), (1, true), (2, true), (3, false), (4, false)];
        assert_eq!(node.get_all_marked(&last), expected);
    }
}
