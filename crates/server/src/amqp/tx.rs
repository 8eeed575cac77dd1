//! `tx`: publishes and acknowledgements kept until they are committed or rolled back.

use posthouse_amqp::method::Method;
use posthouse_model::errors;
use posthouse_model::props::HeaderView;
use posthouse_model::reply::ReplyError;
use posthouse_node::deliver;
use posthouse_node::positions::Positions;

use super::session::Session;
use super::unacked::Outstanding;

/// What the transactions of one connection may hold: more is refused rather than let a client fill the memory.
const MAX_BYTES: usize = 256 << 20;

/// What a settled delivery becomes on commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Settled.
    Settle,
    /// Given back.
    Requeue,
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
    /// The commit waits for these positions; its reply is due then.
    committing: Option<Positions>,
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

    /// Bytes that its publishes take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps what becomes of deliveries.
    pub(crate) fn settle(&mut self, run: Outstanding, verdict: Verdict) {
        self.verdicts.push((run, verdict));
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
        let verdicts = std::mem::take(&mut transaction.verdicts);
        self.transaction_bytes -= std::mem::take(&mut transaction.bytes);
        for Publish { publish, header, body } in &publishes {
            let index = self.route_of(publish)?;
            if let Ok(header) = HeaderView::parse(header) {
                self.publish(number, index, header, body)?;
            }
        }
        self.publisher.flush();
        for (run, verdict) in verdicts {
            match verdict {
                Verdict::Settle => self.settling.add(&run.queue, run.first_seq, run.last_seq()),
                Verdict::Requeue => deliver::requeue(&run.queue, &[(run.first_seq, run.last_seq())]),
            }
        }
        self.settling.flush(&self.broker);
        let lsn = self.broker.appended();
        let needs = Positions { lsn, meta: self.broker.meta_applied() };
        if let Some(transaction) = self.channel(number).and_then(|c| c.transaction.as_mut()) {
            transaction.committing = Some(needs);
        }
        self.committing.push(number);
        self.finish_commits();
        Ok(())
    }

    /// `tx.rollback`: forgets publishes; deliveries are outstanding again.
    pub(crate) fn tx_rollback(&mut self, number: u16) -> Result<(), ReplyError> {
        let Some(channel) = self.channel(number) else { return Ok(()) };
        let Some(transaction) = &mut channel.transaction else {
            return Err(errors::channel_not_transactional());
        };
        let mut forgotten = std::mem::take(&mut **transaction);
        let mut runs = forgotten.take_deliveries();
        runs.sort_unstable_by_key(|run| run.first_tag);
        channel.unacked.put_back(runs);
        self.transaction_bytes -= forgotten.bytes;
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
            let Some(needs) = transaction.committing else { continue };
            if needs.passed_by(passed) {
                transaction.committing = None;
                self.send(number, &Method::TxCommitOk {});
            } else {
                self.committing.push(number);
                self.wait_for(needs);
            }
        }
    }
}
