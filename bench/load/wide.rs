//! The cost of an event in one operation with very many events, compared with the same
//! number of events in operations of ten. It should be no more. The figure is the time
//! until an event is visible, per event.

use crate::args::Setup;
use crate::http::{self, Connection};
use crate::publish::publish;
use crate::render;
use crate::report::{Cells, Report};
use crate::server::Server;
use crate::times::millis;
use serde_json::{Value, json};
use std::time::Instant;

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 100_000)]
    events: usize,
    #[arg(long, default_value_t = 6)]
    senders: usize,
    /// Events a publish
    #[arg(long, default_value_t = 100)]
    batch: usize,
}

const SMALL: usize = 10;

struct Shape {
    name: &'static str,
    /// Lanes of the operation. Each gets its request first; all events after that are
    /// responses, lane by lane, repeatedly.
    lanes: fn(usize) -> usize,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "progress",
        lanes: |_| 0,
    },
    Shape {
        name: "answers over 100 lanes",
        lanes: |events| (events / 3).min(100),
    },
    Shape {
        name: "as many lanes as can be, each with an answer",
        lanes: |events| events / 2,
    },
];

pub async fn measure(setup: &Setup, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new(
        "wide",
        vec![
            ("events", json!(options.events)),
            ("senders", json!(options.senders)),
            ("batch", json!(options.batch)),
        ],
    );
    for shape in &SHAPES {
        let small = run(setup, options, shape, SMALL).await?;
        let mut large = run(setup, options, shape, options.events).await?;
        for (name, of) in [
            ("visible, times that of ten", "visible µs/event"),
            ("CPU, times that of ten", "CPU µs/event"),
        ] {
            let figure = |cells: &Cells| cells.iter().find(|(name, _)| *name == of)?.1.as_f64();
            let ratio = figure(&large).zip(figure(&small)).map(|(a, b)| a / b);
            large.push((name, json!(ratio)));
        }
        for (size, cells) in [(SMALL, small), (options.events, large)] {
            let what = format!("{}: {size} events an operation", shape.name);
            report.row(what, cells);
        }
    }
    Ok(report)
}

async fn run(
    setup: &Setup,
    options: &Options,
    shape: &Shape,
    size: usize,
) -> anyhow::Result<Cells> {
    let operations = options.events / size;
    let lanes = (shape.lanes)(size);
    let events = (0..operations).flat_map(|i| (0..size).map(move |n| event(i, n, lanes)));
    let work = render::deal(render::posts(events, options.batch), options.senders);
    let folder = tempfile::tempdir_in(&setup.folder)?;
    let server = Server::ledger(setup, &folder.path().join("data"))?;
    let published = publish(&server, &work).await?;

    let mut connection = Connection::open(server.address).await?;
    let started = Instant::now();
    let request = http::get_operation(&operation_id(operations - 1), "");
    let answer = connection.call(&request).await?;
    let took = started.elapsed();
    answer.expect(200)?;
    let count = (operations * size) as f64;
    Ok(vec![
        (
            "posted µs/event",
            json!(published.posted.as_secs_f64() * 1e6 / count),
        ),
        (
            "visible µs/event",
            json!(published.visible.as_secs_f64() * 1e6 / count),
        ),
        ("CPU µs/event", json!(published.cpu * 1e6 / count)),
        ("document bytes", json!(answer.body.len())),
        ("GET ms", millis(took)),
    ])
}

fn operation_id(i: usize) -> String {
    format!("wide-{i}")
}

/// The `n`th event of the `i`th operation.
fn event(i: usize, n: usize, lanes: usize) -> Value {
    let request = json!({
        "uri": "/v1/slices/l2vpn/A/cps",
        "method": "PUT",
        "body": "{\"action\":\"update_remark_menu\",\"remark_menu\":\"af1\"}",
    });
    let lane = |n: usize| (n % lanes.max(1)).to_string();
    let (kind, data) = match n {
        0 => ("operation.created", json!({ "request": request })),
        _ if lanes == 0 => {
            let sub_status = format!("step {n}");
            ("operation.progressed", json!({ "sub_status": sub_status }))
        }
        _ if n <= lanes => {
            let data = json!({ "cluster_id": lane(n), "request": request });
            ("cluster.request_sent", data)
        }
        _ => {
            let response = json!({ "status_code": 200, "body": format!("{{\"answer\":{n}}}") });
            let data = json!({ "cluster_id": lane(n), "response": response });
            ("cluster.response_received", data)
        }
    };
    json!({
        "specversion": "1.0",
        "id": n.to_string(),
        "source": "/workers/1",
        "type": format!("opledger.{kind}.v1"),
        "subject": operation_id(i),
        "time": format!("2019-06-27T{:02}:{:02}:{:02}Z", n / 3600 % 24, n / 60 % 60, n % 60),
        "datacontenttype": "application/json",
        "data": data,
    })
}
