//! Filters, orders and pages of lists, on the built binary.

use crate::support::generate::{self, Rng};
use crate::support::listed::{created, event};
use crate::support::same::{assert_same, assert_same_set};
use crate::support::server::{Answer, BATCH, Client, Server};
use crate::support::soak;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn lane(cluster: usize, request: usize) -> Value {
    json!({"cluster_id": format!("{cluster}"), "request_id": format!("{request}"),
        "request": {"uri": "/x", "method": "PUT"}})
}

fn next_of(answer: &Answer) -> Option<String> {
    let link = answer.headers.get("link")?.to_str().unwrap();
    assert!(link.ends_with("; rel=\"next\""), "{link}");
    Some(link[1..link.find('>').unwrap()].to_owned())
}

/// Reads all pages. No page has more than its limit.
fn sweep(client: &Client, path: &str, limit: usize, token: &str) -> Vec<Value> {
    sweep_slowly(client, path, limit, token, &mut || {})
}

fn sweep_slowly(
    client: &Client,
    path: &str,
    limit: usize,
    token: &str,
    between: &mut dyn FnMut(),
) -> Vec<Value> {
    let mut all = Vec::new();
    let mut path = format!("{path}&limit={limit}");
    let mut position = None;
    loop {
        let page = client.get(&path, &[("ledger-position", token)]);
        assert_eq!(
            page.status,
            200,
            "{path}: {}",
            String::from_utf8_lossy(&page.body)
        );
        // All pages have the same read point.
        let at = page.header("ledger-position").to_owned();
        assert_eq!(*position.get_or_insert_with(|| at.clone()), at);
        let body = page.json();
        let entries = body.as_object().unwrap().values().next().unwrap();
        let entries = entries.as_array().unwrap();
        assert!(entries.len() <= limit);
        all.extend(entries.iter().cloned());
        match next_of(&page) {
            Some(next) => path = next,
            None => return all,
        }
        between();
    }
}

/// Operations of every kind. Some have more lanes than one row takes, some have URIs that are
/// longer than what the index keeps of them.
fn operations(rng: &mut Rng) -> Vec<Value> {
    let mut events = Vec::new();
    for n in 0..150 {
        let size = 1 + rng.below(14);
        events.extend(generate::operation(rng, &format!("generated-{n:03}"), size));
    }
    for n in 0..5 {
        let id = format!("wide-{n}");
        events.push(created(&id, n * 777, "/v1/wide"));
        for request in 0..40 {
            events.push(event(
                &id,
                "cluster.request_sent",
                10_000 + request,
                lane(request % 9 + n, request),
            ));
        }
        events.push(event(&id, "rollback.attempted", 20_000, lane(n, n)));
    }
    for n in 0..5 {
        let uri = format!("/v1/{}/{n}", "long".repeat(50));
        events.push(created(&format!("long-{n}"), n * 1000, &uri));
    }
    rng.shuffle(&mut events);
    events
}

type Test = Box<dyn Fn(&Value) -> bool>;

fn seconds(document: &Value) -> String {
    document["occurred_time"].as_str().unwrap().replace(' ', "")
}

/// Queries, each with a plain filter that should select the same documents.
fn queries(documents: &[Value]) -> Vec<(String, Test)> {
    let mut queries: Vec<(String, Test)> = vec![(String::new(), Box::new(|_| true))];
    for status in ["unexecuted", "executing", "completed", "failed", "canceled"] {
        queries.push((
            format!("status={status}"),
            Box::new(move |d| d["status"] == status),
        ));
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let test = move |d: &Value| d["request"]["method"] == method;
        queries.push((format!("method={method}"), Box::new(test)));
    }
    for result in ["completed", "failed", "none"] {
        let test = move |d: &Value| d["rollbacks"]["result"] == result;
        queries.push((format!("rollback_result={result}"), Box::new(test)));
    }
    let clusters = |d: &Value| -> BTreeSet<String> {
        let rollbacks = d["rollbacks"]["target_clusters"].as_array();
        let entries = d["target_clusters"].as_array().into_iter().chain(rollbacks);
        entries
            .flatten()
            .map(|e| e["cluster_id"].as_str().unwrap().to_owned())
            .collect()
    };
    let known: BTreeSet<String> = documents.iter().flat_map(clusters).collect();
    for cluster in known.into_iter().take(12).chain(["nowhere".to_owned()]) {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("cluster_id", &cluster)
            .finish();
        queries.push((query, Box::new(move |d| clusters(d).contains(&cluster))));
    }
    let long = format!("/v1/{}/3", "long".repeat(50));
    for prefix in ["/", "/v1", "/v1/w", &long, "x"] {
        let prefix = prefix.to_owned();
        let query = format!("uri_prefix={prefix}");
        let test = move |d: &Value| d["request"]["uri"].as_str().unwrap().starts_with(&*prefix);
        queries.push((query, Box::new(test)));
    }
    let mut times: Vec<String> = documents.iter().map(seconds).collect();
    times.sort();
    let middle = times[times.len() / 2].clone();
    let rfc = |t: &str| {
        format!(
            "{}-{}-{}T{}:{}:{}Z",
            &t[..4],
            &t[4..6],
            &t[6..8],
            &t[8..10],
            &t[10..12],
            &t[12..14]
        )
    };
    let (from, to) = (middle.clone(), middle.clone());
    queries.push((
        format!("occurred_from={}", rfc(&middle)),
        Box::new(move |d| seconds(d) >= from),
    ));
    queries.push((
        format!("occurred_to={}", rfc(&middle)),
        Box::new(move |d| seconds(d) < to),
    ));
    let from = middle.clone();
    queries.push((
        format!(
            "status=failed&status=executing&method=PUT&occurred_from={}",
            rfc(&middle)
        ),
        Box::new(move |d| {
            (d["status"] == "failed" || d["status"] == "executing")
                && d["request"]["method"] == "PUT"
                && seconds(d) >= from
        }),
    ));
    queries
}

#[test]
fn every_filter_order_and_limit_gives_what_a_plain_filter_gives() {
    let server = Server::start();
    let mut rng = Rng::new(21);
    let mut token = String::new();
    for batch in operations(&mut rng).chunks(200) {
        let answer = server.post(BATCH, serde_json::to_vec(batch).unwrap());
        assert_eq!(
            answer.status,
            202,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        token = answer.header("ledger-position").to_owned();
        server.get_with("/v1/operations?limit=1", &[("ledger-position", &token)]);
    }
    let client = server.client();
    let whole = server.get_with(
        "/v1/operations?format=detail-list",
        &[("ledger-position", &token)],
    );
    let documents = whole.json()["operations"].as_array().unwrap().clone();
    assert!(documents.len() > 100);
    let mut matched = 0;
    for (query, test) in queries(&documents) {
        let expected: Vec<Value> = documents.iter().filter(|d| test(d)).cloned().collect();
        matched += usize::from(!expected.is_empty());
        let ids: Vec<&Value> = expected.iter().map(|d| &d["operation_id"]).collect();
        let path = format!("/v1/operations?{query}");
        let streamed = server.get(&format!("{path}&format=list")).json();
        let streamed: Vec<&Value> = streamed["operation_ids"]
            .as_array()
            .unwrap()
            .iter()
            .collect();
        assert_same(&query, &streamed, &ids);
        let limit = [1, 7, 100, 1000][rng.below(4)];
        let detail = sweep(
            &client,
            &format!("{path}&format=detail-list"),
            limit,
            &token,
        );
        assert_eq!(detail, expected, "{query}, limit {limit}");
        let mut oldest = sweep(&client, &format!("{path}&order=oldest"), limit, &token);
        oldest.reverse();
        assert_eq!(
            oldest.iter().collect::<Vec<_>>(),
            ids,
            "{query}, oldest, limit {limit}"
        );
    }
    assert!(matched > 20, "most filters match something: {matched}");
}

/// Stops the writers also when an assertion fails.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn pages_list_the_operations_of_their_read_point_once_whatever_is_written() {
    let (operations, sweeps) = if soak() { (4_000, 100) } else { (2_000, 8) };
    let server = Server::with(&[("LISTS__SHARE", "100ms")]);
    let address = server.address;
    let mut token = String::new();
    for chunk in (0..operations).collect::<Vec<_>>().chunks(1000) {
        let events: Vec<_> = chunk
            .iter()
            .map(|n| created(&format!("op-{n}"), *n, "/x"))
            .collect();
        token = server.publish(&events);
    }
    let written = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for writer in 0..2 {
            let (stop, written) = (&stop, &written);
            scope.spawn(move || {
                let client = Client::new(address);
                let mut rng = Rng::new(writer);
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let any = || format!("op-{}", n * 7919 % operations);
                    let events = [
                        // A bounded number: otherwise each sweep would be longer than the last.
                        created(
                            &format!("new-{writer}-{}", n % 1000),
                            rng.below(operations),
                            "/x",
                        ),
                        // Moves it in every list: an earlier creation, another status.
                        event(
                            &any(),
                            "operation.created",
                            0,
                            json!({"request": {"uri": "/y", "method": "POST"}}),
                        ),
                        event(
                            &any(),
                            "operation.started",
                            1 + rng.below(operations),
                            json!({}),
                        ),
                        event(
                            &any(),
                            "operation.canceled",
                            1 + rng.below(operations),
                            json!({}),
                        ),
                    ];
                    let body = serde_json::to_vec(&events).unwrap();
                    let answer = client.post("/v1/events", &[("content-type", BATCH)], body);
                    assert_eq!(answer.status, 202);
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let paths = ["", "uri_prefix=%2F", "order=oldest", "format=detail-list"];
        for n in 0..sweeps {
            let mut before = written.load(Ordering::Relaxed);
            // Another write happens before each page except the first.
            let mut one_more = || {
                let is_written = |_: &Server| written.load(Ordering::Relaxed) > before;
                server.eventually("another write", is_written);
                before = written.load(Ordering::Relaxed);
            };
            let path = format!("/v1/operations?{}", paths[n % paths.len()]);
            let listed = sweep_slowly(&server.client(), &path, 100, &token, &mut one_more);
            let ids: Vec<&str> = listed
                .iter()
                .map(|entry| entry.as_str().or(entry["operation_id"].as_str()).unwrap())
                .collect();
            let distinct: BTreeSet<&str> = ids.iter().copied().collect();
            assert_same_set("each once", ids, distinct.iter().copied());
            let mut all = (0..operations).map(|n| format!("op-{n}"));
            let missing = all.find(|id| !distinct.contains(&**id));
            assert_eq!(missing, None, "none is missing");
        }
    });
}

#[test]
fn a_cursor_whose_read_point_has_expired_says_how_to_continue() {
    let server = Server::with(&[("LISTS__MAX_AGE", "1s"), ("LISTS__SHARE", "0s")]);
    let events: Vec<_> = (0..50)
        .map(|n| created(&format!("op-{n:02}"), n / 5, "/x"))
        .collect();
    let token = server.publish(&events);
    for order in ["newest", "oldest"] {
        let path = format!("/v1/operations?order={order}&limit=17");
        let first = server.get_with(&path, &[("ledger-position", &token)]);
        let mut listed = first.json()["operation_ids"].as_array().unwrap().clone();
        assert_eq!(listed.len(), 17);
        let next = next_of(&first).unwrap();
        server.eventually("it expires", |server| server.get(&next).status == 410);
        let message = server.get(&next).refused(410, "010003");
        let hint = message
            .split_whitespace()
            .find(|word| word.starts_with("occurred_"));
        let hint = hint.unwrap_or_else(|| panic!("{message}"));
        // Operations with the same time are listed again, and none is missing.
        let rest = server
            .get(&format!("/v1/operations?order={order}&{hint}"))
            .json();
        let rest = rest["operation_ids"].as_array().unwrap().clone();
        assert!(rest.len() <= 33 + 5, "{}", rest.len());
        listed.extend(rest);
        let distinct: BTreeSet<&str> = listed.iter().map(|id| id.as_str().unwrap()).collect();
        let all: Vec<_> = (0..50).map(|n| format!("op-{n:02}")).collect();
        assert_same_set(order, distinct, all.iter().map(String::as_str));
    }
}

#[test]
fn cursors_are_checked() {
    let server = Server::start();
    let events: Vec<_> = (0..9)
        .map(|n| created(&format!("op-{n}"), n, "/x"))
        .collect();
    let token = server.publish(&events);
    let first = server.get_with("/v1/operations?limit=4", &[("ledger-position", &token)]);
    let next = next_of(&first).unwrap();
    assert_eq!(
        server.get(&next).json()["operation_ids"],
        json!(["op-4", "op-3", "op-2", "op-1"])
    );
    for bad in [
        "/v1/operations?limit=4&cursor=nonsense".to_owned(),
        "/v1/operations?limit=4&cursor=!".to_owned(),
        format!("{next}&status=failed"),
        format!("{next}&order=oldest"),
    ] {
        let message = server.get(&bad).refused(400, "010001");
        assert!(message.contains("cursor:"), "{bad}: {message}");
    }
    for (query, code) in [
        ("limit=0", "010003"),
        ("limit=1001", "010003"),
        ("limit=many", "010001"),
        ("order=newer", "010002"),
        ("statuses=failed", "010001"),
        ("status=Failed", "010002"),
    ] {
        server
            .get(&format!("/v1/operations?{query}"))
            .refused(400, code);
    }
    // A later write is not in the read point of the cursor: the request is refused.
    let later = server.publish(&[created("later", 50, "/x")]);
    server
        .get_with(&next, &[("ledger-position", &later)])
        .refused(410, "010003");
    assert_eq!(server.get(&next).status, 200);
    let first = server.get_with("/v1/operations?limit=1", &[("ledger-position", &later)]);
    assert_eq!(first.json()["operation_ids"], json!(["later"]));
}

/// Without a token: after a client has read a terminal status, its list contains that
/// operation.
#[test]
fn a_list_is_at_least_as_new_as_earlier_reads() {
    let server = Server::with(&[("LISTS__SHARE", "60s")]);
    let events: Vec<_> = (0..3)
        .map(|n| created(&format!("op-{n}"), n, "/x"))
        .collect();
    let token = server.publish(&events);
    let by_token = [("ledger-position", &*token)];
    assert_eq!(
        server.get_with("/v1/operations/op-2", &by_token).status,
        200
    );
    // Another client has read the first page, but not the second yet.
    assert!(next_of(&server.get("/v1/operations?limit=1")).is_some());
    for n in 0..3 {
        let id = format!("op-{n}");
        let data = json!({"response": {"status_code": 200}});
        server.publish(&[event(&id, "operation.completed", 9, data)]);
        let path = format!("/v1/operations/{id}");
        server.eventually("seen", |server| {
            server.get(&path).json()["status"] == "completed"
        });
        let ended = server.get("/v1/operations?status=completed&limit=2").json();
        assert_eq!(
            ended["operation_ids"].as_array().unwrap().len(),
            2.min(n + 1),
            "{ended}"
        );
    }
}

/// The read point that lists share may be older than the change that the client waits for.
#[test]
fn a_waiting_list_sees_changes_from_before_it_began_to_wait() {
    let server = Server::with(&[("LISTS__SHARE", "60s"), ("LISTS__POINTS", "1")]);
    let path = "/v1/operations?limit=5";
    let before = server.get(path);
    let token = server.publish(&[created("op", 1, "/x")]);
    let by_token = [("ledger-position", &*token)];
    assert_eq!(server.get_with("/v1/operations/op", &by_token).status, 200);
    let started = Instant::now();
    for headers in [
        vec![
            ("if-none-match", before.header("etag")),
            ("prefer", "wait=50"),
        ],
        vec![("prefer", "wait=50")],
    ] {
        let news = server.get_with(path, &headers);
        assert_eq!(news.status, 200);
        assert_eq!(news.json()["operation_ids"], json!(["op"]));
    }
    assert!(started.elapsed() < Duration::from_secs(40), "it waited");
}

#[test]
fn lists_are_conditional_and_wait() {
    let server = Server::start();
    let wait = ("prefer", "wait=50");
    for path in [
        "/v1/operations?status=failed",
        "/v1/operations?status=failed&limit=5",
    ] {
        let id = format!("op-{}", path.len());
        let waiting = |headers: &[(&str, &str)], change: &[Value]| -> Answer {
            thread::scope(|scope| {
                let client = server.client();
                let waiting = scope.spawn(move || client.get(path, headers));
                // The change may come before the request or after it.
                server.publish(change);
                waiting.join().unwrap()
            })
        };
        let failed = |n| {
            let data = json!({"response": {"status_code": 500}});
            event(&format!("{id}-{n}"), "operation.failed", 10, data)
        };
        if path.contains("limit") {
            let all = server.get(path);
            assert_eq!(
                server
                    .get_with(path, &[("if-none-match", all.header("etag"))])
                    .status,
                304
            );
            let headers = [("if-none-match", all.header("etag")), wait];
            let news = waiting(&headers, &[created(&format!("{id}-0"), 1, "/x"), failed(0)]);
            assert_eq!(news.status, 200);
            assert_eq!(news.json()["operation_ids"].as_array().unwrap().len(), 2);
        } else {
            // Waits for the first operation that matches.
            let first = waiting(&[wait], &[created(&format!("{id}-0"), 1, "/x"), failed(0)]);
            assert_eq!(first.json()["operation_ids"], json!([format!("{id}-0")]));
            let etag = first.header("etag").to_owned();
            let same = server.get_with(path, &[("if-none-match", &etag)]);
            assert_eq!((same.status, same.body.len()), (304, 0));
        }
    }
    let started = Instant::now();
    let path = "/v1/operations?status=canceled&limit=5";
    assert_eq!(
        server.get_with(path, &[("prefer", "wait=1")]).json(),
        json!({"operation_ids": []})
    );
    assert!(
        started.elapsed() >= Duration::from_secs(1),
        "it waited for one"
    );
}

#[test]
fn a_changed_list_of_equal_length_has_another_etag() {
    let server = Server::start();
    let started = |id: &str| event(id, "operation.started", 10, json!({}));
    let canceled = |id: &str| event(id, "operation.canceled", 20, json!({}));
    let ids = ["op-1", "op-2", "op-3"];
    let mut events: Vec<Value> = ids.iter().map(|id| created(id, 1, "/x")).collect();
    events.push(started("op-1"));
    let mut token = server.publish(&events);
    for (path, step) in [
        ("/v1/operations?status=executing", "op-2"),
        ("/v1/operations?status=executing&limit=5", "op-3"),
    ] {
        let before = server.get_with(path, &[("ledger-position", &token)]);
        let listed = before.json()["operation_ids"][0]
            .as_str()
            .unwrap()
            .to_owned();
        // One operation replaces the other in the list.
        token = server.publish(&[canceled(&listed), started(step)]);
        let headers = [
            ("ledger-position", &*token),
            ("if-none-match", before.header("etag")),
        ];
        let after = server.get_with(path, &headers);
        assert_eq!(after.status, 200, "{path}");
        assert_eq!(after.json(), json!({"operation_ids": [step]}));
        assert_eq!(after.body.len(), before.body.len());
        assert_ne!(after.header("etag"), before.header("etag"), "{path}");
    }
    // The same operations, but one of them has changed.
    let path = "/v1/operations?format=detail-list";
    let before = server.get_with(path, &[("ledger-position", &token)]);
    let again = json!({"request": {"uri": "/y", "method": "PUT"}});
    let earlier = event("op-1", "operation.created", 0, again);
    let token = server.publish(&[earlier]);
    let headers = [
        ("ledger-position", &*token),
        ("if-none-match", before.header("etag")),
    ];
    let after = server.get_with(path, &headers);
    assert_eq!((after.status, after.body.len()), (200, before.body.len()));
    assert_ne!(after.body, before.body);
}

#[test]
fn a_list_with_another_time_format_has_another_etag() {
    let folder = tempfile::tempdir().unwrap();
    let path = "/v1/operations?format=detail-list";
    // Of several, those that had nothing to do note their positions at the end: a change.
    let one = ("PROJECTOR__WORKERS", "1");
    let server = Server::on(folder.path(), &[one]);
    let token = server.publish(&[created("op-1", 1, "/x")]);
    let before = server.get_with(path, &[("ledger-position", &token)]);
    assert!(server.terminate().success());
    for (settings, status) in [
        (vec![one], 304),
        (vec![one, ("DOCUMENT__TIME_OFFSET", "+09:00")], 200),
        (vec![one, ("DOCUMENT__TIME_SEPARATOR", "T")], 200),
    ] {
        let server = Server::on(folder.path(), &settings);
        let headers = [
            ("ledger-position", &*token),
            ("if-none-match", before.header("etag")),
        ];
        let after = server.get_with(path, &headers);
        assert_eq!(after.status, status, "{settings:?}");
        assert!(server.terminate().success());
    }
}

#[test]
fn read_points_are_shared_and_bounded() {
    let server = Server::with(&[("LISTS__POINTS", "2"), ("LISTS__SHARE", "0s")]);
    let mut nexts = BTreeMap::new();
    for n in 0..4 {
        let events = ["a", "b"].map(|name| created(&format!("{name}-{n}"), n, "/x"));
        let token = server.publish(&events);
        let first = server.get_with("/v1/operations?limit=1", &[("ledger-position", &token)]);
        nexts.insert(n, next_of(&first).unwrap());
    }
    let gone = |n: &usize| server.get(&nexts[n]).status;
    assert_eq!([0, 1, 2, 3].map(|n| gone(&n)), [410, 410, 200, 200]);
}
