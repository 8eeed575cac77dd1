//! A pretend broker that only counts what is published and, when asked to consume, sends deliveries as fast as the
//! socket takes them. Measured against it, the generator shows its own ceiling.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, bail};
use clap::Args;
use posthouse_amqp::frame::{FrameKind, next_frame, write_frame, write_frame_with};
use posthouse_amqp::method::{Method, write_method};
use posthouse_model::field::FieldTable;

use super::client::CHANNEL;
use super::payload;
use super::report::{count, print_live};
use super::template::{Headers, write_header};

/// Flags of `posthouse bench sink`.
#[derive(Args, Debug)]
pub(crate) struct SinkArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5679")]
    listen: SocketAddr,
    /// Bytes of the bodies sent to consumers
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    size: usize,
}

const MAX_PAYLOAD: usize = 131_064;
const READ_BYTES: usize = 256 << 10;
const WRITE_BYTES: usize = 256 << 10;

/// Serves until killed.
pub(super) fn run(args: &SinkArgs) -> Result<()> {
    let listener = TcpListener::bind(args.listen).with_context(|| args.listen.to_string())?;
    for stream in listener.incoming() {
        let (stream, size) = (stream?, args.size);
        std::thread::spawn(move || {
            if let Err(error) = serve(stream, size) {
                print_live(&format!("sink: {error:#}"), true);
            }
        });
    }
    Ok(())
}

/// What a frame asks for.
enum Ask {
    Nothing,
    Deliveries(String),
    End,
}

fn serve(mut stream: TcpStream, size: usize) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut header = [0; 8];
    stream.read_exact(&mut header)?;
    let mut out = Vec::new();
    let start = Method::ConnectionStart {
        version_major: 0,
        version_minor: 9,
        server_properties: FieldTable::default(),
        mechanisms: b"PLAIN",
        locales: b"en_US",
    };
    write_method(&mut out, 0, &start);
    let mut input = vec![0; READ_BYTES + MAX_PAYLOAD + 8];
    let (mut end, mut publishes) = (0, 0u64);
    loop {
        stream.write_all(&out)?;
        out.clear();
        let n = stream.read(&mut input[end..])?;
        if n == 0 {
            return Ok(());
        }
        end += n;
        let mut at = 0;
        while let Some((frame, used)) = next_frame(&input[at..end], MAX_PAYLOAD)? {
            at += used;
            if frame.kind == FrameKind::Method {
                if frame.payload.starts_with(&[0, 60, 0, 40]) {
                    publishes += 1;
                    continue;
                }
                match answer(frame.channel, &Method::decode(frame.payload)?, &mut out)? {
                    Ask::Nothing => {}
                    Ask::Deliveries(tag) => {
                        stream.write_all(&out)?;
                        return deliver(stream, &tag, size);
                    }
                    Ask::End => {
                        stream.write_all(&out)?;
                        if publishes > 0 {
                            print_live(&format!("sink: parsed {} publishes", count(publishes as f64)), false);
                        }
                        return Ok(());
                    }
                }
            }
        }
        input.copy_within(at..end, 0);
        end -= at;
    }
}

fn answer(channel: u16, method: &Method<'_>, out: &mut Vec<u8>) -> Result<Ask> {
    let reply = match method {
        Method::ConnectionStartOk { .. } => {
            Method::ConnectionTune { channel_max: 2_047, frame_max: 131_072, heartbeat: 0 }
        }
        Method::ConnectionOpen { .. } => Method::ConnectionOpenOk {},
        Method::ConnectionTuneOk { .. } | Method::BasicAck { .. } => return Ok(Ask::Nothing),
        Method::ChannelOpen {} => Method::ChannelOpenOk {},
        Method::ExchangeDeclare { .. } => Method::ExchangeDeclareOk {},
        Method::ExchangeDelete { .. } => Method::ExchangeDeleteOk {},
        Method::QueueDeclare { queue, .. } => {
            Method::QueueDeclareOk { queue, message_count: 0, consumer_count: 0 }
        }
        Method::QueueBind { .. } => Method::QueueBindOk {},
        Method::QueueDelete { .. } => Method::QueueDeleteOk { message_count: 0 },
        Method::BasicQos { .. } => Method::BasicQosOk {},
        Method::BasicConsume { consumer_tag, .. } => return Ok(Ask::Deliveries((*consumer_tag).to_owned())),
        Method::ConnectionClose { .. } => {
            write_method(out, 0, &Method::ConnectionCloseOk {});
            return Ok(Ask::End);
        }
        other => bail!("{} is not for a sink", other.name()),
    };
    write_method(out, channel, &reply);
    Ok(Ask::Nothing)
}

/// Sends numbered deliveries until the consumer goes away.
fn deliver(mut stream: TcpStream, consumer_tag: &str, size: usize) -> Result<()> {
    let mut bytes = Vec::new();
    let mut stride = 0;
    while bytes.len() + stride <= WRITE_BYTES || stride == 0 {
        let method = Method::BasicDeliver {
            consumer_tag,
            delivery_tag: 0,
            redelivered: false,
            exchange: "",
            routing_key: "posthouse-bench-00000",
        };
        write_method(&mut bytes, CHANNEL, &method);
        write_frame_with(&mut bytes, FrameKind::Header, CHANNEL, |out| {
            write_header(out, size, false, None, Headers::default());
        });
        for part in payload::blank(size).chunks(MAX_PAYLOAD) {
            write_frame(&mut bytes, FrameKind::Body, CHANNEL, part);
        }
        stride = stride.max(bytes.len() * usize::from(stride == 0));
    }
    let parts = size.div_ceil(MAX_PAYLOAD);
    let body_at = stride - size - parts * 8 + 7;
    let tag_at = 7 + 4 + 1 + consumer_tag.len();
    let mut sequence = 0;
    loop {
        for unit in bytes.chunks_exact_mut(stride) {
            unit[tag_at..tag_at + 8].copy_from_slice(&(sequence + 1u64).to_be_bytes());
            let varying = payload::varying(size);
            payload::stamp(&mut unit[body_at..body_at + varying], payload::word(0, sequence), 0);
            sequence += 1;
        }
        if stream.write_all(&bytes).is_err() {
            return Ok(());
        }
    }
}
