//! A hundred thousand random records and requests.

use super::cases::case;
use super::{all, all_unique, fold, record_of_line, text};
use crate::support::generate::Rng;
use crate::support::in_process::{LOG, app};
use crate::support::{env_number, soak};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use opledger::event_log::{EventLog, Logged, memory};
use opledger::http::router;
use opledger::projector::step::{Rules, Step, step};
use opledger::store::memory::Memory;
use opledger::wire::cloudevent::{self, decode_structured};
use opledger::wire::position::{LastOffsets, Offset, Partition, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Cases for each store: the same operations recur often, and memory use is small.
const AT_ONCE: u64 = 1000;

#[tokio::test]
async fn every_accepted_event_is_read_unchanged_from_the_history() {
    let records = if soak() { 1_000_000 } else { 100_000 };
    let first = env_number("SEED").unwrap_or(0);
    let mut seen = Seen::default();
    for seed in first..first + records / AT_ONCE {
        one_ledger(seed, &mut seen).await;
    }
    println!("{seen:?}");
    // The test would prove little if one of these hardly occurred.
    assert_eq!(seen.ways.len(), 5);
    for (way, [accepted, refused]) in &seen.ways {
        let least = records as usize / 200;
        assert!(
            *accepted > 10 * least && *refused > least,
            "{way}: {seen:?}"
        );
    }
}

#[derive(Debug, Default)]
struct Seen {
    /// How many were accepted, and how many were not.
    ways: BTreeMap<String, [usize; 2]>,
}

async fn one_ledger(seed: u64, seen: &mut Seen) {
    let mut rng = Rng::new(seed);
    let log = memory::MemoryLog::new(LOG, 1);
    let store = Arc::new(Memory::default());
    let app = app(&store, &log);
    let routes = TowerToHyperService::new(router(app));
    // The offsets that HTTP requests were assigned: each has an event.
    let mut by_http = BTreeSet::new();
    for _ in 0..AT_ONCE {
        let case = case(&mut rng);
        let end = log.bounds().unwrap()[&Partition(0)].end;
        let is_accepted = match case.request() {
            None => {
                log.append(Partition(0), case.record());
                let at = logged(&log, end);
                matches!(step(&at, &Rules::NONE), Step::Apply(_))
            }
            Some(request) => {
                let answer = routes.call(request).await.unwrap();
                let (status, body) = (answer.status(), answer.into_body());
                let body = body.collect().await.unwrap().to_bytes();
                assert!(all_unique(&body), "{}", text(&body));
                let bounds = log.bounds().unwrap()[&Partition(0)].end;
                match status.as_u16() {
                    202 => by_http.extend(end.and_after().take_while(|offset| *offset < bounds)),
                    400 | 413 | 415 => assert_eq!(bounds, end, "nothing is stored: {case:?}"),
                    other => panic!("{other}: {} for {case:?}", text(&body)),
                }
                status == 202
            }
        };
        let way = seen.ways.entry(format!("{:?}", case.way)).or_default();
        way[usize::from(!is_accepted)] += 1;
        assert!(!(is_accepted && case.repeats_itself()), "{case:?}");
    }
    let records = all(&log);
    for logged in &records {
        alike(logged, by_http.contains(&logged.at.offset));
    }
    let shown = fold(&store, records);

    // Another ledger reads the saved histories: it has the same documents and histories, and no
    // dead letters.
    let lines = shown.histories.values().flatten().cloned();
    let lines = lines.enumerate().map(|(offset, line)| Logged {
        at: Position::from((0, offset as u64)),
        record: record_of_line(&line),
    });
    let again = fold(&Memory::default(), lines.collect());
    assert_eq!(again.dead_letters, 0);
    assert_eq!(again.documents, shown.documents);
    assert_eq!(again.histories, shown.histories);
}

/// A record and its line in the history read as the same event.
fn alike(logged: &Logged, is_taken_by_http: bool) {
    let event = match step(logged, &Rules::NONE) {
        Step::Apply(event) => event,
        Step::DeadLetter(fault) => {
            assert!(!is_taken_by_http, "{fault}: {:?}", logged.record);
            return;
        }
        other => panic!("of an event: {other:?}"),
    };
    let mut line = Vec::new();
    cloudevent::write_as_json(&logged.record, &mut line).unwrap();
    assert!(all_unique(&line), "{}", text(&line));
    let again = decode_structured(&line);
    assert_eq!(again.as_ref(), Ok(&event), "{}", text(&line));
}

fn logged(log: &memory::MemoryLog, offset: Offset) -> Logged {
    let at = LastOffsets::from([(0, offset.0)]);
    let found = log.records_at(&at).unwrap();
    Logged {
        at: Position::from((0, offset.0)),
        record: found[&Partition(0)].clone(),
    }
}
