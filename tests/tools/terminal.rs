//! Output of the command line on a terminal: no text of workers, files, arguments or other
//! servers can control the terminal, or is hidden on it.

use crate::support::server::Server;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};
use unicode_general_category::{GeneralCategory as Category, get_general_category};

/// Control characters of both sets, and characters that change the direction of text, end
/// lines, join, or are never drawn. Each has hidden or forged something in some terminal.
const ACTING: &str = "\u{7}\u{8}\r\u{1b}[2J\u{7f}\u{85}\u{9b}31m\u{ad}\u{61c}\u{180e}\u{200b}\u{200e}\u{200f}\
    \u{2028}\u{2029}\u{202a}\u{202e}\u{2060}\u{2066}\u{2069}\u{206a}\u{feff}\u{fff9}\u{3164}\u{fe0f}\u{e0041}\u{e0100}";

fn acts(c: char) -> bool {
    use Category::{Control, Format, LineSeparator, ParagraphSeparator};
    let category = get_general_category(c);
    // Of the other characters, only those of the list above.
    c != '\n'
        && matches!(
            category,
            Control | Format | LineSeparator | ParagraphSeparator
        )
        || "\u{3164}\u{fe0f}\u{e0100}".contains(c)
}

#[track_caller]
fn is_safe(output: &Output) -> String {
    let mut all = String::new();
    for bytes in [&output.stdout, &output.stderr] {
        let text = std::str::from_utf8(bytes).expect("output is UTF-8");
        let found: Vec<_> = text.chars().filter(|c| acts(*c)).collect();
        assert!(found.is_empty(), "{found:?} raw in {text:?}");
        all.push_str(text);
    }
    assert!(!all.contains("panicked"), "{all}");
    all
}

fn opledger(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opledger"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Events with such text in every member that accepts any text.
fn hostile_events() -> Vec<Value> {
    let event = |n: u32, kind: &str, data: Value| {
        json!({"specversion": "1.0", "id": format!("e{n}{ACTING}"), "source": format!("/w{n}"),
            "subject": "op", "type": format!("opledger.{kind}.v1"),
            "time": format!("2024-05-06T07:08:0{n}Z"), "data": data, "extension": ACTING})
    };
    let request = json!({"uri": format!("/x{ACTING}"), "method": "PUT", "body": ACTING});
    let sent = json!({"cluster_id": format!("c{ACTING}"), "request": request});
    vec![
        event(1, "operation.created", json!({"request": request})),
        event(
            2,
            "operation.progressed",
            json!({"sub_status": format!("s{ACTING}")}),
        ),
        event(3, "cluster.request_sent", sent.clone()),
        event(4, "rollback.attempted", sent),
        event(
            5,
            "operation.failed",
            json!({"response": {"status_code": 500, "body": ACTING}}),
        ),
    ]
}

#[test]
fn event_data_never_reaches_the_terminal_unescaped() {
    let server = Server::start();
    // One at a time, and spread over several lines as some libraries write JSON, with line ends
    // of another system. The history keeps them.
    let mut token = String::new();
    for event in hostile_events() {
        let text = serde_json::to_string_pretty(&event)
            .unwrap()
            .replace('\n', "\r\n\t");
        let answer = server.post("application/cloudevents+json", text);
        assert_eq!(
            answer.status,
            202,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        token = answer.header("ledger-position").to_owned();
    }
    assert!(server.document("op", &token).is_some());
    let url = format!("http://{}", server.address);
    let run = |arguments: &[&str]| {
        let output = opledger(arguments)
            .env("OPLEDGER_URL", &url)
            .output()
            .unwrap();
        is_safe(&output);
        String::from_utf8(output.stdout).unwrap()
    };
    for (arguments, path) in [
        (&["get", "op"][..], "/v1/operations/op"),
        (&["history", "op"], "/v1/operations/op/events"),
        (&["list", "--detail"], "/v1/operations?format=detail-list"),
        (&["wait", "op"], "/v1/operations/op"),
        (&["watch", "op"], "/v1/operations/op"),
    ] {
        assert!(!run(arguments).is_empty());
        let printed = run(&[arguments, &["--json"]].concat());
        let printed: Value = serde_json::from_str(&printed).expect("JSON");
        assert_eq!(
            printed,
            server.get(path).json(),
            "{arguments:?}: the values are the same"
        );
    }
    assert_eq!(
        run(&["list", "--cluster-id", ACTING, "--uri-prefix", ACTING]),
        ""
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    let lines: String = hostile_events()
        .iter()
        .map(|event| format!("{event}\n"))
        .collect();
    std::fs::write(&file, lines).unwrap();
    // Other programs compare these bytes, so only a terminal gets them escaped.
    let piped = opledger(&["replay", file.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(
        piped.stdout.trim_ascii_end(),
        server.get("/v1/operations/op").body
    );
    let binary = env!("CARGO_BIN_EXE_opledger");
    let replay = format!("{binary} replay {} 2>/dev/null", file.display());
    let on_a_terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &replay, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(on_a_terminal.status.success());
    let shown = String::from_utf8(on_a_terminal.stdout).unwrap();
    // The terminal itself ends lines like this.
    let shown = shown.replace("\r\n", "\n");
    assert!(!shown.contains(acts), "{shown:?}");
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown, server.get("/v1/operations/op").json());
}

#[test]
fn arguments_never_reach_the_terminal_unescaped() {
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().join(ACTING.replace('/', ""));
    std::fs::write(&named, "no event\n").unwrap();
    let named = named.to_str().unwrap();
    let missing = format!("/missing{ACTING}");
    for arguments in [
        &[ACTING][..],
        &["get", ACTING],
        &["get", "x", ACTING],
        &["get", "x", &format!("--{ACTING}")],
        &["get", "x", "--position", ACTING],
        &["watch", "--from", ACTING],
        &["list", "--status", ACTING],
        &["list", "--created-from", ACTING],
        &["list", "--url", ACTING],
        &["list", "--url", &format!("http://127.0.0.1:1/{ACTING}")],
        &["list", "--url", &format!("http://x{ACTING}.invalid")],
        &["replay", &missing],
        &["replay", named],
        &["replay", named, "--id", ACTING],
        &["publish", &missing],
        &["publish", named],
        &["publish", named, "--kafka", ACTING],
        &["serve", "--listen", ACTING],
        &["serve", "--data", named, "--listen", "127.0.0.1:0"],
        &["rebuild", "--data", &missing],
        &["config", "show", "--config", &missing],
        &["config", "check", "--config", named],
        &["completions", ACTING],
        &["help", ACTING],
    ] {
        let output = opledger(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(!is_safe(&output).is_empty(), "{arguments:?}");
    }
    let bytes = OsStr::from_bytes(b"a\x1b\x9b\xff");
    for command in ["get", "replay", "publish", "completions"] {
        let output = opledger(&[command]).arg(bytes).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{command}");
        is_safe(&output);
    }
}

#[test]
fn variables_and_settings_never_reach_the_terminal_unescaped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("opledger.toml");
    let wrong = ACTING.replace(['\r', '\u{1b}', '\u{7}', '\u{8}', '\u{7f}'], "");
    std::fs::write(
        &file,
        format!("data = '{wrong}'\n'{wrong}' = 1\n[server]\nlisten = '{wrong}'\n"),
    )
    .unwrap();
    let check = || {
        let mut command = opledger(&["config", "check"]);
        command.arg("--config").arg(&file);
        command
    };
    assert!(is_safe(&check().output().unwrap()).contains("is not an IP address"));
    let env = check()
        .env("OPLEDGER_SERVER__LISTEN", ACTING)
        .output()
        .unwrap();
    is_safe(&env);
    let name = format!("OPLEDGER_{ACTING}");
    is_safe(
        &opledger(&["config", "check"])
            .env(name, "x")
            .output()
            .unwrap(),
    );
    is_safe(
        &opledger(&["config", "show"])
            .env("OPLEDGER_DATA", ACTING)
            .output()
            .unwrap(),
    );
    is_safe(
        &opledger(&["list"])
            .env("OPLEDGER_URL", ACTING)
            .output()
            .unwrap(),
    );
    for help in [
        &["serve", "--help"][..],
        &["config", "show", "-h"],
        &["help", "list"],
    ] {
        let mut command = opledger(help);
        command
            .env("OPLEDGER_URL", ACTING)
            .env("OPLEDGER_CONFIG", ACTING);
        let printed = command.output().unwrap();
        assert!(is_safe(&printed).contains("Usage: "), "{help:?}");
    }
}

/// A server that sends this response to every request, then closes.
fn other_server(status: &str, body: &[u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = [head.as_bytes(), body].concat();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&answer);
        }
    });
    url
}

#[test]
fn responses_of_other_servers_never_reach_the_terminal_unescaped() {
    let error = json!({"error_code": ACTING, "error_message": ACTING, "detail": ACTING,
        "data_consistency": ACTING});
    let letters = json!({"dead_letters": [{"position": ACTING, "arrived": ACTING, "key": ACTING,
        "reason": ACTING, "detail": ACTING}]});
    let notifications = json!({"notifications": [{"operation_id": ACTING, "state": ACTING,
        "address": ACTING, "port": 1, "last_error": ACTING}]});
    let latin = b"\x1b[2J\x9b31m\xff".to_vec();
    for (status, body) in [
        ("404 Not Found", error.to_string().into_bytes()),
        ("400 Bad Request", error.to_string().into_bytes()),
        ("500 Oh", error.to_string().into_bytes()),
        ("418 \u{9b}31m", latin.clone()),
        ("200 OK", letters.to_string().into_bytes()),
        ("200 OK", notifications.to_string().into_bytes()),
        ("200 OK", latin),
    ] {
        let url = other_server(status, &body);
        for arguments in [
            &["get", "x"][..],
            &["get", "x", "--json"],
            &["list"],
            &["list", "--json"],
            &["history", "x", "--json"],
            &["dead-letters"],
            &["dead-letters", "--json"],
            &["notifications", "list"],
            &["notifications", "list", "--json"],
            &["notifications", "retry", "--all"],
            &["publish", "/dev/null", "--wait", "--retry-for", "0"],
        ] {
            let output = opledger(arguments)
                .env("OPLEDGER_URL", &url)
                .output()
                .unwrap();
            is_safe(&output);
        }
    }
}
