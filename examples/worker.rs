//! usage: worker BOOTSTRAP OPERATION_ID [TOPIC]   (rdkafka, chrono, serde_json, uuid)

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if !(3..=4).contains(&args.len()) {
        eprintln!("usage: worker BOOTSTRAP OPERATION_ID [TOPIC]");
        std::process::exit(1);
    }
    let (bootstrap, operation) = (&args[1], &args[2]);
    let topic = args.get(3).map_or("opledger.events", String::as_str);
    let producer: FutureProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .create()?;
    let publish = async |kind: &str, data: Value| {
        let event = json!({"specversion": "1.0", "id": uuid::Uuid::new_v4().to_string(), "source": "/workers/example",
            "type": format!("opledger.{kind}.v1"), "subject": operation,
            "time": chrono::Utc::now().to_rfc3339(), "data": data})
        .to_string();
        let content_type = Header {
            key: "content-type",
            value: Some("application/cloudevents+json"),
        };
        let record = FutureRecord::to(topic).key(operation).payload(&event);
        let record = record.headers(OwnedHeaders::new().insert(content_type));
        let sent = producer
            .send(record, None)
            .await
            .map_err(|(error, _)| error)?;
        println!("{}:{}", sent.partition, sent.offset);
        anyhow::Ok(())
    };
    publish("operation.created", json!({"request": {"uri": "/v1/slices/A", "method": "PUT", "body": "{\"action\":\"update\"}"}})).await?;
    publish("operation.started", json!({})).await
}
