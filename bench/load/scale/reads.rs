//! Documents read one by one, from all operations and from a few, and all of them in
//! one response.

use super::events::operation_id;
use super::{Scene, empty_page_cache, say};
use crate::generate::Rng;
use crate::hammer::{Requests, hammer};
use crate::http;
use crate::memory::{self, Streamed};
use crate::report::{Cells, Report, mib, mib_per_second, per_second};
use crate::server::Server;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Operations that are read again and again.
const HOT: u64 = 100;

/// The most often that a whole list is read.
const TURNS: usize = 7;

/// Documents read before counting begins.
const WARMING: Duration = Duration::from_millis(500);

pub async fn measure(scene: &Scene<'_>, server: Server) -> anyhow::Result<(Server, Report)> {
    let options = scene.options;
    let mut settings = scene.settings();
    settings.push(("connections", json!(options.connections)));
    settings.push(("hot", json!(HOT)));
    let mut report = Report::new("scale: reads", settings);
    let requests = |ids: &mut dyn Iterator<Item = u64>| -> Requests {
        Arc::new(
            ids.map(|i| http::get_operation(&operation_id(i), ""))
                .collect(),
        )
    };
    let mut rng = Rng::new(3);
    let mut anywhere = std::iter::repeat_with(|| rng.next() % options.operations);
    let most = options.seconds as usize * 40_000;
    let duration = Duration::from_secs(options.seconds);
    let connections = options.connections;

    say("reading documents");
    server.stop().await?;
    empty_page_cache(&scene.data)?;
    let server = scene.start()?;
    // The first reads also wait for the first comparison with the log, and read the
    // tables' indexes. These are not measured.
    server.settle().await?;
    // So few that hardly two are in the same block, because the second would not be cold.
    let few = (options.operations as usize / 500).clamp(100, most);
    let all = requests(&mut anywhere.by_ref().take(few));
    let before = disk_reads(&scene.data);
    let found = hammer(&server.target(), &all, few, connections, duration).await?;
    let reads = disk_reads(&scene.data).zip(before);
    let count = found.count() as f64;
    let mut cells = found.cells();
    if let Some((after, before)) = reads {
        cells.push(("disk reads/GET", json!((after - before) as f64 / count)));
    }
    report.row("GET of any, nothing in the kernel's cache", cells);

    for format in ["list", "detail-list"] {
        say(&format!("reading all of them as a {format}"));
        let started = Instant::now();
        // One reading says little, above all of a small list that takes almost no time.
        for turn in (1..=TURNS).take_while(|turn| *turn <= 3 || started.elapsed() < duration) {
            server.process().forget_peak()?;
            let cpu = server.process().cpu()?;
            let streamed = memory::stream(&server, format).await?;
            let mut cells = whole(&streamed);
            cells.push((
                "CPU µs/document",
                json!((server.process().cpu()? - cpu) * 1e6 / streamed.operations as f64),
            ));
            cells.push(("peak MiB", mib(server.process().resident_peak()?)));
            report.row(format!("format={format}, whole, turn {turn}"), cells);
        }
    }

    // After the lists, which have read all blocks.
    let all = requests(&mut anywhere.take(most));
    let found = hammer(&server.target(), &all, most, connections, duration).await?;
    report.row("GET of any, in the kernel's cache", found.cells());
    let step = (options.operations / HOT).max(1) as usize;
    let hot = requests(&mut (0..options.operations).step_by(step));
    hammer(&server.target(), &hot, usize::MAX, connections, WARMING).await?;
    let found = hammer(&server.target(), &hot, usize::MAX, connections, duration).await?;
    report.row("GET, hot", found.cells());
    Ok((server, report))
}

fn whole(streamed: &Streamed) -> Cells {
    vec![
        ("documents", json!(streamed.operations)),
        (
            "documents/s",
            per_second(streamed.operations, streamed.took),
        ),
        ("MiB/s", mib_per_second(streamed.bytes, streamed.took)),
        ("first bytes, ms", json!(streamed.first.as_secs_f64() * 1e3)),
        ("s", json!(streamed.took.as_secs_f64())),
    ]
}

/// Reads that the disk of a folder has finished, for any process.
fn disk_reads(folder: &std::path::Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata(folder).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    stat.split_whitespace().next()?.parse().ok()
}
