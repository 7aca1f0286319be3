//! Processor time of each thread of a process. The kernel forgets a thread that has ended, so
//! a sampler keeps the last value of each.

use crate::server::Process;
use anyhow::Context;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A thread that ends loses at most what it did in this time.
const PAUSE: Duration = Duration::from_millis(20);

/// Name and processor seconds of each thread by its id, those that have ended included.
type Seen = BTreeMap<u32, (String, f64)>;

pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
    process: Process,
    before: Seen,
}

/// Threads of one name, without the number at its end.
#[derive(Default, Clone)]
pub struct Group {
    /// Threads that used any measurable time.
    pub threads: usize,
    /// Whether their names end with a number, as those of threads that share work do.
    pub numbered: bool,
    /// Processor seconds of all of them, and of the busiest.
    pub all: f64,
    pub busiest: f64,
}

impl Sampler {
    /// Counts from now on.
    pub fn start(process: Process) -> Sampler {
        let stop = Arc::<AtomicBool>::default();
        let (asked, sampled) = (stop.clone(), Process(process.0));
        let mut before = Seen::new();
        look(&process, &mut before);
        let mut seen = before.clone();
        let thread = std::thread::spawn(move || {
            while !asked.load(Ordering::Relaxed) {
                std::thread::sleep(PAUSE);
                look(&sampled, &mut seen);
            }
            seen
        });
        Sampler {
            stop,
            thread: Some(thread),
            process,
            before,
        }
    }

    /// The threads by name, while the process still runs.
    pub fn stop(mut self) -> anyhow::Result<BTreeMap<String, Group>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it is stopped once")?;
        let mut seen = thread.join().expect("sampling does not panic");
        look(&self.process, &mut seen);
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        for (id, (name, seconds)) in seen {
            let used = seconds - self.before.get(&id).map_or(0.0, |(_, before)| *before);
            let (name, numbered) = without_number(&name);
            let group = groups.entry(name.to_owned()).or_default();
            group.threads += usize::from(used > 0.001);
            group.numbered |= numbered;
            group.all += used;
            group.busiest = group.busiest.max(used);
        }
        Ok(groups)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Threads may end at any moment: those that cannot be read keep their last value.
fn look(process: &Process, seen: &mut Seen) {
    let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", process.0)) else {
        return;
    };
    for task in tasks.flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).ok();
        let (Some(name), Some(times)) = (read("comm"), read("schedstat")) else {
            continue;
        };
        let id = task.file_name().to_str().and_then(|id| id.parse().ok());
        let nanos: Option<u64> = times.split(' ').next().and_then(|nanos| nanos.parse().ok());
        if let (Some(id), Some(nanos)) = (id, nanos) {
            seen.insert(id, (name.trim_end().to_owned(), nanos as f64 / 1e9));
        }
    }
}

fn without_number(name: &str) -> (&str, bool) {
    let short = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (short.trim_end_matches('-'), short != name)
}
