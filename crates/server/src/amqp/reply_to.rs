//! Direct reply-to: `amq.rabbitmq.reply-to` stands for a queue of the channel's own.

/// What clients consume from and put into `reply-to`.
pub(crate) const PSEUDO_QUEUE: &str = "amq.rabbitmq.reply-to";
