//! The commands against a real ledger: what they list, what they refuse, and how they exit.

use crate::support::events::created;
use crate::support::server::Server;
use crate::support::stories::stories;
use serde_json::Value;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn opledger(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opledger"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command against this ledger.
fn ask(server: &Server, arguments: &[&str]) -> Output {
    let url = format!("http://{}", server.address);
    opledger(arguments)
        .env("OPLEDGER_URL", url)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

#[track_caller]
fn ended(output: &Output, status: i32) -> String {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    errors
}

#[track_caller]
fn shown(server: &Server, arguments: &[&str]) -> String {
    let output = ask(server, arguments);
    ended(&output, 0);
    text(&output.stdout)
}

/// A ledger with the sample operations, all of them visible.
fn with_stories() -> (Server, String) {
    let server = Server::start();
    let events: Vec<Value> = stories().into_iter().flat_map(|s| s.events).collect();
    let token = server.publish(&events);
    (server, token)
}

#[test]
fn list_takes_the_filters_the_order_and_the_limit_of_the_interface() {
    let (server, token) = with_stories();
    let cases: [(&[&str], &str); 12] = [
        (&[], ""),
        (&["--status", "failed"], "status=failed"),
        (
            &["--status", "failed", "--status", "canceled"],
            "status=failed&status=canceled",
        ),
        (
            &["--created-from", "2019-06-27T09:00:00.5Z"],
            "occurred_from=2019-06-27T09:00:00.5Z",
        ),
        (
            &["--created-to", "2019-06-27T18:00:00+09:00"],
            "occurred_to=2019-06-27T18:00:00%2B09:00",
        ),
        (&["--cluster-id", "2"], "cluster_id=2"),
        (&["--cluster", "1"], "cluster_id=1"),
        (&["--method", "POST"], "method=POST"),
        (
            &["--uri-prefix", "/v1/slices/l2vpn"],
            "uri_prefix=/v1/slices/l2vpn",
        ),
        (
            &["--rollback-result", "completed"],
            "rollback_result=completed",
        ),
        (
            &["--order", "oldest", "--status", "completed"],
            "order=oldest&status=completed",
        ),
        (&["--order", "newest"], "order=newest"),
    ];
    let mut sizes = std::collections::BTreeSet::new();
    for (arguments, query) in cases {
        let at = [("ledger-position", &*token)];
        let served = server
            .get_with(&format!("/v1/operations?{query}"), &at)
            .json();
        let ids: Vec<&str> = served["operation_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap())
            .collect();
        sizes.insert(ids.len());
        let list = [&["list", "--position", &token], arguments].concat();
        let listed = shown(&server, &list);
        assert_eq!(listed.lines().collect::<Vec<_>>(), ids, "{arguments:?}");
        let detailed = shown(&server, &[&list[..], &["--detail"]].concat());
        let first: Vec<_> = detailed
            .lines()
            .skip(1)
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(first, ids, "{arguments:?}");
        for limit in ["1", "3", "1001", "18446744073709551615"] {
            let some = shown(&server, &[&list[..], &["--limit", limit]].concat());
            let expected = ids.iter().take(limit.parse().unwrap_or(usize::MAX));
            assert!(
                some.lines().eq(expected.copied()),
                "{arguments:?} {limit}: {some}"
            );
        }
        let json = shown(
            &server,
            &[&list[..], &["--json", "--limit", "1000"]].concat(),
        );
        assert_eq!(json, format!("{served}\n"), "{arguments:?}");
    }
    assert!(sizes.len() > 4, "the filters say something: {sizes:?}");
    for wrong in [
        ["--status", "done"],
        ["--method", "GET"],
        ["--order", "random"],
        ["--rollback-result", "some"],
        ["--created-from", "yesterday"],
        ["--limit", "0"],
    ] {
        let refused = ask(&server, &[&["list"][..], &wrong].concat());
        let errors = ended(&refused, 2);
        assert!(errors.contains(wrong[0]), "{errors}");
    }
}

#[test]
fn a_limit_is_followed_from_page_to_page() {
    let server = Server::start();
    let many: Vec<Value> = (0..2500).map(|n| created(&format!("op-{n:04}"))).collect();
    let token = server.publish(&many);
    for limit in [999, 1000, 1001, 2001, 2500, 9999] {
        let listed = shown(
            &server,
            &["list", "--position", &token, "--limit", &limit.to_string()],
        );
        let mut ids: Vec<_> = listed.lines().collect();
        assert_eq!(ids.len(), limit.min(2500));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), limit.min(2500), "each once");
    }
}

#[test]
fn json_ends_with_the_end_of_a_line() {
    let (server, token) = with_stories();
    let id = "0001561626000500";
    let cases: [(&[&str], &str); 5] = [
        (&["list"], "/v1/operations"),
        (&["list", "--detail"], "/v1/operations?format=detail-list"),
        (&["history", id], &format!("/v1/operations/{id}/events")),
        (&["get", id], &format!("/v1/operations/{id}")),
        (&["dead-letters"], "/v1/dead-letters"),
    ];
    for (arguments, path) in cases {
        let served = server.get_with(path, &[("ledger-position", &token)]);
        let printed = shown(
            &server,
            &[arguments, &["--json", "--position", &token]].concat(),
        );
        assert_eq!(
            printed,
            format!("{}\n", text(&served.body)),
            "{arguments:?}"
        );
    }
    let waited = shown(&server, &["wait", "0001582979696789", "--json"]);
    assert!(waited.ends_with("}\n") && waited.lines().count() == 1);
    let empty = Server::start();
    assert_eq!(
        shown(&empty, &["list", "--json"]),
        "{\"operation_ids\":[]}\n"
    );
    let none = ask(&empty, &["dead-letters"]);
    assert_eq!(
        (&none.stdout[..], &*ended(&none, 0)),
        (&b""[..], "no dead letters\n")
    );
}

#[test]
fn every_command_reports_a_missing_operation_in_the_same_words() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    std::fs::write(&file, format!("{}\n", created("other"))).unwrap();
    let file = file.to_str().unwrap();
    for arguments in [
        &["get", "missing"][..],
        &["get", "missing", "--json"],
        &["history", "missing"],
        &["history", "missing", "--limit", "5"],
        &["replay", file, "--id", "missing"],
    ] {
        let errors = ended(&ask(&server, arguments), 3);
        assert_eq!(
            errors, "opledger: there is no operation missing\n",
            "{arguments:?}"
        );
    }
}

#[test]
fn an_invalid_operation_id_is_a_wrong_command_line() {
    let long = "x".repeat(257);
    for id in ["a/b", "", "..", "log", "größe", "a\u{202e}b", &long] {
        for command in [
            &["get"][..],
            &["history"],
            &["wait"],
            &["watch"],
            &["notifications", "retry"],
            &["notifications", "list", "--id"],
            &["replay", "--id"],
        ] {
            let ran = opledger(command).arg(id).output().unwrap();
            let errors = ended(&ran, 2);
            assert!(errors.contains("not a valid operation id"), "{errors}");
            assert!(!errors.contains('\u{202e}'), "{errors}");
        }
    }
}

#[test]
fn an_address_in_use_has_its_own_exit_status() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (address, why) in [
        (&*taken, "another program listens there"),
        ("192.0.2.1:8470", "this machine does not have the address"),
    ] {
        let data = tempfile::tempdir().unwrap();
        let serve = ["serve", "--listen", address, "--data"];
        let ran = opledger(&serve).arg(data.path()).output().unwrap();
        let errors = ended(&ran, 10);
        assert!(
            errors.contains(&format!("cannot listen on {address}: ")),
            "{errors}"
        );
        assert!(
            errors.contains(why) && errors.contains("--listen"),
            "{errors}"
        );
        assert_eq!(
            std::fs::read_dir(data.path()).unwrap().count(),
            0,
            "nothing was begun"
        );
    }
}

#[test]
fn the_longest_allowed_wait_is_accepted() {
    let (server, token) = with_stories();
    let ended_id = "0001582979696789";
    for longest in ["9223372036854775807", "18446744073709551615"] {
        let wait = ["wait", ended_id, "--timeout", longest];
        assert!(shown(&server, &wait).contains("completed"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.jsonl");
        std::fs::write(&file, format!("{}\n", created("new"))).unwrap();
        let file = file.to_str().unwrap();
        let publish = ["publish", file, "--wait", "--retry-for", longest];
        assert!(shown(&server, &publish).starts_with("1 events accepted"));
        let get = ["get", ended_id, "--wait", longest];
        assert!(ended(&ask(&server, &get), 2).contains("--wait"));
    }
    let longest = ["get", ended_id, "--position", &token, "--wait", "86400"];
    assert!(shown(&server, &longest).contains("completed"));
}

#[test]
fn a_file_is_replayed_as_it_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain.jsonl");
    let marked = folder.path().join("marked.jsonl");
    let lines = format!("{}\r\n\n{}", created("a"), created("b"));
    std::fs::write(&plain, &lines).unwrap();
    std::fs::write(&marked, format!("\u{feff}{lines}")).unwrap();
    let replay = |path: &Path| opledger(&["replay"]).arg(path).output().unwrap();
    let expected = replay(&plain);
    ended(&expected, 0);
    assert_eq!(expected.stdout.iter().filter(|b| **b == b'\n').count(), 2);
    let found = replay(&marked);
    ended(&found, 0);
    assert_eq!(text(&found.stdout), text(&expected.stdout));
    let piped = opledger(&["replay", "-"])
        .stdin(std::fs::File::open(&marked).unwrap())
        .output()
        .unwrap();
    assert_eq!(text(&piped.stdout), text(&expected.stdout));
    // Allowed only at the beginning: elsewhere it is invalid JSON.
    std::fs::write(
        &marked,
        format!("{}\n\u{feff}{}\n", created("a"), created("b")),
    )
    .unwrap();
    let errors = ended(&replay(&marked), 4);
    assert!(errors.contains("line 2: not valid JSON"), "{errors}");
    std::fs::write(&marked, "\u{feff}").unwrap();
    ended(&replay(&marked), 0);
}

#[test]
fn a_file_that_cannot_be_read_is_a_wrong_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_str().unwrap().to_owned();
    let missing = folder.path().join("missing").to_str().unwrap().to_owned();
    // Reading the memory of a process at address 0 fails for every user.
    for unreadable in [&*directory, &*missing, "/proc/self/mem"] {
        for command in ["replay", "publish"] {
            let server = Server::start();
            let errors = ended(&ask(&server, &[command, unreadable]), 2);
            assert!(
                errors.contains(&format!("cannot read {unreadable}: ")),
                "{errors}"
            );
        }
    }
}

#[test]
fn an_empty_variable_counts_as_not_given() {
    let ran = opledger(&["config", "show"])
        .env("OPLEDGER_CONFIG", "")
        .env("OPLEDGER_DATA", "")
        .env("OPLEDGER_KAFKA__TOPIC", "")
        .output()
        .unwrap();
    assert_eq!(ended(&ran, 0), "");
    let default = opledger(&["config", "show"]).output().unwrap();
    assert_eq!(text(&ran.stdout), text(&default.stdout));
    // Whether or not a ledger runs at the default address, the command tries that address.
    let ran = opledger(&["get", "missing"])
        .env("OPLEDGER_URL", "")
        .output()
        .unwrap();
    assert_ne!(ran.status.code(), Some(2), "{}", text(&ran.stderr));
    let given = opledger(&["get", "missing", "--url", ""]).output().unwrap();
    ended(&given, 2);
}

#[test]
fn a_variable_that_is_not_a_setting_is_named_and_stops_nothing() {
    let server = Server::with(&[("NAME", "x"), ("BIN", "/usr/bin/opledger")]);
    assert_eq!(server.get("/livez").status, 200);
    let named = |command: &[&str]| {
        let ran = opledger(command)
            .env("OPLEDGER_NAME", "x")
            .output()
            .unwrap();
        ended(&ran, 0)
    };
    for command in [
        &["config", "check"][..],
        &["config", "show"],
        &["replay", "/dev/null"],
    ] {
        let errors = named(command);
        let line = "opledger: the variable OPLEDGER_NAME is not a setting and is ignored\n";
        assert_eq!(errors, line, "{command:?}");
    }
    let ran = opledger(&["config", "check"])
        .env("OPLEDGER_DTAA", "x")
        .output()
        .unwrap();
    assert!(ended(&ran, 6).contains("the nearest is OPLEDGER_DATA"));
}

/// Each command with arguments for which it prints something. All commands are listed.
fn printing(file: &str) -> Vec<Vec<&str>> {
    let id = "0001582979696789";
    let commands: [&[&str]; 21] = [
        &["list"],
        &["list", "--json"],
        &["list", "--detail"],
        &["list", "--limit", "2", "--json"],
        &["get", id],
        &["get", id, "--json"],
        &["history", id],
        &["history", id, "--json"],
        &["watch", id],
        &["watch", id, "--json"],
        &["wait", id],
        &["wait", id, "--json"],
        &["dead-letters", "--json"],
        &["notifications", "retry", "--all"],
        &["publish", file],
        &["publish", file, "--json"],
        &["replay", file],
        &["config", "show"],
        &["config", "check"],
        &["completions", "zsh"],
        &["--help"],
    ];
    commands.map(<[_]>::to_vec).into()
}

#[test]
fn every_command_handles_a_closed_pipe_and_a_full_disk() {
    // Otherwise no notification is retried.
    let server = Server::with(&[("NOTIFICATIONS__ALLOW", "127.0.0.1")]);
    let events: Vec<Value> = stories().into_iter().flat_map(|s| s.events).collect();
    server.publish(&events);
    let url = format!("http://{}", server.address);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    std::fs::write(&file, format!("{}\n", created("new"))).unwrap();
    server.eventually("visible", |server| {
        server.get("/v1/operations/0001582979696789").status == 200
    });
    let full = || {
        std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    for arguments in printing(file.to_str().unwrap()) {
        let run = |stdout: Stdio| {
            let mut command = opledger(&arguments);
            command.env("OPLEDGER_URL", &url).stdout(stdout);
            command
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
                .wait_with_output()
                .unwrap()
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = run(writer.into());
        assert_eq!(
            (closed.status.code(), &*text(&closed.stderr)),
            (Some(0), ""),
            "{arguments:?}"
        );
        let errors = ended(&run(full().into()), 1);
        assert!(
            errors.contains("cannot write to standard output"),
            "{arguments:?}: {errors}"
        );
        let mut command = opledger(&arguments);
        let both = command
            .env("OPLEDGER_URL", &url)
            .stdout(full())
            .stderr(full());
        assert_eq!(both.status().unwrap().code(), Some(1), "{arguments:?}");
    }
    let off_line = |arguments: &[&str], stdout: Stdio| {
        let data = tempfile::tempdir().unwrap();
        let kept = Server::on(data.path(), &[]);
        kept.publish(&[created("kept")]);
        assert!(kept.terminate().success());
        let mut command = opledger(arguments);
        command.arg("--data").arg(data.path()).stdout(stdout);
        let status = command.status().unwrap();
        assert!(!data.path().join("store.new").exists(), "it was finished");
        status.code()
    };
    for arguments in [&["rebuild"][..], &["log", "check"], &["log", "repair"]] {
        assert_eq!(off_line(arguments, full().into()), Some(1), "{arguments:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(off_line(arguments, writer.into()), Some(0), "{arguments:?}");
    }
}
