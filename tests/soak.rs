//! Runs the built program for as long as wanted, while everything fails that fails in a year. Its
//! disk fills and empties, its standard error cannot be written, clients close half of their
//! connection or read nothing, receivers refuse notifications, and now and then it is killed. No
//! acknowledged event is lost, its memory stays within bounds, all of its threads run, and every
//! publisher gets a response.
//!
//! It runs for twenty seconds, or `SOAK_SECONDS`; with `SOAK` for an hour. `--nocapture` shows the
//! figures of each minute.
//!
//! A program of its own: it uses the whole machine and measures how long publishing fails.

mod support;

use rustix::fs::OFlags;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{PipeReader, Read, Write, pipe};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};
use support::deadline::{LATER, within};
use support::generate::{self, Rng};
use support::receiver::{Receiver, Reply};
use support::reference;
use support::same::{assert_same, assert_same_set, short};
use support::server::{BATCH, Client, Server};
use support::small_disk::{Ballast, Disk, Shortage};

/// The limit of the ledger's memory, from its settings: caches, write buffers, buffered bodies and
/// responses, and the program itself.
const MEMORY: u64 = (48 + 64 + 16 + 16 + 64 + 64 + 64 + 176) << 20;
const SETTINGS: [(&str, &str); 11] = [
    ("NOTIFICATIONS__ALLOW", "127.0.0.1"),
    ("NOTIFICATIONS__TIMEOUT", "2s"),
    ("NOTIFICATIONS__RETRY_MIN", "100ms"),
    ("NOTIFICATIONS__RETRY_MAX", "2s"),
    ("PROJECTOR__RETRY_MAX", "500ms"),
    ("SERVER__MAX_BUFFERED", "64MiB"),
    ("SERVER__MAX_UNSENT", "64MiB"),
    ("SERVER__MAX_CONNECTIONS", "128"),
    ("STREAMS__KEEP_ALIVE", "1s"),
    // Debug level writes much, where a failing output can hurt.
    ("TELEMETRY__LOG", "debug"),
    ("LOG__MAX_WAITING", "64MiB"),
];
const WRITERS: usize = 2;
/// Per writer. An hour of them fits the disk.
const OPERATIONS_A_SECOND: u32 = 10;
/// One in so many operations has a receiver.
const NOTIFIED: u64 = 10;
const LARGE: usize = 3;
/// How long publishing may fail while nothing disturbs the ledger.
const PATIENCE: Duration = Duration::from_secs(15);

fn seconds() -> u64 {
    let asked = support::env_number("SOAK_SECONDS");
    asked.unwrap_or(if support::soak() { 3600 } else { 20 })
}

/// State that all threads share.
struct World {
    stop: AtomicBool,
    /// Odd while something disturbs the ledger: it is killed, or its disk is full.
    epoch: AtomicU64,
    address: RwLock<SocketAddr>,
    receiver: SocketAddr,
    published: AtomicU64,
    refused: AtomicU64,
    complaints: Mutex<Vec<String>>,
}

impl World {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn address(&self) -> SocketAddr {
        *self.address.read().unwrap()
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Whether nothing has disturbed the ledger since then.
    fn was_calm_since(&self, epoch: u64) -> bool {
        epoch.is_multiple_of(2) && self.epoch() == epoch
    }

    /// Disturbs the ledger, which may take a moment to recover.
    fn disturb<T>(&self, what: impl FnOnce() -> T) -> T {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let done = what();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        done
    }

    fn complain(&self, text: String) {
        eprintln!("{text}");
        let mut complaints = self.complaints.lock().unwrap();
        if complaints.len() < 50 {
            complaints.push(text);
        }
    }
}

/// Stops all other threads when one fails.
struct Ends<'w>(&'w World);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// The name and the events of a writer's nth operation.
fn operation(writer: usize, n: u64, receiver: SocketAddr) -> (String, Vec<Value>) {
    let mut events = generate::realistic(writer as u64 * 1_000_000_000 + n);
    let id = events[0]["subject"].as_str().unwrap().to_owned();
    if n.is_multiple_of(NOTIFIED) {
        let to = json!({"address": receiver.ip().to_string(), "port": receiver.port()});
        events[0]["data"]["notification"] = to;
    }
    if n % 50 == 7 {
        events[0]["data"]["request"]["body"] = "x".repeat(20_000).into();
    }
    (id, events)
}

/// An operation of 4 MB.
fn large(n: usize) -> (String, Vec<Value>) {
    let id = format!("large-{n}");
    let request = |length| json!({"uri": "/x", "method": "PUT", "body": "y".repeat(length)});
    let event = |kind: &str, at: usize, data: Value| {
        json!({"specversion": "1.0", "id": format!("{at}"), "source": "/w", "subject": id,
            "type": format!("opledger.{kind}.v1"), "data": data,
            "time": format!("2024-05-06T07:08:{at:02}Z")})
    };
    let created = event("operation.created", 0, json!({"request": request(1)}));
    let lanes = (1..17).map(|at| {
        let data = json!({"cluster_id": at.to_string(), "request": request(250_000)});
        event("cluster.request_sent", at, data)
    });
    let events = [created].into_iter().chain(lanes).collect();
    (id, events)
}

/// Publishes again and again until the events are acknowledged.
fn publish(world: &World, client: &mut Option<(SocketAddr, Client)>, events: &[Value]) -> bool {
    let body = serde_json::to_vec(events).unwrap();
    let mut calm: Option<(u64, Instant)> = None;
    while world.goes_on() {
        let (epoch, address) = (world.epoch(), world.address());
        if client.as_ref().is_none_or(|(known, _)| *known != address) {
            *client = Some((address, Client::new(address)));
        }
        let (_, http) = client.as_ref().unwrap();
        let answer = http.try_post("/v1/events", &[("content-type", BATCH)], body.clone());
        let said = match answer {
            Ok(answer) if answer.status == 202 => {
                world.published.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                if answer.status != 503 && answer.status != 429 {
                    world.complain(format!("a publish: {}: {text}", answer.status));
                } else if text.is_empty() {
                    world.complain(format!("a refusal without a body: {}", answer.status));
                }
                text
            }
            Err(error) => {
                // The connection may belong to the previous process.
                *client = None;
                if world.was_calm_since(epoch) {
                    world.complain(format!("a publish got no response: {error:?}"));
                }
                error.to_string()
            }
        };
        world.refused.fetch_add(1, Ordering::Relaxed);
        let since = match calm {
            Some((at, since)) if at == epoch && epoch.is_multiple_of(2) => since,
            _ => Instant::now(),
        };
        calm = Some((epoch, since));
        if since.elapsed() > PATIENCE {
            world.complain(format!(
                "publishing fails for {PATIENCE:?} on end: {}",
                short(&said)
            ));
            calm = None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Returns how many operations were completely acknowledged.
fn write(world: &World, writer: usize) -> u64 {
    let _ends = Ends(world);
    let mut rng = Rng::new(writer as u64);
    let mut client = None;
    let began = Instant::now();
    for n in 0.. {
        let (_, mut events) = operation(writer, n, world.receiver);
        rng.shuffle(&mut events);
        let half = rng.below(events.len());
        // A repeat changes nothing.
        let again = [&events[..half], &events[half..], &events[half..]];
        let parts = if rng.chance(10) {
            &again[..]
        } else {
            &again[..2]
        };
        for part in parts.iter().filter(|part| !part.is_empty()) {
            if !publish(world, &mut client, part) {
                return n;
            }
        }
        let due = began + Duration::from_secs(1) * (n as u32 + 1) / OPERATIONS_A_SECOND;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    unreachable!()
}

fn wait(world: &World, time: Duration) {
    let until = Instant::now() + time;
    while world.goes_on() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ask(address: SocketAddr, path: &str, headers: &str) -> Option<TcpStream> {
    let mut socket = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).ok()?;
    Some(socket)
}

/// Twenty clients request large documents and do not read them.
fn read_nothing(world: &World) {
    let _ends = Ends(world);
    let stream = "accept: text/event-stream\r\n";
    while world.goes_on() {
        let ways = (0..20).map(|n| {
            let large = format!("/v1/operations/large-{}", n % LARGE);
            match n % 4 {
                0 => ask(world.address(), "/v1/operations", stream),
                1 => ask(world.address(), "/v1/operations?format=detail-list", ""),
                2 => ask(world.address(), &large, stream),
                _ => ask(world.address(), &large, ""),
            }
        });
        let held: Vec<_> = ways.collect();
        wait(world, Duration::from_secs(4));
        drop(held);
    }
}

/// Forty clients wait for an operation and close their half of the connection.
fn close_by_half(world: &World) {
    let _ends = Ends(world);
    while world.goes_on() {
        let held: Vec<_> = (0..40)
            .filter_map(|_| {
                let path = "/v1/operations/never";
                let socket = ask(world.address(), path, "prefer: wait=60\r\n")?;
                socket.shutdown(Shutdown::Write).ok()?;
                Some(socket)
            })
            .collect();
        wait(world, Duration::from_secs(5));
        drop(held);
    }
}

/// One client follows every operation and resumes.
fn watch(world: &World) -> usize {
    let _ends = Ends(world);
    let (mut last_id, mut documents) = (String::new(), 0);
    while world.goes_on() {
        let headers = format!("accept: text/event-stream\r\nlast-event-id: {last_id}\r\n");
        let Some(mut socket) = ask(world.address(), "/v1/operations?status=completed", &headers)
        else {
            wait(world, Duration::from_millis(100));
            continue;
        };
        let patience = Some(Duration::from_millis(500));
        socket.set_read_timeout(patience).unwrap();
        let (mut buffer, mut piece) = (Vec::new(), vec![0; 64 << 10]);
        while world.goes_on() {
            match socket.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => buffer.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => break,
            }
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if let Some(id) = line.strip_prefix("id: ") {
                    last_id = id.trim().to_owned();
                }
                documents += usize::from(line.starts_with("event: document"));
            }
        }
    }
    documents
}

/// What standard error is connected to while one process runs.
#[derive(Debug, Clone, Copy)]
enum Output {
    FullDevice,
    ClosedPipe,
    UnreadPipe,
    NonBlockingPipe,
    OnTheDisk,
}

const OUTPUTS: [Output; 5] = [
    Output::OnTheDisk,
    Output::FullDevice,
    Output::UnreadPipe,
    Output::ClosedPipe,
    Output::NonBlockingPipe,
];

struct Life {
    server: Server,
    output: Output,
    /// Threads by name, some seconds after the start.
    threads: BTreeSet<String>,
    began: Instant,
    _unread: Option<PipeReader>,
}

impl Life {
    fn begin(world: &World, disk: &Disk, output: Output) -> Life {
        let (stderr, unread): (Stdio, _) = match output {
            Output::FullDevice => (
                File::options()
                    .write(true)
                    .open("/dev/full")
                    .unwrap()
                    .into(),
                None,
            ),
            Output::ClosedPipe => (pipe().unwrap().1.into(), None),
            Output::UnreadPipe | Output::NonBlockingPipe => {
                let (reader, writer) = pipe().unwrap();
                if let Output::NonBlockingPipe = output {
                    rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
                }
                (writer.into(), Some(reader))
            }
            Output::OnTheDisk => {
                let log = disk.seen().join("serve.log");
                let log = File::options().create(true).append(true).open(log).unwrap();
                (log.into(), None)
            }
        };
        let mut command = disk.command();
        command.stderr(stderr);
        let server = Server::spawn(command, &disk.folder().join("data"), &SETTINGS);
        *world.address.write().unwrap() = server.address;
        Life {
            server,
            output,
            threads: BTreeSet::new(),
            began: Instant::now(),
            _unread: unread,
        }
    }

    fn threads(&self) -> BTreeSet<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.server.pid())).unwrap();
        let name = |task: std::io::Result<std::fs::DirEntry>| {
            let name = std::fs::read_to_string(task.ok()?.path().join("comm")).ok()?;
            Some(name.trim().to_owned())
        };
        tasks.filter_map(name).collect()
    }

    /// Checks memory and threads. Returns the memory in bytes.
    fn look(&mut self, world: &World) -> u64 {
        let resident = self.server.resident();
        if resident > MEMORY {
            world.complain(format!(
                "{} MiB are resident ({:?})",
                resident >> 20,
                self.output
            ));
        }
        let now = self.threads();
        if self.threads.is_empty() && self.began.elapsed() > Duration::from_secs(2) {
            self.threads = now.clone();
        }
        // After an error the projector ends the threads that read and fold, and starts them again.
        let ends = ["worker-", "intake-", "control-"];
        let stays = |name: &&String| !ends.iter().any(|begin| name.starts_with(begin));
        let missing = self.threads.difference(&now).filter(stays);
        let missing: Vec<_> = missing.cloned().collect();
        if !missing.is_empty() {
            world.complain(format!(
                "threads have ended ({:?}): {missing:?}",
                self.output
            ));
            self.threads = now;
        }
        resident
    }
}

/// Fills the disk, kills, stops and starts the ledger, and prints figures.
fn disturb(world: &World, disk: &Disk, mut life: Life) -> Life {
    let _ends = Ends(world);
    let mut rng = Rng::new(11);
    let (began, all) = (Instant::now(), Duration::from_secs(seconds()));
    let each = if all > Duration::from_secs(120) {
        60
    } else {
        5
    };
    let (mut lives, mut most, mut told) = (1, 0, Instant::now());
    let mut next = Instant::now() + Duration::from_secs(3);
    let mut step = 0;
    while world.goes_on() && began.elapsed() < all {
        most = most.max(life.look(world));
        if told.elapsed() >= Duration::from_secs(each) {
            eprintln!(
                "{:>5} s: {:>4} MiB at most, {} publishes acknowledged, {} refused, {lives} lives, \
                 {} threads, {:?}",
                began.elapsed().as_secs(),
                most >> 20,
                world.published.load(Ordering::Relaxed),
                world.refused.load(Ordering::Relaxed),
                life.threads().len(),
                life.output,
            );
            (most, told) = (0, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(200));
        if Instant::now() < next {
            continue;
        }
        // In rotation, so that a short run has some of each.
        let is_filled = step % 2 == 0;
        let ends = match step % 4 {
            1 => Some(true),
            2 => rng.chance(30).then_some(true),
            3 => Some(rng.chance(60)),
            _ => None,
        };
        step += 1;
        life = world.disturb(|| {
            let ballast = is_filled.then(|| {
                let shortage = *rng.pick(&[Shortage::Bytes, Shortage::Bytes, Shortage::Files]);
                let ballast = Ballast::fill(disk.seen(), shortage);
                std::thread::sleep(Duration::from_millis(500 + rng.below(2500) as u64));
                ballast
            });
            let life = match ends {
                None => life,
                Some(true) => {
                    life.server.kill();
                    drop(ballast);
                    lives += 1;
                    return Life::begin(world, disk, OUTPUTS[lives % OUTPUTS.len()]);
                }
                Some(false) => {
                    let (output, status) = (life.output, life.server.terminate());
                    if !status.success() {
                        world
                            .complain(format!("after SIGTERM it ended with {status} ({output:?})"));
                    }
                    lives += 1;
                    Life::begin(world, disk, OUTPUTS[lives % OUTPUTS.len()])
                }
            };
            drop(ballast);
            life
        });
        let calm = if all > Duration::from_secs(120) { 8 } else { 2 };
        next = Instant::now() + Duration::from_secs(calm + rng.below(4) as u64);
    }
    world.stop.store(true, Ordering::Relaxed);
    life
}

#[test]
fn nothing_is_lost_and_nothing_grows_while_everything_goes_wrong() {
    let refusing = Mutex::new(Rng::new(3));
    let receiver = Receiver::start(move |_, _| match refusing.lock().unwrap().below(12) {
        0 => Reply::Status(500),
        1 => Reply::Reset,
        2 => Reply::Raw("HTTP/1.1 503 No\r\nretry-after: 1\r\n\r\n".into()),
        3 => Reply::Raw("HTTP/1.1 200 Said\r\ncontent-length: 9\r\n\r\n".into()),
        4 => Reply::Status(302),
        _ => Reply::Status(200),
    });
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::mount(&folder.path().join("disk"), "size=600m,nr_inodes=4000");
    let world = World {
        stop: AtomicBool::new(false),
        epoch: AtomicU64::new(1),
        address: RwLock::new(([127, 0, 0, 1], 1).into()),
        receiver: receiver.address,
        published: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        complaints: Mutex::default(),
    };
    let life = Life::begin(&world, &disk, OUTPUTS[1]);
    world.epoch.store(2, Ordering::SeqCst);
    for n in 0..LARGE {
        let (_, events) = large(n);
        life.server.publish(&events);
    }
    let (done, life, watched) = std::thread::scope(|scope| {
        let world = &world;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || write(world, writer)))
            .collect();
        scope.spawn(|| read_nothing(world));
        scope.spawn(|| close_by_half(world));
        let watcher = scope.spawn(|| watch(world));
        let life = disturb(world, &disk, life);
        let done: Vec<u64> = writers.into_iter().map(|w| w.join().unwrap()).collect();
        (done, life, watcher.join().unwrap())
    });
    let complaints = world.complaints.lock().unwrap().clone();
    eprintln!("{done:?} operations, {watched} documents by a stream");
    check(&life.server, &done, &receiver);
    assert!(watched > 0, "the stream sent no document");
    assert_same("complaints", &complaints, &Vec::<String>::new());
    assert!(life.server.terminate().success());
}

/// Compares the ledger's content with the acknowledged events.
fn check(server: &Server, done: &[u64], receiver: &Receiver) {
    within(LATER, "it is ready again", || {
        (server.get("/readyz").status == 200).then_some(())
    });
    within(LATER, "all of the log is applied", || {
        let partitions = server.get("/projector").json()["partitions"].clone();
        let mut partitions = partitions.as_array().unwrap().iter();
        partitions.all(|p| p["lag"] == 0).then_some(())
    });
    for n in 0..LARGE {
        let (id, events) = large(n);
        let found = server.get(&format!("/v1/operations/{id}")).json();
        assert_same(&id, &Some(found), &reference::document(&events));
    }
    let mut rng = Rng::new(1);
    for (writer, done) in done.iter().enumerate() {
        assert!(*done > 0, "something was acknowledged");
        for n in 0..*done {
            let (id, events) = operation(writer, n, receiver.address);
            let answer = server.get(&format!("/v1/operations/{id}"));
            assert_eq!(answer.status, 200, "{id} was acknowledged");
            assert_same(&id, &Some(answer.json()), &reference::document(&events));
            if rng.below(20) == 0 {
                let history = server.get(&format!("/v1/operations/{id}/events")).json();
                let ids = |events: &[Value]| -> Vec<String> {
                    events.iter().map(|event| event["id"].to_string()).collect()
                };
                let found: Vec<Value> = history["events"].as_array().unwrap().clone();
                let found: Vec<Value> = found.iter().map(|e| e["event"].clone()).collect();
                assert_same_set(&format!("the history of {id}"), ids(&found), ids(&events));
            }
        }
    }
    let told: BTreeSet<String> = (0..)
        .zip(done)
        .flat_map(|(writer, done)| {
            let notified = (0..*done).step_by(NOTIFIED as usize);
            notified.map(move |n| (writer, n))
        })
        .map(|(writer, n)| operation(writer, n, receiver.address).0)
        .collect();
    let taken = within(LATER, "every notification is accepted", || {
        let calls = receiver.calls();
        let taken = calls.iter().filter(|call| call.taken);
        let taken: BTreeSet<String> = taken.map(|call| call.operation().to_owned()).collect();
        told.is_subset(&taken).then_some(taken)
    });
    eprintln!("{} notifications were accepted", taken.len());
}
