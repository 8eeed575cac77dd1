//! lapin, RabbitMQ's client in Rust, run against whatever broker `AMQP_URI` names.
//!
//! Each scenario opens its own connection and checks every reply; the first that fails ends the
//! program with exit code 1 and one line that says what was expected and what came.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_lite::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
    BasicQosOptions, BasicRejectOptions, ConfirmSelectOptions, ExchangeBindOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind,
    ExchangeKind,
};

const PATIENCE: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_millis(150);

#[tokio::main]
async fn main() {
    let outcome = tokio::time::timeout(Duration::from_secs(50), all()).await;
    let failure = match outcome {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "still running after 50 s".to_owned(),
    };
    eprintln!("FAIL {failure}");
    std::process::exit(1);
}

async fn all() -> Result<()> {
    topology().await.context("topology")?;
    confirms_and_returns().await.context("confirms_and_returns")?;
    prefetch_and_acks().await.context("prefetch_and_acks")?;
    requeue_and_reject().await.context("requeue_and_reject")?;
    properties_of_every_type().await.context("properties_of_every_type")?;
    large_bodies().await.context("large_bodies")?;
    transactions().await.context("transactions")?;
    life_cycles().await.context("life_cycles")?;
    errors().await.context("errors")
}

async fn connect() -> Result<Connection> {
    let uri =
        std::env::var("AMQP_URI").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned());
    Ok(Connection::connect(&uri, ConnectionProperties::default()).await?)
}

/// A name no other run uses.
fn name(stem: &str) -> String {
    format!("check.lapin.{stem}.{}", std::process::id())
}

async fn exclusive_queue(channel: &Channel) -> Result<String> {
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?;
    ensure!(queue.name().as_str().starts_with("amq.gen-"), "server-named queue, got {}", queue.name());
    Ok(queue.name().to_string())
}

async fn publish(channel: &Channel, exchange: &str, key: &str, body: &[u8]) -> Result<Confirmation> {
    publish_with(channel, exchange, key, body, BasicProperties::default(), false).await
}

async fn publish_with(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
    mandatory: bool,
) -> Result<Confirmation> {
    let options = BasicPublishOptions { mandatory, ..Default::default() };
    let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?;
    Ok(confirm.await?)
}

/// The bodies of a queue, taken until it is empty.
async fn drain(channel: &Channel, queue: &str) -> Result<Vec<(String, bool)>> {
    let mut bodies = Vec::new();
    while let Some(got) = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await? {
        let delivery = got.delivery;
        bodies.push((String::from_utf8(delivery.data)?, delivery.redelivered));
    }
    Ok(bodies)
}

async fn consume(channel: &Channel, queue: &str, tag: &str) -> Result<Consumer> {
    let options = BasicConsumeOptions::default();
    Ok(channel.basic_consume(queue.into(), tag.into(), options, FieldTable::default()).await?)
}

/// Messages ready in a queue, waiting until there are as many as expected.
async fn ready(channel: &Channel, queue: &str, expected: u32) -> Result<()> {
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let mut count = None;
    for _ in 0..100 {
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
        count = Some(declared.message_count());
        if count == Some(expected) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("expected {expected} ready messages in {queue}, got {count:?}")
}

async fn topology() -> Result<()> {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let kinds = [
        QueueDeclareOptions { durable: true, ..Default::default() },
        QueueDeclareOptions::default(),
        QueueDeclareOptions { exclusive: true, ..Default::default() },
        QueueDeclareOptions { auto_delete: true, ..Default::default() },
    ];
    for (number, options) in kinds.into_iter().enumerate() {
        let queue = name(&format!("kind{number}"));
        let declared = channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await?;
        ensure!(
            (declared.name().as_str(), declared.message_count(), declared.consumer_count()) == (&queue, 0, 0),
            "declare-ok of {queue}: got {declared:?}"
        );
        let left = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
        ensure!(left == 0, "{queue} should be empty, had {left}");
    }
    for (kind, binding, arguments, key) in [
        (ExchangeKind::Direct, "red", FieldTable::default(), "red"),
        (ExchangeKind::Fanout, "", FieldTable::default(), "anything"),
        (ExchangeKind::Topic, "*.red.#", FieldTable::default(), "light.red"),
        (ExchangeKind::Headers, "", table([("format", text("pdf"))]), "anything"),
    ] {
        routes(&channel, kind.clone(), binding, arguments, key).await.with_context(|| format!("{kind:?}"))?;
    }
    connection.close(200, "bye".into()).await?;
    Ok(())
}

/// Declares an exchange of this kind behind another, and sees one message through both.
async fn routes(
    channel: &Channel,
    kind: ExchangeKind,
    binding: &str,
    arguments: FieldTable,
    key: &str,
) -> Result<()> {
    let (source, target) = (name("source"), name("target"));
    let options = ExchangeDeclareOptions::default();
    channel
        .exchange_declare(source.as_str().into(), ExchangeKind::Fanout, options, FieldTable::default())
        .await?;
    channel.exchange_declare(target.as_str().into(), kind, options, FieldTable::default()).await?;
    let bind = ExchangeBindOptions::default();
    channel
        .exchange_bind(target.as_str().into(), source.as_str().into(), "".into(), bind, FieldTable::default())
        .await?;
    let queue = exclusive_queue(channel).await?;
    let bind = QueueBindOptions::default();
    channel
        .queue_bind(queue.as_str().into(), target.as_str().into(), binding.into(), bind, arguments)
        .await?;
    let headers = BasicProperties::default().with_headers(table([("format", text("pdf"))]));
    publish_with(channel, &source, key, b"through", headers, true).await?;
    let got = drain(channel, &queue).await?;
    ensure!(got == [("through".to_owned(), false)], "expected one message, got {got:?}");
    for exchange in [source, target] {
        channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await?;
    }
    Ok(())
}

async fn confirms_and_returns() -> Result<()> {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let queue = exclusive_queue(&channel).await?;
    ensure!(publish(&channel, "", &queue, b"0").await? == Confirmation::NotRequested, "no confirms yet");
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut pending = Vec::new();
    for number in 1..=100 {
        let body = format!("{number}");
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default().with_delivery_mode(2);
        let sent =
            channel.basic_publish("".into(), queue.as_str().into(), options, body.as_bytes(), properties);
        pending.push(sent.await?);
    }
    for confirm in pending {
        let confirmation = confirm.await?;
        ensure!(confirmation == Confirmation::Ack(None), "expected an ack, got {confirmation:?}");
    }
    let bodies: Vec<_> = drain(&channel, &queue).await?.into_iter().map(|(body, _)| body).collect();
    let expected: Vec<_> = (0..=100).map(|number| number.to_string()).collect();
    ensure!(bodies == expected, "publishing order, got {bodies:?}");

    let properties = BasicProperties::default().with_message_id("7".into());
    let confirmation = publish_with(&channel, "amq.direct", "nobody", b"back", properties, true).await?;
    ensure!(confirmation.is_ack(), "an unroutable message is confirmed, got {confirmation:?}");
    let returned = confirmation.take_message().context("the unroutable message did not come back")?;
    let got = (returned.reply_code, returned.reply_text.as_str(), returned.delivery.routing_key.as_str());
    ensure!(got == (312, "NO_ROUTE", "nobody"), "basic.return, got {got:?}");
    ensure!(returned.delivery.data == b"back", "returned body");
    let purged = channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default()).await?;
    ensure!(purged == 0, "purged {purged} of an empty queue");
    connection.close(200, "bye".into()).await?;
    Ok(())
}

/// The next delivery, which must come within the time a broker may reasonably take.
async fn next(consumer: &mut Consumer) -> Result<lapin::message::Delivery> {
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(delivery.context("the consumer was cancelled")??)
}

async fn prefetch_and_acks() -> Result<()> {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let queue = exclusive_queue(&channel).await?;
    for number in 0..20 {
        publish(&channel, "", &queue, number.to_string().as_bytes()).await?;
    }
    channel.basic_qos(5, BasicQosOptions::default()).await?;
    let mut consumer = consume(&channel, &queue, "t").await?;
    let mut taken = 0;
    while taken < 20 {
        let mut window = Vec::new();
        for _ in 0..5 {
            window.push(next(&mut consumer).await?);
        }
        let more = tokio::time::timeout(QUIET, consumer.next()).await;
        ensure!(more.is_err(), "a sixth delivery at prefetch 5: {more:?}");
        for delivery in &window {
            ensure!(delivery.data == taken.to_string().as_bytes(), "delivery {taken} is out of order");
            taken += 1;
        }
        let last = window.last().context("an empty window")?;
        last.ack(BasicAckOptions { multiple: true }).await?;
    }
    ready(&channel, &queue, 0).await?;
    connection.close(200, "bye".into()).await?;
    Ok(())
}

async fn requeue_and_reject() -> Result<()> {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let queue = exclusive_queue(&channel).await?;
    let empty = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?;
    ensure!(empty.is_none(), "get-empty");
    for number in 0..4 {
        publish(&channel, "", &queue, number.to_string().as_bytes()).await?;
    }
    let mut held = Vec::new();
    for left in (0..4).rev() {
        let got = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?;
        let got = got.context("a message")?;
        ensure!(got.message_count == left, "expected {left} left, got {}", got.message_count);
        held.push(got.delivery);
    }
    held[1].ack(BasicAckOptions::default()).await?;
    held[2].reject(BasicRejectOptions { requeue: false }).await?;
    held[3].nack(BasicNackOptions { multiple: true, requeue: true }).await?;
    let got = drain(&channel, &queue).await?;
    ensure!(got == [("0".to_owned(), true), ("3".to_owned(), true)], "order after requeue, got {got:?}");
    connection.close(200, "bye".into()).await?;
    Ok(())
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(key.into(), value);
    }
    table
}

async fn properties_of_every_type() -> Result<()> {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let queue = exclusive_queue(&channel).await?;
    let headers = table([
        ("bool", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-8)),
        ("u8", AMQPValue::ShortShortUInt(200)),
        ("i16", AMQPValue::ShortInt(-16)),
        ("u16", AMQPValue::ShortUInt(60_000)),
        ("i32", AMQPValue::LongInt(-32)),
        ("u32", AMQPValue::LongUInt(4_000_000_000)),
        ("i64", AMQPValue::LongLongInt(i64::MIN)),
        ("f32", AMQPValue::Float(0.5)),
        ("f64", AMQPValue::Double(1.25)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 314 })),
        ("text", text("text")),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
        ("array", AMQPValue::FieldArray(FieldArray::from(vec![text("one"), AMQPValue::LongInt(2)]))),
        ("table", AMQPValue::FieldTable(table([("deep", AMQPValue::Void)]))),
        ("void", AMQPValue::Void),
    ]);
    let sent = BasicProperties::default()
        .with_content_type("a/b".into())
        .with_content_encoding("c".into())
        .with_headers(headers)
        .with_delivery_mode(2)
        .with_priority(3)
        .with_correlation_id("d".into())
        .with_reply_to("e".into())
        .with_message_id("f".into())
        .with_timestamp(1_700_000_000)
        .with_type("g".into())
        .with_user_id("guest".into())
        .with_app_id("h".into())
        .with_cluster_id("i".into());
    publish_with(&channel, "", &queue, b"", sent.clone(), false).await?;
    let got = channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true }).await?;
    let got = got.context("the message")?.delivery.properties;
    ensure!(got == sent, "properties changed: sent {sent:?}, got {got:?}");
    connection.close(200, "bye".into()).await?;
    Ok(())
}

async fn large_bodies() -> Result<()> {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let queue = exclusive_queue(&channel).await?;
    for size in [131_063, 131_064, 131_065, 10 * 1024 * 1024] {
        let body: Vec<u8> = (0..size).map(|index: usize| (index % 251) as u8).collect();
        publish(&channel, "", &queue, &body).await?;
        let got = channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true }).await?;
        let got = got.context("the message")?.delivery.data;
        ensure!(got == body, "a body of {size} bytes changed; got {} bytes", got.len());
    }
    connection.close(200, "bye".into()).await?;
    Ok(())
}

async fn transactions() -> Result<()> {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let queue = exclusive_queue(&channel).await?;
    channel.tx_select().await?;
    publish(&channel, "", &queue, b"kept").await?;
    ready(&channel, &queue, 0).await?;
    channel.tx_commit().await?;
    ready(&channel, &queue, 1).await?;
    publish(&channel, "", &queue, b"forgotten").await?;
    channel.tx_rollback().await?;
    let got = drain(&channel, &queue).await?;
    ensure!(got == [("kept".to_owned(), false)], "after rollback, got {got:?}");
    connection.close(200, "bye".into()).await?;
    Ok(())
}

async fn life_cycles() -> Result<()> {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let queue = name("cancelled");
    let transient = QueueDeclareOptions::default();
    channel.queue_declare(queue.as_str().into(), transient, FieldTable::default()).await?;
    let mut consumer = consume(&channel, &queue, "t").await?;
    let other = connection.create_channel().await?;
    other.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
    other.close(200, "bye".into()).await?;
    let end = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no cancel notification")?;
    ensure!(end.is_none(), "expected the consumer's end, got {end:?}");

    let exclusive = name("exclusive");
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    channel.queue_declare(exclusive.as_str().into(), options, FieldTable::default()).await?;
    let stranger = connect().await?;
    let locked = format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{exclusive}' in vhost '/'. It could be \
         originally declared on another connection or the exclusive property value does not match that of the \
         original declaration."
    );
    refused_passive(&stranger, &exclusive, 405, &locked).await?;
    connection.close(200, "bye".into()).await?;
    let missing = format!("NOT_FOUND - no queue '{exclusive}' in vhost '/'");
    refused_passive(&stranger, &exclusive, 404, &missing).await?;
    stranger.close(200, "bye".into()).await?;
    Ok(())
}

/// A passive declare must close its channel with this error, and leave the connection alone.
async fn refused_passive(connection: &Connection, queue: &str, code: u16, text: &str) -> Result<()> {
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    refused_declare(connection, queue, passive, code, text).await
}

async fn refused_declare(
    connection: &Connection,
    queue: &str,
    options: QueueDeclareOptions,
    code: u16,
    text: &str,
) -> Result<()> {
    let channel = connection.create_channel().await?;
    let outcome = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
    let error = outcome.err().with_context(|| format!("expected {code} {text}, got no error"))?;
    let ErrorKind::ProtocolError(error) = error.kind() else {
        bail!("expected {code} {text}, got {error}");
    };
    let got = (error.get_id(), error.get_message().as_str());
    ensure!(got == (code, text), "expected {:?}, got {got:?}", (code, text));
    let survivor = connection.create_channel().await.context("the connection survives a channel error")?;
    exclusive_queue(&survivor).await?;
    // Dropping an open channel closes it in the background, which `Connection::close` trips over.
    survivor.close(200, "bye".into()).await?;
    Ok(())
}

async fn errors() -> Result<()> {
    let connection = connect().await?;
    refused_passive(&connection, "nope", 404, "NOT_FOUND - no queue 'nope' in vhost '/'").await?;
    let reserved = "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'";
    refused_declare(&connection, "amq.mine", QueueDeclareOptions::default(), 403, reserved).await?;
    let queue = name("durable");
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    let channel = connection.create_channel().await?;
    channel.queue_declare(queue.as_str().into(), durable, FieldTable::default()).await?;
    let differs = format!(
        "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue}' in vhost '/': \
         received 'false' but current is 'true'"
    );
    refused_declare(&connection, &queue, QueueDeclareOptions::default(), 406, &differs).await?;
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
    connection.close(200, "bye".into()).await?;
    Ok(())
}
