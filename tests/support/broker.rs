//! A real Kafka broker for tests: the one that `OPLEDGER_KAFKA` names, or one in a container if an
//! engine runs, or one from the published jars. Also a client that reads the topics, so that tests
//! need not trust the ledger.

pub use super::raw::Raw;
use super::root;
use rdkafka::ClientConfig;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

/// Runs a foreign client in its own language.
pub fn run() -> PathBuf {
    root().join("tests/clients/run")
}
pub const CLIENTS: [&str; 3] = ["produce.py", "produce.mjs", "Produce.java"];

pub struct Broker {
    pub bootstrap: String,
    how: How,
}

/// A cluster. Only one exists in this process at a time.
pub struct Three {
    brokers: [Broker; 3],
    _alone: MutexGuard<'static, ()>,
}

impl std::ops::Deref for Three {
    type Target = [Broker; 3];

    fn deref(&self) -> &[Broker; 3] {
        &self.brokers
    }
}

enum How {
    /// Somebody else's broker: tests never stop or kill it.
    Given,
    /// From the published jars, with its data in a folder of its own.
    Own {
        port: u16,
        folder: tempfile::TempDir,
        extra: Option<PathBuf>,
    },
    Container {
        name: String,
    },
}

/// The tests of a program share it as long as one of them runs.
static SHARED: Mutex<Weak<Broker>> = Mutex::new(Weak::new());

impl Broker {
    pub fn shared() -> Arc<Broker> {
        let mut shared = SHARED
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(broker) = shared.upgrade() {
            return broker;
        }
        let broker = Arc::new(match std::env::var("OPLEDGER_KAFKA") {
            Ok(bootstrap) => Broker {
                bootstrap,
                how: How::Given,
            },
            Err(_) if engine_runs() => Broker::container(),
            Err(_) => Broker::own(),
        });
        *shared = Arc::downgrade(&broker);
        broker
    }

    /// A broker that can be killed, disconnected and started again.
    pub fn own() -> Broker {
        Broker::own_with("")
    }

    /// An address without a broker.
    pub fn nowhere() -> Broker {
        Broker {
            bootstrap: format!("127.0.0.1:{}", free_ports()),
            how: How::Given,
        }
    }

    /// Adds these lines to its configuration; `PORT` stands for its port.
    pub fn own_with(properties: &str) -> Broker {
        let folder = tempfile::tempdir().unwrap();
        let port = free_ports();
        let extra = (!properties.is_empty()).then(|| {
            let path = folder.path().join("extra.properties");
            let other = free_ports().to_string();
            let lines = properties
                .replace("OTHERPORT", &other)
                .replace("CONTROLLERPORT", &(port + 1).to_string())
                .replace("PORT", &port.to_string());
            std::fs::write(&path, lines).unwrap();
            path
        });
        let broker = Broker {
            bootstrap: format!("127.0.0.1:{port}"),
            how: How::Own {
                port,
                folder,
                extra,
            },
        };
        broker.start();
        broker
    }

    /// Three brokers in one cluster. The first is the only controller, so kill only the others.
    pub fn three() -> Three {
        // A small machine runs no more than three.
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let ports = [free_ports(), free_ports(), free_ports()];
        let controller = ports[0] + 1;
        let replicas = "offsets.topic.replication.factor=3\n\
                        transaction.state.log.replication.factor=3\n\
                        min.insync.replicas=2\n";
        let brokers = [0, 1, 2].map(|n| {
            let port = ports[n];
            let own = match n {
                0 => String::new(),
                _ => format!(
                    "node.id={}\nprocess.roles=broker\nlisteners=PLAINTEXT://127.0.0.1:{port}\n\
                     controller.quorum.voters=1@127.0.0.1:{controller}\n",
                    n + 1
                ),
            };
            let folder = tempfile::tempdir().unwrap();
            let extra = folder.path().join("extra.properties");
            std::fs::write(&extra, format!("{replicas}{own}")).unwrap();
            Broker {
                bootstrap: ports.map(|port| format!("127.0.0.1:{port}")).join(","),
                how: How::Own {
                    port,
                    folder,
                    extra: Some(extra),
                },
            }
        });
        brokers.iter().for_each(Broker::start);
        Three {
            brokers,
            _alone: alone,
        }
    }

    fn container() -> Broker {
        let port = free_ports();
        let name = format!("opledger-test-{port}");
        let bootstrap = format!("127.0.0.1:{port}");
        let listeners = format!("PLAINTEXT://:{port},CONTROLLER://:9093");
        let settings = [
            "KAFKA_NODE_ID=1".into(),
            "KAFKA_PROCESS_ROLES=broker,controller".into(),
            format!("KAFKA_LISTENERS={listeners}"),
            format!("KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://{bootstrap}"),
            "KAFKA_CONTROLLER_LISTENER_NAMES=CONTROLLER".into(),
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".into(),
            "KAFKA_CONTROLLER_QUORUM_VOTERS=1@127.0.0.1:9093".into(),
            "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR=1".into(),
            "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR=1".into(),
            "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR=1".into(),
            "KAFKA_AUTO_CREATE_TOPICS_ENABLE=false".into(),
        ];
        let mut docker = Command::new("docker");
        docker.args([
            "run",
            "--detach",
            "--rm",
            "--network",
            "host",
            "--name",
            &name,
        ]);
        for setting in &settings {
            docker.args(["--env", setting]);
        }
        check(docker.arg("apache/kafka:4.3.1").output().unwrap());
        let broker = Broker {
            bootstrap,
            how: How::Container { name },
        };
        broker.until_it_answers();
        broker
    }

    /// Only for a test's own broker.
    fn script(&self, arguments: &[&str]) -> Output {
        let How::Own {
            port,
            folder,
            extra,
        } = &self.how
        else {
            panic!("this broker is not ours to command");
        };
        let mut command = Command::new(root().join("scripts/kafka/kafka-local"));
        command
            .args(arguments)
            .env("KAFKA_PORT", port.to_string())
            .env("KAFKA_CLUSTER_ID", "opledger-tests-use-it0")
            .env("KAFKA_DATA", folder.path().join("data"))
            // This halves the processor time of a start. Nothing measures speed here.
            .env("KAFKA_HEAP_OPTS", "-Xmx512m -XX:TieredStopAtLevel=1")
            .stdin(Stdio::null());
        if let Some(extra) = extra {
            command.env("KAFKA_EXTRA_PROPERTIES", extra);
        }
        command.output().unwrap()
    }

    pub fn start(&self) {
        check(self.script(&["start"]));
        self.until_it_answers();
    }

    pub fn stop(&self) {
        check(self.script(&["stop"]));
    }

    /// Like `kill -9`.
    pub fn kill(&self) {
        check(self.script(&["kill"]));
    }

    /// The next start is another cluster at the same address.
    pub fn forget_everything(&self) {
        let How::Own { folder, .. } = &self.how else {
            panic!("this broker's data are not ours to remove");
        };
        std::fs::remove_dir_all(folder.path().join("data")).unwrap();
    }

    /// Where the broker keeps a partition.
    pub fn partition_folder(&self, topic: &str, partition: u32) -> PathBuf {
        let How::Own { folder, .. } = &self.how else {
            panic!("this broker's data are not ours to read");
        };
        folder.path().join(format!("data/log/{topic}-{partition}"))
    }

    /// The value of a line of its extra configuration, such as a listener's port.
    pub fn property(&self, name: &str) -> String {
        let How::Own {
            extra: Some(extra), ..
        } = &self.how
        else {
            panic!("this broker has no extra configuration");
        };
        let lines = std::fs::read_to_string(extra).unwrap();
        let found = lines
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.unwrap().to_owned()
    }

    fn until_it_answers(&self) {
        let client: BaseConsumer = self.config().create().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while client.fetch_metadata(None, Duration::from_secs(1)).is_err() {
            assert!(Instant::now() < until, "the broker does not respond");
        }
    }

    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("reconnect.backoff.max.ms", "500")
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().unwrap()
    }

    /// A topic with a name of its own.
    pub fn topic(&self, partitions: i32, settings: &[(&str, &str)]) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{count}", std::process::id());
        self.create(&name, partitions, settings);
        self.create(
            &format!("{name}.dead-letter"),
            1,
            &[("max.message.bytes", "6291456")],
        );
        name
    }

    pub fn create(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        // As many replicas as there are brokers.
        let replicas = self.bootstrap.split(',').count() as i32;
        let new = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        let new = settings
            .iter()
            .fold(new, |new, (name, value)| new.set(name, value));
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let admin = self.admin();
            let created = admin.create_topics([&new], &AdminOptions::new());
            match block_on(created).map(|mut outcomes| outcomes.remove(0)) {
                Ok(Ok(_)) => return,
                // The previous topic of this name is still being deleted.
                other => assert!(Instant::now() < until, "{name}: {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn has(&self, name: &str) -> bool {
        let client: BaseConsumer = self.config().create().unwrap();
        let metadata = client
            .fetch_metadata(None, Duration::from_secs(10))
            .unwrap();
        metadata.topics().iter().any(|topic| topic.name() == name)
    }

    pub fn delete(&self, name: &str) {
        let deleted = block_on(self.admin().delete_topics(&[name], &AdminOptions::new()));
        deleted.unwrap().remove(0).unwrap();
    }

    pub fn add_partitions(&self, name: &str, count: usize) {
        let more = NewPartitions::new(name, count);
        let grown = block_on(
            self.admin()
                .create_partitions([&more], &AdminOptions::new()),
        );
        grown.unwrap().remove(0).unwrap();
    }

    /// Like retention: deletes everything before this offset.
    pub fn forget_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut offsets = TopicPartitionList::new();
        let offset = Offset::Offset(offset);
        offsets
            .add_partition_offset(topic, partition, offset)
            .unwrap();
        block_on(self.admin().delete_records(&offsets, &AdminOptions::new())).unwrap();
    }

    /// Sends records unchanged and waits for them.
    pub fn send(&self, topic: &str, records: &[Raw]) {
        let producer: BaseProducer = self
            .config()
            .set("message.max.bytes", "20000000")
            .set("queue.buffering.max.messages", "1000000")
            .create()
            .unwrap();
        for record in records {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &record.headers {
                let value = value.as_deref();
                headers = headers.insert(Header { key, value });
            }
            let mut out = BaseRecord::<[u8], [u8]>::to(topic).headers(headers);
            if let Some(partition) = record.partition {
                out = out.partition(partition);
            }
            if let Some(key) = &record.key {
                out = out.key(&key[..]);
            }
            if let Some(value) = &record.value {
                out = out.payload(&value[..]);
            }
            producer.send(out).map_err(|(error, _)| error).unwrap();
            producer.poll(Duration::ZERO);
        }
        producer.flush(Duration::from_secs(60)).unwrap();
    }

    pub fn until_all_replicas_follow(&self, topic: &str) {
        let client: BaseConsumer = self.config().create().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let metadata = client
                .fetch_metadata(Some(topic), Duration::from_secs(10))
                .unwrap();
            let mut partitions = metadata.topics()[0].partitions().iter();
            if partitions.all(|partition| partition.isr().len() == partition.replicas().len()) {
                return;
            }
            assert!(Instant::now() < until, "a replica does not follow");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Everything in a topic, partition by partition.
    pub fn read(&self, topic: &str) -> Vec<OwnedMessage> {
        let consumer: BaseConsumer = self
            .config()
            .set("group.id", "looks-on")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let metadata = consumer
            .fetch_metadata(Some(topic), Duration::from_secs(10))
            .unwrap();
        let partitions = metadata.topics()[0].partitions().len() as i32;
        let mut all = TopicPartitionList::new();
        all.add_partition_range(topic, 0, partitions - 1);
        all.set_all_offsets(Offset::Beginning).unwrap();
        consumer.assign(&all).unwrap();
        let (mut found, mut ended) = (Vec::new(), 0);
        while ended < partitions {
            match consumer.poll(Duration::from_secs(30)) {
                Some(Ok(message)) => found.push(message.detach()),
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ended += 1,
                other => panic!("{topic}: {other:?}"),
            }
        }
        found
    }

    /// The offset that the consumer group has committed for a partition.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let consumer: BaseConsumer = self.config().set("group.id", group).create().unwrap();
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(topic, partition);
        let committed = consumer.committed_offsets(wanted, Duration::from_secs(10));
        match committed.unwrap().elements()[0].offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// One transaction with these records, committed or aborted.
    pub fn transaction(&self, topic: &str, records: &[Raw], commit: bool) {
        let producer = self.begin_transaction(topic, records);
        let patience = Duration::from_secs(30);
        match commit {
            true => producer.commit_transaction(patience).unwrap(),
            false => producer.abort_transaction(patience).unwrap(),
        }
    }

    /// An open transaction with these records.
    pub fn begin_transaction(&self, topic: &str, records: &[Raw]) -> BaseProducer {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let producer: BaseProducer = self
            .config()
            .set("transactional.id", format!("{topic}-{count}"))
            .create()
            .unwrap();
        let patience = Duration::from_secs(30);
        // The coordinator may still be loading its topic.
        let until = Instant::now() + patience;
        while let Err(error) = producer.init_transactions(patience) {
            assert!(Instant::now() < until, "{error}");
        }
        producer.begin_transaction().unwrap();
        for record in records {
            let mut out = BaseRecord::<[u8], [u8]>::to(topic);
            if let Some(partition) = record.partition {
                out = out.partition(partition);
            }
            out = out.payload(record.value.as_deref().unwrap_or_default());
            producer.send(out).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(patience).unwrap();
        producer
    }

    /// A foreign producer in another language, which reads events from a pipe.
    pub fn client(&self, client: &str, topic: &str, options: &[&str]) -> Child {
        let file = root().join("tests/clients").join(client);
        Command::new(run())
            .arg(file)
            .args([&self.bootstrap, topic])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Sends lines with a foreign client; returns `id partition:offset` of each.
    #[track_caller]
    pub fn publish_by(
        &self,
        client: &str,
        topic: &str,
        options: &[&str],
        lines: &[String],
    ) -> Vec<(String, String)> {
        let mut child = self.client(client, topic, options);
        let mut stdin = child.stdin.take().unwrap();
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let writer = std::thread::spawn(move || {
            stdin.write_all(text.as_bytes()).unwrap();
        });
        let output = check(child.wait_with_output().unwrap());
        writer.join().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let sent = acknowledged(&text);
        assert_eq!(sent.len(), lines.len(), "{client}: each is acknowledged");
        sent
    }
}

/// The output of a foreign client: `id partition:offset`.
pub fn acknowledged(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (id, at) = line.rsplit_once(' ').unwrap();
        (id.to_owned(), at.to_owned())
    };
    text.lines().map(pair).collect()
}

/// A token that names these positions of a log.
pub fn token(log: &str, positions: &[(String, String)]) -> String {
    let mut last = std::collections::BTreeMap::<u32, u64>::new();
    for (_, at) in positions {
        let (partition, offset) = at.split_once(':').unwrap();
        let (partition, offset) = (partition.parse().unwrap(), offset.parse().unwrap());
        let held = last.entry(partition).or_insert(offset);
        *held = offset.max(*held);
    }
    let parts: Vec<_> = last.iter().map(|(p, o)| format!("{p}:{o}")).collect();
    format!("{log};{}", parts.join(","))
}

impl Drop for Broker {
    fn drop(&mut self) {
        match &self.how {
            How::Given => {}
            // Its folder vanishes with it.
            How::Own { .. } => drop(self.script(&["kill"])),
            How::Container { name } => {
                let _ = Command::new("docker").args(["kill", name]).output();
            }
        }
    }
}

fn engine_runs() -> bool {
    let asked = Command::new("docker").args(["info"]).output();
    asked.is_ok_and(|output| output.status.success())
}

/// Two adjacent unused ports, below those that the kernel assigns to clients. Otherwise a client of
/// a broker that is down could get its own target as source port, connect to itself and keep the
/// port.
pub fn free_ports() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Separate for each process, so that two test programs do not use the same ports.
    let begin = (std::process::id() % u32::from(COUNT / 20)) as u16 * 20;
    loop {
        let step = NEXT.fetch_add(2, Ordering::Relaxed) as u16;
        let port = FIRST + (begin + step) % COUNT;
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + 1) {
            return port;
        }
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(future)
}

#[track_caller]
fn check(output: Output) -> Output {
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
