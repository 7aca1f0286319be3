//! The tour of the README and of the chapters that continue it. Each command runs in a clean
//! folder, and its output is compared with the documented output. Only [`normal`] lists what
//! differs between runs.

use crate::support::broker::free_ports;
use crate::support::root;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The limit for one command. Some commands wait until the ledger notices that a broker is
/// down.
const LIMIT: Duration = Duration::from_secs(60);
const MARK: &str = "-- the command has ended --";

/// A command of a document, and its documented output.
#[derive(Debug)]
struct Step {
    command: String,
    output: Vec<String>,
    /// `README.md:57`
    place: String,
}

/// The commands of a document, in order. Blocks that do not begin with a command are skipped.
fn steps(document: &str) -> VecDeque<Step> {
    let mut steps: VecDeque<Step> = VecDeque::new();
    let mut is_code = false;
    let mut is_shell = false;
    let mut is_first = false;
    let mut here_document: Option<String> = None;
    for (at, line) in read(document).lines().enumerate() {
        if line.starts_with("```") {
            is_code = !is_code;
            is_first = is_code;
            continue;
        }
        if is_first {
            is_shell = line.starts_with("$ ");
        }
        is_first = false;
        if !(is_code && is_shell) {
            continue;
        }
        if let Some(end) = &here_document {
            let step = steps.back_mut().expect("its command");
            step.command.push_str(&format!("\n{line}"));
            if line == end {
                here_document = None;
            }
        } else if let Some(command) = line.strip_prefix("$ ") {
            here_document = command
                .split_once("<<'")
                .and_then(|(_, rest)| Some(rest.split_once('\'')?.0.to_owned()));
            steps.push_back(Step {
                command: command.to_owned(),
                output: Vec::new(),
                place: format!("{document}:{}", at + 1),
            });
        } else {
            let step = steps.back_mut().expect("a command before its output");
            step.output.push(line.to_owned());
        }
    }
    assert!(!steps.is_empty(), "{document} has no command");
    steps
}

/// A program with both outputs in one, as on a terminal, read line by line.
struct Terminal {
    child: Child,
    printed: Receiver<String>,
}

impl Terminal {
    fn run(command: &mut Command) -> Terminal {
        let (reader, writer) = std::io::pipe().unwrap();
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        let child = command.spawn().unwrap();
        // Otherwise this process would keep the pipe open.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let (lines, printed) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines() {
                if lines.send(line.expect("UTF-8")).is_err() {
                    return;
                }
            }
        });
        Terminal { child, printed }
    }

    /// The next line, or `None` after the last one.
    #[track_caller]
    fn line(&self, what: &str) -> Option<String> {
        match self.printed.recv_timeout(LIMIT) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing came for {LIMIT:?}: {what}"),
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have exited already. After this it has.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The two terminals of a new user, in one folder.
struct Tour {
    folder: TempDir,
    shell: Terminal,
    /// The ledger in the other terminal.
    ledger: Option<Terminal>,
    variables: Vec<(&'static str, String)>,
    /// Texts in the documents and what replaces them here: addresses, folders, and the log's
    /// name after it is first printed.
    instead: Vec<(String, String)>,
}

impl Tour {
    /// Replaces the `ports` of the documents with free ones, since those may be in use.
    fn begin(ports: &[u16]) -> Tour {
        let folder = tempfile::tempdir().unwrap();
        let root = root();
        let link = |from: &Path, to: &str| {
            std::os::unix::fs::symlink(from, folder.path().join(to)).unwrap();
        };
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        link(Path::new(env!("CARGO_BIN_EXE_opledger")), "bin/opledger");
        for name in ["demo", "examples", "scripts"] {
            link(&root.join(name), name);
        }
        // `make setup-tests` has installed what the chapter on Kafka asks a new user to
        // install.
        let cache = std::env::var_os("OPLEDGER_CACHE").map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").expect("a home"));
        let cache = cache.unwrap_or_else(|| home().join(".cache/opledger"));
        link(&cache.join("clients/python"), ".venv");
        let mut instead = Vec::new();
        let mut variables = Vec::new();
        for port in ports {
            let free = free_ports();
            instead.push((format!("127.0.0.1:{port}"), format!("127.0.0.1:{free}")));
            instead.push((format!("KAFKA_PORT={port}"), format!("KAFKA_PORT={free}")));
            if *port == LEDGER {
                // The documents use the default addresses of the program.
                variables.push(("OPLEDGER_SERVER__LISTEN", format!("127.0.0.1:{free}")));
                variables.push(("OPLEDGER_URL", format!("http://127.0.0.1:{free}")));
            }
        }
        let kafka = folder.path().join("kafka").display().to_string();
        instead.push(("/tmp/opledger-tour".into(), kafka));
        let mut shell = Command::new("bash");
        shell.args(["--noprofile", "--norc"]).stdin(Stdio::piped());
        shell.current_dir(folder.path()).envs(variables.clone());
        Tour {
            shell: Terminal::run(&mut shell),
            folder,
            ledger: None,
            variables,
            instead,
        }
    }

    fn here(&self, shown: &str) -> String {
        let instead = self.instead.iter();
        instead.fold(shown.to_owned(), |text, (shown, here)| {
            text.replace(shown, here)
        })
    }

    /// The printed text as the documents would show it.
    fn there(&self, printed: &str) -> String {
        let instead = self.instead.iter();
        instead.fold(printed.to_owned(), |text, (shown, here)| {
            text.replace(here, shown)
        })
    }

    fn follow(&mut self, steps: VecDeque<Step>) {
        for step in steps {
            self.take(&step);
        }
    }

    fn take(&mut self, step: &Step) {
        let (command, when) = step
            .command
            .split_once("     # after ")
            .unwrap_or((&step.command, ""));
        match when.split_whitespace().next() {
            Some("kill") => drop(self.ledger.take().expect("a ledger to kill")),
            Some("Ctrl-C") => {
                let mut ledger = self.ledger.take().expect("a ledger to stop");
                ledger.signal(Signal::INT);
                assert!(ledger.child.wait().unwrap().success());
            }
            _ => {}
        }
        if command.starts_with("python3 -m venv ") {
            return;
        }
        if command.contains(" serve ") {
            return self.serve(command, step);
        }
        let until = Instant::now() + LIMIT;
        loop {
            let printed = self.run(&self.here(command));
            self.learn(&step.output, &printed);
            let (expected, found) = self.compared(step, &printed);
            // Repeat a read until it gives the documented output: a ledger needs a moment to
            // notice that its broker is down.
            let is_read = command.starts_with("kcat -C")
                || command.starts_with("curl -s") && !command.contains(" -d ");
            if expected == found || !is_read || Instant::now() > until {
                assert_eq!(found, expected, "{}: {}", step.place, step.command);
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Starts a ledger in the other terminal, and waits until it reports that it serves.
    fn serve(&mut self, command: &str, step: &Step) {
        let mut bash = Command::new("bash");
        let command = self.here(&format!("exec {command}"));
        bash.args(["-c", &command]).current_dir(self.folder.path());
        bash.envs(self.variables.clone());
        let terminal = Terminal::run(&mut bash);
        let mut printed = Vec::new();
        while printed
            .last()
            .is_none_or(|line: &String| !line.contains("opledger serves"))
        {
            let line = terminal.line(&command);
            printed.push(line.unwrap_or_else(|| panic!("it ended: {printed:?}")));
        }
        let (expected, found) = self.compared(step, &printed);
        assert_eq!(found, expected, "{}: {}", step.place, step.command);
        self.ledger = Some(terminal);
    }

    /// Types a command, and waits until it exits.
    fn run(&mut self, command: &str) -> Vec<String> {
        let input = self
            .shell
            .child
            .stdin
            .as_mut()
            .expect("the input of the shell");
        // Keep the status for `echo $?`.
        write!(
            input,
            "{command}\nstatus=$?; printf '\\n{MARK}\\n'; (exit $status)\n"
        )
        .unwrap();
        let mut printed = Vec::new();
        loop {
            let line = self.shell.line(command).expect("the shell runs");
            if line == MARK {
                // Some output does not end with a newline.
                if printed.last().is_some_and(String::is_empty) {
                    printed.pop();
                }
                return printed;
            }
            printed.push(line.trim_end_matches('\r').to_owned());
        }
    }

    /// Takes the log's name from the first output that has it.
    fn learn(&mut self, shown: &[String], printed: &[String]) {
        let log = |line: &String| {
            let (_, rest) = line.split_once("Ledger-Position: ")?;
            Some(rest.split_once(';')?.0.to_owned())
        };
        if let (Some(shown), Some(here)) =
            (shown.iter().find_map(log), printed.iter().find_map(log))
        {
            self.instead.push((shown, here));
        }
    }

    fn compared(&self, step: &Step, printed: &[String]) -> (String, String) {
        let expected = normal(&step.output.join("\n"));
        let found = normal(&self.there(&printed.join("\n")));
        match same_but_for_ellipses(&expected, &found) {
            true => (expected.clone(), expected),
            false => (expected, found),
        }
    }
}

/// Replaces what differs between runs: times after the documents were written, and ids of
/// requests and processes.
fn normal(text: &str) -> String {
    let mut text = text.to_owned();
    for shape in ["0000-00-00T00:00:00.000Z", "00000000 000000"] {
        text = without_moments(&text, shape);
    }
    let words = text.split_inclusive(|c: char| c.is_whitespace());
    let words = words.map(|word| match is_uuid(word.trim_end()) {
        true => word.replace(word.trim_end(), "UUID"),
        false => word.to_owned(),
    });
    let text: String = words.collect();
    // Warnings of librdkafka about kcat's own options.
    let lines = text.lines().filter(|line| !line.starts_with("%4|"));
    let lines = lines.map(|line| {
        if line.starts_with("date: ") {
            return "date: MOMENT".to_owned();
        }
        match line.split_once("kafka-local: pid ") {
            Some((before, rest)) => {
                let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
                format!("{before}kafka-local: pid PID{rest}")
            }
            None => line.trim_end().to_owned(),
        }
    });
    let lines: Vec<String> = lines.collect();
    lines.join("\n").trim_end().to_owned()
}

/// Replaces the times later than the sample operations. The shape has `0` for each digit.
fn without_moments(text: &str, shape: &str) -> String {
    let is_moment = |word: &str| {
        let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
        word >= "2026" && word.chars().map(digits).eq(shape.chars())
    };
    let mut rest = text;
    let mut without = String::new();
    while let Some(first) = rest.chars().next() {
        let word = rest.get(..shape.len()).filter(|word| is_moment(word));
        match word {
            Some(_) => without.push_str("MOMENT"),
            None => without.push(first),
        }
        rest = &rest[word.map_or(first.len_utf8(), str::len)..];
    }
    without
}

fn is_uuid(word: &str) -> bool {
    let parts: Vec<usize> = word.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && word.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

/// `…` in a document stands for omitted text.
fn same_but_for_ellipses(shown: &str, found: &str) -> bool {
    let mut parts = shown.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = found.strip_prefix(first) else {
        return false;
    };
    let mut last = first;
    for part in parts {
        last = part;
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty() || (shown.contains('…') && found.ends_with(last))
}

impl Drop for Tour {
    fn drop(&mut self) {
        self.ledger = None;
        if self.folder.path().join("kafka").exists() {
            let input = self
                .shell
                .child
                .stdin
                .as_mut()
                .expect("the input of the shell");
            let _ = writeln!(input, "scripts/kafka/kafka-local kill; exit");
            let _ = self.shell.child.wait();
        }
    }
}

const LEDGER: u16 = 8470;
const KAFKA: u16 = 9092;

/// In this order, in one folder.
const CHAPTERS: [&str; 4] = ["README.md", "docs/tour.md", "docs/kafka.md", "docs/http.md"];

fn read(document: &str) -> String {
    std::fs::read_to_string(root().join(document)).unwrap()
}

#[test]
fn the_tour_shows_what_a_newcomer_sees() {
    let mut tour = Tour::begin(&[LEDGER, KAFKA]);
    for chapter in CHAPTERS {
        tour.follow(steps(chapter));
    }
}

#[test]
fn every_command_that_a_document_shows_belongs_to_the_tour() {
    let docs = std::fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().display()));
    let documents = docs.filter(|name| name.ends_with(".md"));
    for document in documents.chain(["README.md".to_owned(), "deploy/README.md".to_owned()]) {
        let text = read(&document);
        let shown = text.lines().filter(|line| line.starts_with("$ ")).count();
        let taken = match CHAPTERS.contains(&&*document) {
            true => steps(&document).len(),
            false => 0,
        };
        assert_eq!(
            shown, taken,
            "{document} has commands that the tour never runs"
        );
    }
}
