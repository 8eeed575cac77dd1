//! What a run declares before and deletes after.

use anyhow::Result;
use posthouse_amqp::method::Method;
use posthouse_model::field::FieldTable;

use super::client::Client;
use super::plan::{Exchange, Plan, Roles};

/// Declares exchange, queues and bindings. What an earlier run left behind is deleted first, except when only
/// consuming: then it is what we came for.
pub(super) fn declare(client: &mut Client, plan: &Plan) -> Result<()> {
    let exchange = plan.exchange_name();
    if plan.roles != Roles::Consume {
        delete(client, plan)?;
    }
    if let Exchange::Own(exchange_type) = plan.exchange {
        declare_exchange(client, plan, &exchange, exchange_type)?;
    }
    for number in 0..plan.queues {
        let queue = &plan.queue_name(number);
        if plan.dead_letter.is_some() {
            declare_queue(client, plan, &plan.letters_name(number), FieldTable::default())?;
        }
        declare_queue(client, plan, queue, plan.arguments_of(number))?;
        if plan.exchange != Exchange::Default {
            let arguments = FieldTable::default();
            let method = Method::QueueBind {
                queue,
                exchange: &exchange,
                routing_key: queue,
                nowait: false,
                arguments,
            };
            client.call(&method, |m| matches!(m, Method::QueueBindOk {}).then_some(()))?;
        }
    }
    Ok(())
}

/// Declares an exchange as the plan has them.
pub(super) fn declare_exchange(
    client: &mut Client,
    plan: &Plan,
    exchange: &str,
    exchange_type: &str,
) -> Result<()> {
    let method = Method::ExchangeDeclare {
        exchange,
        exchange_type,
        passive: false,
        durable: plan.persistent,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: FieldTable::default(),
    };
    client.call(&method, |m| matches!(m, Method::ExchangeDeclareOk {}).then_some(()))
}

/// Declares a queue as the plan has them.
pub(super) fn declare_queue(
    client: &mut Client,
    plan: &Plan,
    queue: &str,
    arguments: FieldTable,
) -> Result<()> {
    let method = queue_declaration(plan, queue, arguments);
    client.call(&method, |m| matches!(m, Method::QueueDeclareOk { .. }).then_some(()))
}

/// The declaration of a queue as the plan has them.
pub(super) fn queue_declaration<'a>(plan: &Plan, queue: &'a str, arguments: FieldTable) -> Method<'a> {
    Method::QueueDeclare {
        queue,
        passive: false,
        durable: plan.persistent,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments,
    }
}

/// Deletes the run's queues and its exchange.
pub(super) fn delete(client: &mut Client, plan: &Plan) -> Result<()> {
    let letters = plan.dead_letter.map(|_| (0..plan.queues).map(|queue| plan.letters_name(queue)));
    let names = (0..plan.queues).map(|queue| plan.queue_name(queue)).chain(letters.into_iter().flatten());
    for queue in &names.collect::<Vec<_>>() {
        let method = Method::QueueDelete { queue, if_unused: false, if_empty: false, nowait: false };
        client.call(&method, |m| matches!(m, Method::QueueDeleteOk { .. }).then_some(()))?;
    }
    if let Exchange::Own(_) = plan.exchange {
        let method =
            Method::ExchangeDelete { exchange: &plan.exchange_name(), if_unused: false, nowait: false };
        client.call(&method, |m| matches!(m, Method::ExchangeDeleteOk {}).then_some(()))?;
    }
    Ok(())
}
