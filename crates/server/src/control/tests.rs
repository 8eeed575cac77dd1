//! The socket itself: who may use it, what is answered to bad lines, and what becomes of an old one.

use serde_json::{Value, json};

use super::*;
use crate::test_broker::broker;

fn listen(path: &Path) -> io::Result<Control> {
    let facts = Facts { version: "1.2.3", listeners: vec!["here".into()], data_dir: None };
    Control::listen(broker(), path, facts)
}

#[tokio::test]
async fn a_stop_waits_for_what_is_carried_out_and_refuses_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let control = listen(&path).unwrap();
    let mut peer = Peer::connect(&path).await;
    assert!(peer.ask(r#"{"v":1,"command":"list_queues"}"#).await["ok"].is_array());
    let running = control.shared.running.acquire().await.unwrap();
    {
        let stop = control.stop(Duration::from_secs(20));
        tokio::pin!(stop);
        tokio::select! {
            biased;
            () = &mut stop => panic!("a command is still being carried out"),
            () = tokio::task::yield_now() => {}
        }
        drop(running);
        stop.await;
    }
    let refused = json!({"v": 1, "error": "the broker is stopping", "kind": "state"});
    assert_eq!(peer.ask(r#"{"v":1,"command":"list_queues"}"#).await, refused);
}

struct Peer(BufReader<UnixStream>);

impl Peer {
    async fn connect(path: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(path).await.unwrap()))
    }

    async fn send(&mut self, line: &[u8]) {
        self.0.get_mut().write_all(line).await.unwrap();
    }

    async fn answer(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    async fn ask(&mut self, line: &str) -> Value {
        self.send(format!("{line}\n").as_bytes()).await;
        self.answer().await.unwrap()
    }
}

#[tokio::test]
async fn commands_are_answered_in_order_on_one_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let control = listen(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut peer = Peer::connect(&path).await;
    assert_eq!(peer.ask(r#"{"v":1,"command":"ping"}"#).await, json!({"v": 1, "ok": null}));
    peer.send(
        b"{\"v\":1,\"command\":\"add_user\",\"args\":{\"name\":\"b\",\"password\":\"x\"}}\n\
          {\"v\":1,\"command\":\"list_users\",\"args\":{}}\n",
    )
    .await;
    assert_eq!(peer.answer().await, Some(json!({"v": 1, "ok": null})));
    let users = json!([{"user": "b", "tags": []}, {"user": "guest", "tags": ["administrator"]}]);
    assert_eq!(peer.answer().await, Some(json!({"v": 1, "ok": users})));
    let status = peer.ask(r#"{"v":1,"command":"status"}"#).await;
    assert_eq!((&status["ok"]["version"], &status["ok"]["users"]), (&json!("1.2.3"), &json!(2)));
    peer.ask(r#"{"v":1,"command":"stop"}"#).await;
    control.stop_requested().await;
    drop(control);
    assert!(!path.exists());
}

#[tokio::test]
async fn bad_lines_are_told_and_do_not_end_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _control = listen(&path).unwrap();
    let mut peer = Peer::connect(&path).await;
    for (line, expected) in [
        ("{", "expected a JSON object on one line, got an error at column 1"),
        (r#"{"v":2,"command":"ping"}"#, "expected a request with \"v\":1"),
        ("[]", "expected a request with \"v\":1"),
        (r#"{"v":1,"command":"sync_queue"}"#, "command \"sync_queue\" is not supported yet"),
        (r#"{"v":1}"#, "command \"\" is not supported yet"),
        (
            r#"{"v":1,"command":"add_user","args":{"name":1,"password":"secret"}}"#,
            "add_user: missing, unknown or mistyped arguments, got [\"name\", \"password\"]",
        ),
        (
            r#"{"v":1,"command":"add_user","args":{"password":"secret"}}"#,
            "add_user: expected an argument \"name\", got [\"password\"]",
        ),
        (
            r#"{"v":1,"command":"convert_queue","args":{"name":"q"}}"#,
            "convert_queue: expected an argument \"to\", got [\"name\"]",
        ),
        (
            r#"{"v":1,"command":"ping","args":"secret"}"#,
            "ping: missing, unknown or mistyped arguments, got []",
        ),
    ] {
        let answer = peer.ask(line).await;
        assert_eq!((&answer["error"], &answer["kind"]), (&json!(expected), &json!("usage")), "{line}");
    }
    let missing = peer.ask(r#"{"v":1,"command":"delete_user","args":{"name":"x"}}"#).await;
    assert_eq!(missing, json!({"v": 1, "error": "user 'x' does not exist", "kind": "state"}));
}

#[tokio::test]
async fn a_line_without_end_ends_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _control = listen(&path).unwrap();
    let mut peer = Peer::connect(&path).await;
    peer.send(&vec![b' '; MAX_REQUEST_BYTES as usize]).await;
    let answer = peer.answer().await.unwrap();
    assert_eq!(
        answer["error"],
        json!("expected a line of at most 65536 bytes, got 65536 bytes without a line feed")
    );
    assert_eq!(peer.answer().await, None);
}

#[tokio::test]
async fn a_document_follows_its_request() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _control = listen(&path).unwrap();
    let mut peer = Peer::connect(&path).await;
    let document = br#"{"vhosts":[{"name":"v"}]}"#;
    let request = |bytes: usize| {
        format!("{{\"v\":1,\"command\":\"import_definitions\",\"args\":{{\"bytes\":{bytes}}}}}\n")
    };
    peer.send(&[request(document.len()).as_bytes(), document, b"{\"v\":1,\"command\":\"ping\"}\n"].concat())
        .await;
    let answer = peer.answer().await.unwrap();
    assert_eq!((&answer["ok"]["imported"]["vhosts"], &answer["ok"]["left_out"]), (&json!(1), &json!([])));
    assert_eq!(peer.answer().await, Some(json!({"v": 1, "ok": null})));
    peer.send(request(MAX_BYTES + 1).as_bytes()).await;
    let answer = peer.answer().await.unwrap();
    assert_eq!(answer["error"], json!("expected at most 67108864 bytes of definitions, got 67108865"));
    assert_eq!(peer.answer().await, None);
    let mut peer = Peer::connect(&path).await;
    peer.send(request(5).as_bytes()).await;
    peer.0.get_mut().shutdown().await.unwrap();
    assert_eq!(peer.answer().await, None, "what never comes is not waited for after the end");
}

#[tokio::test]
async fn only_a_dead_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "closing leaves the file");
    let control = listen(&path).unwrap();
    assert_eq!(listen(&path).unwrap_err().to_string(), "another broker listens there");
    drop(control);
    std::fs::write(&path, "precious").unwrap();
    let refused = listen(&path).unwrap_err().to_string();
    assert_eq!(refused, "expected a socket or nothing there, got something else");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert!(listen(&dir.path().join("x".repeat(200))).is_err());
}
