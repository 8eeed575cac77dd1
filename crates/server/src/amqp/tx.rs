//! `tx`: publishes and acknowledgements kept until they are committed or rolled back.

use std::collections::VecDeque;

use posthouse_amqp::method::Method;
use posthouse_model::attempts::Return;
use posthouse_model::errors;
use posthouse_model::props::HeaderView;
use posthouse_model::reply::ReplyError;
use posthouse_node::deadlines::NEVER_MS;
use posthouse_node::positions::Positions;
use posthouse_queue::machine::departures::Reason;

use super::session::Session;
use super::unacked::Outstanding;

/// What the transactions of one connection may hold: more is refused rather than let a client fill the memory.
const MAX_BYTES: usize = 256 << 20;

/// Gathered while a commit publishes, before it is handed over: about as much as one read brings.
const GATHERED_BYTES_MAX: usize = 1 << 20;

/// What a settled delivery becomes on commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Settled.
    Settle,
    /// Given back.
    Requeue(Return),
    /// Not wanted, for this reason.
    Reject(Reason),
}

#[derive(Debug)]
struct Publish {
    publish: Vec<u8>,
    header: Vec<u8>,
    body: Vec<u8>,
}

/// What happened on a transactional channel since the last commit or rollback.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    publishes: Vec<Publish>,
    verdicts: Vec<(Outstanding, Verdict)>,
    bytes: usize,
    /// Commits wait for these positions; their replies are due then.
    committing: VecDeque<Positions>,
}

impl Transaction {
    /// Keeps a publish; the bytes it takes.
    pub(crate) fn publish(&mut self, publish: &[u8], header: &[u8], body: &[u8]) -> usize {
        let bytes = size_of::<Publish>() + publish.len() + header.len() + body.len();
        self.bytes += bytes;
        let (publish, header, body) = (publish.to_vec(), header.to_vec(), body.to_vec());
        self.publishes.push(Publish { publish, header, body });
        bytes
    }

    /// How many publishes it holds.
    pub(crate) fn publishes(&self) -> u64 {
        self.publishes.len() as u64
    }

    /// How many deliveries it holds.
    pub(crate) fn deliveries(&self) -> u64 {
        self.verdicts.iter().map(|(run, _)| u64::from(run.count)).sum()
    }

    /// Bytes that its publishes take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps what becomes of deliveries.
    pub(crate) fn settle(&mut self, run: Outstanding, verdict: Verdict) {
        self.verdicts.push((run, verdict));
    }

    /// A consumer has ended: its slot may be another's soon. How many of its deliveries are held.
    pub(crate) fn forget_consumer(&mut self, slot: u32) -> u32 {
        let mut count = 0;
        for (run, _) in self.verdicts.iter_mut().filter(|(run, _)| run.consumer == Some(slot)) {
            run.consumer = None;
            count += run.count;
        }
        count
    }

    /// The deliveries that it holds, which it forgets.
    pub(crate) fn take_deliveries(&mut self) -> Vec<Outstanding> {
        self.verdicts.drain(..).map(|(run, _)| run).collect()
    }
}

impl Session {
    /// Notes that a transaction holds so much more.
    pub(crate) fn count_transaction(&mut self, bytes: usize) -> Result<(), ReplyError> {
        self.transaction_bytes += bytes;
        match self.transaction_bytes {
            0..=MAX_BYTES => Ok(()),
            got => Err(errors::transactions_too_large(got, MAX_BYTES)),
        }
    }

    /// `tx.select`
    pub(crate) fn tx_select(&mut self, number: u16) -> Result<(), ReplyError> {
        // What was published before is no part of it, whatever becomes of it.
        self.publisher.flush();
        self.note_confirms();
        let Some(channel) = self.channel(number) else { return Ok(()) };
        if channel.confirms.is_some() {
            return Err(errors::cannot_switch_from_confirm_to_tx());
        }
        channel.transaction.get_or_insert_default();
        self.send(number, &Method::TxSelectOk {});
        Ok(())
    }

    /// `tx.commit`: publishes in order, then settles; the reply waits until it is durable.
    pub(crate) fn tx_commit(&mut self, number: u16) -> Result<(), ReplyError> {
        let transaction = self.channel(number).and_then(|c| c.transaction.as_mut());
        let Some(transaction) = transaction else { return Err(errors::channel_not_transactional()) };
        let publishes = std::mem::take(&mut transaction.publishes);
        let bytes = std::mem::take(&mut transaction.bytes);
        self.transaction_bytes -= bytes;
        // All or nothing: an exchange may have gone since. Deliveries are the transaction's until nothing can fail.
        for Publish { publish, header, .. } in &publishes {
            let index = self.route_of(publish)?;
            if let Ok(header) = HeaderView::parse(header) {
                self.check_special(number, index, header)?;
            }
        }
        let all_routed = self.publish_committed(number, publishes);
        self.settle_committed(number);
        // Publishes of a transaction count as their channel's number 0, which no confirm has.
        let mut refused = self.publisher.take_refused();
        self.settle_duplicates_of_commit(number, &mut refused);
        if !all_routed || refused.contains(&(number, 0)) {
            return Err(errors::partial_tx_completion());
        }
        self.note_refused(refused);
        let needs = Positions {
            lsn: self.broker.appended(),
            meta: self.broker.meta_applied(),
            ..Positions::default()
        };
        if let Some(transaction) = self.channel(number).and_then(|c| c.transaction.as_mut()) {
            transaction.committing.push_back(needs);
        }
        self.committing.push(number);
        self.finish_commits();
        Ok(())
    }

    /// Publishes what a transaction held; whether there was a route for everything, still.
    fn publish_committed(&mut self, number: u16, publishes: Vec<Publish>) -> bool {
        let (mut all_routed, mut gathered) = (true, 0);
        for Publish { publish, header, body } in publishes {
            let Ok(header) = HeaderView::parse(&header) else { continue };
            let routed = self.route_of(&publish);
            all_routed &= routed.and_then(|index| self.publish(number, index, header, &body)).is_ok();
            gathered += publish.len() + header.payload().len() + body.len();
            if gathered >= GATHERED_BYTES_MAX {
                // Otherwise messages for many queues would be there twice, here and gathered.
                self.publisher.flush();
                gathered = 0;
            }
        }
        self.publisher.flush();
        all_routed
    }

    fn settle_committed(&mut self, number: u16) {
        let transaction = self.channel(number).and_then(|c| c.transaction.as_mut());
        let verdicts = transaction.map(|transaction| std::mem::take(&mut transaction.verdicts));
        for (run, verdict) in verdicts.unwrap_or_default() {
            self.settle_now(number, &run, verdict);
        }
        self.settling.flush(&self.broker);
    }

    /// `tx.rollback`: forgets publishes; deliveries are outstanding again.
    pub(crate) fn tx_rollback(&mut self, number: u16) -> Result<(), ReplyError> {
        let Some(channel) = self.channel(number) else { return Ok(()) };
        let Some(transaction) = &mut channel.transaction else {
            return Err(errors::channel_not_transactional());
        };
        transaction.publishes = Vec::new();
        let bytes = std::mem::take(&mut transaction.bytes);
        let mut runs = transaction.take_deliveries();
        runs.sort_unstable_by_key(|run| run.first_tag);
        // Some may have become due while the transaction held them.
        let due_ms = runs.iter().map(|run| run.due_ms).min().unwrap_or(NEVER_MS);
        channel.unacked.put_back(runs);
        self.await_deadline(due_ms);
        self.transaction_bytes -= bytes;
        self.send(number, &Method::TxRollbackOk {});
        Ok(())
    }

    /// Replies to the commits whose positions have been passed.
    pub(crate) fn finish_commits(&mut self) {
        let passed = self.broker.passed();
        let waiting = std::mem::take(&mut self.committing);
        for number in waiting {
            let transaction = self.channel(number).and_then(|c| c.transaction.as_mut());
            let Some(transaction) = transaction else { continue };
            let mut due = 0;
            while transaction.committing.front().is_some_and(|needs| needs.passed_by(passed)) {
                transaction.committing.pop_front();
                due += 1;
            }
            let next = transaction.committing.front().copied();
            for _ in 0..due {
                self.send(number, &Method::TxCommitOk {});
            }
            if let Some(needs) = next {
                if !self.committing.contains(&number) {
                    self.committing.push(number);
                }
                self.wait_for(needs);
            }
        }
    }
}
