//! Stops in the middle of something that two parts of a data directory must know: what was confirmed afterwards is kept.

use super::*;

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
