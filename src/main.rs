//! interim
use opledger::{app::Ledger, config::*, metrics};
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let get = |n: &str| {
        args.iter()
            .position(|a| a == n)
            .map(|i| args[i + 1].clone())
    };
    let config = Config::load(
        None,
        variables(),
        Overrides {
            data: get("--data"),
            listen: get("--listen"),
        },
    )
    .unwrap();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let rt = tokio::runtime::Runtime::new().unwrap();
    rt.block_on(async {
        let m = metrics::install().unwrap();
        let l = tokio::net::TcpListener::bind(config.server.listen)
            .await
            .unwrap();
        let ledger = Ledger::open(config).unwrap();
        ledger
            .serve(l, m, async { tokio::signal::ctrl_c().await.unwrap() })
            .await;
    });
}
