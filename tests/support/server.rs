//! The built binary as a user runs it, in a data folder of its own, and a client.

use super::deadline::{LATER, SOON, limit, of_test, within};
use super::schemas;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

pub const BATCH: &str = "application/cloudevents-batch+json";
pub const ONE: &str = "application/cloudevents+json";

/// A running ledger; killed when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    pub data: PathBuf,
    client: Client,
    /// How long it may take to reach an expected state.
    patience: Duration,
    _own: Option<TempDir>,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .unwrap_or_else(|| panic!("no {name}: {self:?}"))
            .to_str()
            .unwrap()
    }

    /// The error code, after checking that the body is a valid error response.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> String {
        assert_eq!(
            self.status,
            status,
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        assert!(!self.header("x-request-id").is_empty());
        assert_eq!(self.header("content-type"), "application/json");
        let error = self.json();
        assert_eq!(error["error_code"], code, "{error}");
        assert!(schemas::error_response().is_valid(&error), "{error}");
        error["error_message"].as_str().unwrap().to_owned()
    }
}

/// Settings as environment variables: (`SERVER__MAX_BODY`, `1KiB`).
pub type Settings<'a> = &'a [(&'a str, &'a str)];

impl Server {
    pub fn start() -> Server {
        Server::with(&[])
    }

    pub fn with(settings: Settings) -> Server {
        let own = TempDir::new().unwrap();
        let path = own.path().join("data");
        let mut server = Server::on(&path, settings);
        server._own = Some(own);
        server
    }

    pub fn on(data: &Path, settings: Settings) -> Server {
        let binary = Command::new(env!("CARGO_BIN_EXE_opledger"));
        Server::spawn(binary, data, settings)
    }

    /// Starts again at the address of an earlier ledger.
    pub fn at(data: &Path, address: SocketAddr) -> Server {
        let binary = Command::new(env!("CARGO_BIN_EXE_opledger"));
        Server::spawn_at(binary, data, &[], address)
    }

    /// Runs the binary through another command, such as a tracer.
    pub fn spawn(command: Command, data: &Path, settings: Settings) -> Server {
        Server::spawn_at(command, data, settings, ([127, 0, 0, 1], 0).into())
    }

    /// For a start that may fail: then returns the exit code and the message.
    pub fn try_on(data: &Path, settings: Settings) -> Result<Server, (Option<i32>, String)> {
        Server::try_spawn(Command::new(env!("CARGO_BIN_EXE_opledger")), data, settings)
    }

    pub fn try_spawn(
        mut binary: Command,
        data: &Path,
        settings: Settings,
    ) -> Result<Server, (Option<i32>, String)> {
        binary.stderr(Stdio::piped());
        let mut server = Server::begin(binary, data, settings, ([127, 0, 0, 1], 0).into());
        let mut said = server.child.stderr.take().unwrap();
        if server.address.port() != 0 {
            // The pipe has to be read, or the ledger would block.
            std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
            return Ok(server);
        }
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        Err((server.child.wait().unwrap().code(), text))
    }

    fn spawn_at(command: Command, data: &Path, settings: Settings, listen: SocketAddr) -> Server {
        let server = Server::begin(command, data, settings, listen);
        assert_ne!(server.address.port(), 0, "the ledger did not start");
        server
    }

    /// The port is 0 if the ledger did not report its address.
    fn begin(mut command: Command, data: &Path, settings: Settings, listen: SocketAddr) -> Server {
        command
            .args(["serve", "--listen", &listen.to_string(), "--data"])
            .arg(data);
        command
            .env("OPLEDGER_TELEMETRY__LOG", "warn")
            .env_remove("OPLEDGER_SEED");
        for (name, value) in settings {
            command.env(format!("OPLEDGER_{name}"), value);
        }
        of_test();
        let in_time = limit(LATER, "the first line of a ledger that starts");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        drop(in_time);
        let address = line
            .split("http://")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let address = address.map(|address| address.parse().unwrap());
        let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        Server {
            address,
            client: Client::new(address),
            child,
            data: data.to_owned(),
            // Work on a Kafka cluster takes longer.
            patience: match settings.iter().any(|(name, _)| name.contains("KAFKA")) {
                true => LATER,
                false => SOON,
            },
            _own: None,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.client.get(path, &[])
    }

    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.client.get(path, headers)
    }

    pub fn post(&self, content_type: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.client
            .post("/v1/events", &[("content-type", content_type)], body)
    }

    pub fn post_with(&self, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        self.client.post("/v1/events", headers, body)
    }

    /// As Prometheus reads them.
    pub fn metrics(&self) -> String {
        String::from_utf8(self.get("/metrics").body).unwrap()
    }

    /// Publishes events and returns the token of all of them.
    #[track_caller]
    pub fn publish(&self, events: &[Value]) -> String {
        let answer = self.post(BATCH, serde_json::to_vec(events).unwrap());
        assert_eq!(
            answer.status,
            202,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        answer.header("ledger-position").to_owned()
    }

    /// The document, once the store has reached the token's positions.
    pub fn document(&self, id: &str, token: &str) -> Option<Value> {
        let answer = self.get_with(
            &format!("/v1/operations/{id}"),
            &[("ledger-position", token)],
        );
        match answer.status {
            200 => Some(answer.json()),
            404 => None,
            status => panic!("{status}: {}", String::from_utf8_lossy(&answer.body)),
        }
    }

    #[track_caller]
    pub fn eventually(&self, what: &str, holds: impl Fn(&Server) -> bool) {
        within(self.patience, what, || holds(self).then_some(()));
    }

    /// Like `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Like `kill`: waits until the ledger has exited and returns its status.
    pub fn terminate(mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let _in_time = limit(LATER, "a ledger exits after SIGTERM");
        self.child.wait().unwrap()
    }

    /// Stops the traced ledger, then waits until the tracer has written everything.
    pub fn terminate_tracee(mut self) -> std::process::ExitStatus {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        let tracee = std::fs::read_to_string(children).unwrap();
        let tracee: i32 = tracee.split_whitespace().next().unwrap().parse().unwrap();
        let tracee = rustix::process::Pid::from_raw(tracee).unwrap();
        rustix::process::kill_process(tracee, rustix::process::Signal::TERM).unwrap();
        let _in_time = limit(LATER, "a traced ledger exits after SIGTERM");
        self.child.wait().unwrap()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have exited already. Either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One pool of keep-alive connections to a ledger.
pub struct Client {
    base: String,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Client {
            base: format!("http://{address}"),
            http: reqwest::Client::builder()
                .timeout(match super::soak() {
                    true => Duration::from_secs(600),
                    false => LATER,
                })
                // Shorter than the ledger's timeout for idle connections.
                .pool_idle_timeout(Duration::from_secs(5))
                .build()
                .unwrap(),
            runtime,
        }
    }

    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = self.http.get(format!("{}{path}", self.base));
        self.send(request, headers).unwrap()
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        self.try_post(path, headers, body).unwrap()
    }

    pub fn try_post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> reqwest::Result<Answer> {
        let request = self
            .http
            .post(format!("{}{path}", self.base))
            .body(body.into());
        self.send(request, headers)
    }

    pub fn request(&self, method: &str, path: &str) -> Answer {
        let method = method.parse().unwrap();
        self.send(
            self.http.request(method, format!("{}{path}", self.base)),
            &[],
        )
        .unwrap()
    }

    /// Reads a long response piece by piece; returns its status and length.
    pub fn drain(&self, path: &str, mut piece: impl FnMut(&[u8])) -> (u16, u64) {
        self.runtime.block_on(async {
            let mut answer = self
                .http
                .get(format!("{}{path}", self.base))
                .send()
                .await
                .unwrap();
            let mut length = 0;
            while let Some(bytes) = answer.chunk().await.unwrap() {
                piece(&bytes);
                length += bytes.len() as u64;
            }
            (answer.status().as_u16(), length)
        })
    }

    fn send(
        &self,
        mut request: reqwest::RequestBuilder,
        headers: &[(&str, &str)],
    ) -> reqwest::Result<Answer> {
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.runtime.block_on(async {
            let answer = request.send().await?;
            Ok(Answer {
                status: answer.status().as_u16(),
                headers: answer.headers().clone(),
                body: answer.bytes().await?.to_vec(),
            })
        })
    }
}
