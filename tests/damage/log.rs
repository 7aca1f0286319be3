//! Every kind of damage to the event log and to the control log, on the built binary. The ledger
//! never serves a wrong document and never loses records silently. It changes nothing before an
//! operator has chosen, and its advice works.

use crate::support::damaged::*;
use crate::support::notified::{notes, quick};
use crate::support::server::{BATCH, Server};
use crate::support::unprivileged::Unprivileged;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The operations that are served. All others must be missing, and no document is wrong.
fn served(server: &Server, events: &Events) -> BTreeSet<String> {
    let is_there = |id: &&String| {
        let answer = server.get(&format!("/v1/operations/{id}"));
        match answer.status {
            200 => assert_eq!(answer.json()["operation_id"], json!(id)),
            404 => return false,
            other => panic!("{id}: {other}"),
        }
        let history = server.get(&format!("/v1/operations/{id}/events")).json();
        assert_eq!(
            history["events"][0]["position"],
            json!(events.acknowledged[*id])
        );
        true
    };
    events
        .acknowledged
        .keys()
        .filter(is_there)
        .cloned()
        .collect()
}

#[track_caller]
fn has_all(what: &str, data: &Path, events: &Events) {
    let server = Server::on(data, &[]);
    server.eventually(&format!("{what}: ready"), |server| {
        server.get("/readyz").status == 200
    });
    let token = [("ledger-position", &*events.token)];
    assert_eq!(server.get_with("/v1/operations/op-0", &token).status, 200);
    let there = served(&server, events);
    assert_eq!(there.len(), events.acknowledged.len(), "{what}");
    server.kill();
}

/// After a repair: exactly the reported records are missing, and no position is assigned twice.
#[track_caller]
fn is_repaired(what: &str, data: &Path, events: &Events, said: &str) {
    succeeds(what, &["log", "check"], data);
    succeeds(what, &["rebuild"], data);
    let server = Server::on(data, &[]);
    server.eventually(&format!("{what}: ready"), |server| {
        server.get("/readyz").status == 200
    });
    let answer = server.post(BATCH, json!([created("after")]).to_string());
    assert_eq!(answer.status, 202, "{what}");
    let token = answer.header("ledger-position").to_owned();
    assert!(server.document("after", &token).is_some(), "{what}");
    let there = served(&server, events);
    let missing = events.acknowledged.len() - there.len();
    let counted = match missing {
        0 => "no record is lost".to_owned(),
        1 => "1 record is lost".to_owned(),
        many => format!("{many} records are lost"),
    };
    let old = [("ledger-position", &*events.token)];
    let with_old_token = server.get_with("/v1/operations/after", &old).status;
    if said.contains("it has a new identity") {
        assert_eq!(with_old_token, 410, "{what}: it is another log");
    } else {
        assert!(said.contains(&counted), "{what}: {counted}? {said}");
        assert_ne!(with_old_token, 410, "{what}: it is the same log");
        let position = answer.json()["positions"][0].as_str().unwrap().to_owned();
        let is_given = events.acknowledged.values().any(|given| *given == position);
        assert!(!is_given, "{what}: {position} is assigned twice");
    }
    server.kill();
}

/// The log is not opened and not changed, and each way to recover works.
#[track_caller]
fn stops(what: &str, events: &Events, damage: Damage, name: &str) {
    let folder = damaged(events, damage, name);
    let data = folder.path();
    let before = files(&data.join("log"));
    for store in ["kept", "removed"] {
        if store == "removed" {
            fs::remove_dir_all(data.join("store")).unwrap();
        }
        let said = refuses(what, data);
        assert!(said.contains("the event log is damaged"), "{what}: {said}");
        assert!(said.contains("segment, byte "), "{what}: {said}");
        assert!(said.contains("opledger log check --data"), "{what}: {said}");
        assert!(!said.contains("rebuild"), "{what}: {said}");
    }
    let output = opledger(&["log", "check"], data);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(7), "{what}: {said}");
    assert!(said.contains(".segment"), "{what}: {said}");
    assert!(
        files(&data.join("log")) == before,
        "{what}: nothing is changed"
    );

    // The operator restores the file.
    for file in fs::read_dir(events.folder.path().join("log")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), data.join("log").join(file.file_name())).unwrap();
    }
    for file in before.keys() {
        if !events.folder.path().join("log").join(file).exists() {
            fs::remove_file(data.join("log").join(file)).unwrap();
        }
    }
    has_all(what, data, events);

    // The operator accepts the loss.
    let folder = damaged(events, damage, name);
    let data = folder.path();
    let before = files(&data.join("log"));
    let output = opledger(&["log", "repair"], data);
    let said = match output.status.code() {
        Some(4) => {
            assert!(
                files(&data.join("log")) == before,
                "{what}: nothing is changed"
            );
            succeeds(what, &["log", "repair", "--accept-loss"], data)
        }
        // The repair lost nothing.
        Some(0) => text(&output),
        other => panic!("{what}: {other:?} {}", text(&output)),
    };
    let kept = files(&data.join("log/damaged-1"));
    for (file, bytes) in &kept {
        assert!(before[file] == *bytes, "{what}: {file} is kept as it was");
    }
    is_repaired(what, data, events, &said);
}

#[test]
fn damage_to_the_newest_segment_stops_the_log_until_it_is_repaired() {
    let events = Events::get();
    for (what, damage) in SEGMENT.iter().chain(FRAMES) {
        stops(&format!("newest: {what}"), events, *damage, NEWEST);
    }
}

#[test]
fn damage_to_a_frame_of_an_older_segment_stops_the_log_until_it_is_repaired() {
    let events = Events::get();
    for (what, damage) in SEGMENT {
        stops(&format!("older: {what}"), events, *damage, OLDER);
    }
    let (what, damage) = SEGMENT[3];
    stops(&format!("first: {what}"), events, damage, FIRST);
    let others: [(&str, Damage); 3] = [
        ("another segment in its place", |log, name, _| {
            fs::copy(log.join(FIRST), log.join(name)).unwrap();
        }),
        ("a copy of a segment as the next one", |log, name, _| {
            fs::copy(log.join(name), log.join("0000000004.segment")).unwrap();
        }),
        ("two segments are deleted", |log, name, _| {
            fs::remove_file(log.join(FIRST)).unwrap();
            fs::remove_file(log.join(name)).unwrap();
        }),
    ];
    for (what, damage) in others {
        let name = if what.contains("as the next") {
            NEWEST
        } else {
            OLDER
        };
        stops(&format!("other: {what}"), events, damage, name);
    }
}

/// The ledger reads the content of an older segment only when a reader needs it.
#[test]
fn damage_within_an_older_segment_is_found_when_it_is_read() {
    let events = Events::get();
    // An older copy of this segment is the same: the segment was complete by then.
    for (what, damage) in FRAMES
        .iter()
        .filter(|(what, _)| !what.contains("older copy"))
    {
        let folder = damaged(events, *damage, OLDER);
        let data = folder.path();
        let before = fs::read(data.join("log").join(OLDER)).unwrap();
        // The store already has all of it.
        if !what.contains("truncated") {
            has_all(what, data, events);
        }
        let said = text(&opledger(&["log", "check"], data));
        assert!(said.contains(OLDER), "{what}: {said}");

        fs::remove_dir_all(data.join("store")).unwrap();
        let server = Server::on(data, &[]);
        server.eventually("readiness says so", |server| {
            let ready = server.get("/readyz");
            let text = String::from_utf8(ready.body).unwrap();
            ready.status == 503 && text.contains("damaged") && text.contains(OLDER)
        });
        let ready = String::from_utf8(server.get("/readyz").body).unwrap();
        let path = data.to_str().unwrap();
        assert!(!ready.contains(path), "{what}: {ready}");
        assert!(served(&server, events).len() < events.acknowledged.len());
        server.kill();
        let output = opledger(&["rebuild"], data);
        assert_eq!(output.status.code(), Some(7), "{}", text(&output));
        let after = fs::read(data.join("log").join(OLDER)).unwrap();
        assert!(before == after, "{what}: nothing is changed");

        let whole = events.folder.path().join("log").join(OLDER);
        fs::copy(whole, data.join("log").join(OLDER)).unwrap();
        has_all(what, data, events);
        fs::write(data.join("log").join(OLDER), before).unwrap();
        let said = succeeds(what, &["log", "repair", "--accept-loss"], data);
        is_repaired(what, data, events, &said);
    }
}

/// Content outside the frames that was never acknowledged.
#[test]
fn an_unacknowledged_write_is_not_damage() {
    let events = Events::get();
    for (what, damage) in BESIDE {
        for store in ["kept", "removed"] {
            let folder = damaged(events, *damage, NEWEST);
            if store == "removed" {
                fs::remove_dir_all(folder.path().join("store")).unwrap();
            }
            has_all(what, folder.path(), events);
            // A second start continues from there.
            has_all(what, folder.path(), events);
            succeeds(what, &["log", "check"], folder.path());
        }
    }
}

/// A torn end, and nothing records whether it was acknowledged.
#[test]
fn an_unknown_end_stops_the_log_and_a_repair_gives_it_a_new_identity() {
    for (what, damage) in UNKNOWN {
        stops(what, Events::get(), *damage, NEWEST);
    }
}

#[test]
fn a_file_without_read_permission_is_not_damage() {
    let events = Events::get();
    for name in [NEWEST, OLDER, "acknowledged"] {
        let folder = damaged(events, |_, _, _| {}, name);
        let path = folder.path().join("log").join(name);
        let program = Unprivileged::owning(folder.path());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let mut command = program.command();
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]);
        let output = command.arg(folder.path()).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(7), "{name}: {said}");
        assert!(said.contains("the event log cannot be used"), "{said}");
        assert!(
            said.contains(name) && said.contains("Permission denied"),
            "{said}"
        );
        assert!(
            !said.contains("repair") && !said.contains("rebuild"),
            "{said}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        has_all(name, folder.path(), events);
    }
}

#[test]
fn damage_to_the_control_log_stops_only_webhooks_and_nothing_is_delivered_twice() {
    let notified = Notified::get();
    for (what, damage) in SEGMENT.iter().chain(FRAMES).chain(UNKNOWN) {
        let folder = notified.damaged(*damage);
        let data = folder.path();
        let before = files(&data.join("control"));
        for store in ["kept", "removed"] {
            if store == "removed" {
                fs::remove_dir_all(data.join("store")).unwrap();
            }
            let server = Server::on(data, &quick(&[]));
            server.eventually("halted, and ready", |server| {
                let ready = server.get("/readyz").status;
                ready == 200 && notes(server).contains("webhook deliveries have halted")
            });
            let said = notes(&server);
            assert!(
                said.contains("the control log is damaged"),
                "{what}: {said}"
            );
            assert!(said.contains("log check --control"), "{what}: {said}");
            assert!(!said.contains(data.to_str().unwrap()), "{what}: {said}");
            let token = server.publish(&[created("meanwhile")]);
            assert!(server.document("meanwhile", &token).is_some(), "{what}");
            server.kill();
        }
        assert!(
            files(&data.join("control")) == before,
            "{what}: nothing is changed"
        );
        let output = opledger(&["log", "check", "--control"], data);
        assert_eq!(output.status.code(), Some(7), "{what}: {}", text(&output));

        // The operator restores the file.
        for file in fs::read_dir(notified.folder.path().join("control")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), data.join("control").join(file.file_name())).unwrap();
        }
        notified.goes_on(what, data);

        // The operator accepts the loss.
        let folder = notified.damaged(*damage);
        let data = folder.path();
        let repair = ["log", "repair", "--control", "--accept-loss"];
        let said = succeeds(what, &repair, data);
        if said.contains("opledger rebuild") {
            succeeds(what, &["rebuild"], data);
        }
        notified.goes_on(what, data);
        succeeds(what, &["log", "check", "--control"], data);
    }
}

#[test]
fn an_unacknowledged_write_is_not_damage_to_the_control_log() {
    let notified = Notified::get();
    for (what, damage) in BESIDE {
        let folder = notified.damaged(*damage);
        notified.goes_on(what, folder.path());
        succeeds(what, &["log", "check", "--control"], folder.path());
    }
}

#[test]
fn one_flipped_bit_hides_none_of_two_hundred_acknowledged_events() {
    let events = Events::get();
    assert_eq!(events.acknowledged.len(), 200);
    let newest = |data: &Path| -> PathBuf { data.join("log").join(NEWEST) };
    let folder = damaged(
        events,
        |log, name, _| flip(&log.join(name), middle(&log.join(name))),
        NEWEST,
    );
    let said = refuses("flipped", folder.path());
    let after: usize = said
        .split("; ")
        .find_map(|part| {
            part.strip_suffix(" after it")
                .or(part.split_once(" after it").map(|(n, _)| n))
        })
        .and_then(|part| part.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("it says how many are after it: {said}"));
    assert!(
        (30..50).contains(&after),
        "{after} of 80 in that segment: {said}"
    );
    // Flip the same bit back.
    let whole = middle(&newest(events.folder.path()));
    flip(&newest(folder.path()), whole);
    has_all("mended", folder.path(), events);
}
