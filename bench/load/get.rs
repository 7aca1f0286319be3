//! Documents read a second over keep-alive connections. Hot ones (a hundred, in memory)
//! are compared with a process that serves one such document as a constant. Cold ones
//! are all documents, once each in random order, after a restart with the kernel's cache
//! emptied; neighbours in a block still share one read.

use crate::args::Setup;
use crate::generate::Rng;
use crate::hammer::{Requests, hammer};
use crate::http::{self, Connection};
use crate::publish::publish;
use crate::render;
use crate::report::Report;
use crate::server::{Server, evict};
use serde_json::json;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 200_000)]
    operations: u64,
    #[arg(long, default_value_t = 100)]
    hot: usize,
    #[arg(long, default_value_t = 32)]
    connections: usize,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

pub async fn measure(setup: &Setup, options: &Options) -> anyhow::Result<Report> {
    let folder = tempfile::tempdir_in(&setup.folder)?;
    let data = folder.path().join("data");
    let server = Server::ledger(setup, &data)?;
    let work = render::operations(options.operations, 6, 100, |events| events);
    publish(&server, &work).await?;
    drop(work);
    // Otherwise the next measurement would include compactions.
    server.settle().await?;

    let requests = |ids: &mut dyn Iterator<Item = u64>| -> Requests {
        let requests = ids.map(|i| http::get_operation(&render::operation_id(i), ""));
        Arc::new(requests.collect())
    };
    // Every third operation has the same number of clusters, so all documents have one size.
    let hot = requests(&mut (0..options.operations).step_by(3).take(options.hot));
    let mut connection = Connection::open(server.address).await?;
    let answer = connection.call(&hot[0]).await?;
    answer.expect(200)?;
    let file = folder.path().join("document");
    std::fs::write(&file, answer.body)?;
    let mut report = Report::new(
        "get",
        vec![
            ("operations", json!(options.operations)),
            ("hot", json!(hot.len())),
            ("bytes of a hot document", json!(answer.body.len())),
            ("connections", json!(options.connections)),
            ("seconds", json!(options.seconds)),
        ],
    );

    let mut constant = Command::new(std::env::current_exe()?);
    constant.arg("static-server").arg(file);
    let constant = Server::start(constant)?;
    let (connections, seconds) = (options.connections, Duration::from_secs(options.seconds));
    // In turns, so that other work of the machine affects both alike.
    for turn in 1..=2 {
        for (what, server) in [("a constant", &constant), ("opledger, hot", &server)] {
            let warming = Duration::from_millis(500);
            hammer(&server.target(), &hot, usize::MAX, connections, warming).await?;
            let found = hammer(&server.target(), &hot, usize::MAX, connections, seconds).await?;
            report.row(format!("{what}, turn {turn}"), found.cells());
        }
    }
    drop(constant);

    server.stop().await?;
    evict(&data)?;
    let mut shuffled: Vec<u64> = (0..options.operations).collect();
    Rng::new(1).shuffle(&mut shuffled);
    let all = requests(&mut shuffled.into_iter());
    let server = Server::ledger(setup, &data)?;
    let found = hammer(&server.target(), &all, all.len(), connections, seconds).await?;
    report.row("opledger, cold", found.cells());
    Ok(report)
}
