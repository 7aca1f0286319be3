//! Settings from all sources, the messages for wrong ones, and the sample.

use super::*;
use crate::config::layers::environment;
use crate::config::table::AppliedLayers;
use std::fs;
use tempfile::TempDir;

/// A start with this file, these variables and flags. Problems name the file `F`.
fn load(toml: &str, env: &[(&str, &str)], overrides: Overrides) -> Result<Config, String> {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("opledger.toml");
    fs::write(&path, toml).expect("written");
    Config::load(Some(&path), variables(env), overrides)
        .map_err(|error| error.to_string().replace(&path.display().to_string(), "F"))
}

fn variables(env: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let pairs: Vec<_> = env
        .iter()
        .map(|(n, v)| (n.to_string(), v.to_string()))
        .collect();
    pairs.into_iter()
}

fn from_file(toml: &str) -> Result<Config, String> {
    load(toml, &[], Overrides::default())
}

fn from_env(env: &[(&str, &str)]) -> Result<Config, String> {
    load("", env, Overrides::default())
}

/// The one problem that there is.
fn problem(outcome: Result<Config, String>) -> String {
    let text = outcome.expect_err("a problem");
    let one = text.strip_prefix("the configuration has 1 problem\n  ");
    one.unwrap_or_else(|| panic!("not one problem: {text}"))
        .to_owned()
}

const SAMPLE: &str = include_str!("../../config.sample.toml");

#[test]
fn the_sample_says_what_the_defaults_are() {
    assert_eq!(from_file(SAMPLE), Ok(Config::default()), "all of it is off");

    let setting = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line != "#";
    let lines = SAMPLE.lines().map(|line| {
        line.strip_prefix('#')
            .filter(|_| setting(line))
            .unwrap_or(line)
    });
    let on: String = lines.map(|line| format!("{line}\n")).collect();
    let mut config = from_file(&on).expect("a configuration");
    let listed: Vec<_> = std::mem::take(&mut config.sources).into_keys().collect();
    assert_eq!(config, Config::default());

    let mut defaults = Config::default();
    let mut keys = defaults.table().keys().settings;
    keys.sort();
    assert_eq!(listed, keys, "the sample lists every setting");
}

#[test]
fn an_empty_configuration_is_the_defaults() {
    let config = Config::load(None, variables(&[]), Overrides::default());
    assert_eq!(config, Ok(Config::default()));
}

#[test]
fn later_layers_win_and_the_source_is_known() {
    let toml =
        "data = 'a'\n[server]\nlisten = '1.1.1.1:1'\nmax_wait = '20s'\n[log]\npartitions = 8\n";
    let env = [
        ("OPLEDGER_DATA", "b"),
        ("OPLEDGER_SERVER__LISTEN", "2.2.2.2:2"),
        ("OPLEDGER_LOG__PARTITIONS", "16"),
    ];
    let flags = Overrides {
        data: None,
        listen: Some("3.3.3.3:3".into()),
        ..Overrides::default()
    };
    let config = load(toml, &env, flags).expect("a configuration");
    assert_eq!(config.server.max_wait, Duration::from_secs(20));
    assert_eq!(config.data, PathBuf::from("b"));
    assert_eq!(config.log.partitions, 16);
    assert_eq!(config.server.listen, SocketAddr::from(([3, 3, 3, 3], 3)));

    let source = |key: &str| config.sources.get(key).map(SettingSource::to_string);
    assert!(
        source("server.max_wait")
            .expect("given")
            .ends_with("opledger.toml line 4")
    );
    assert_eq!(source("data").as_deref(), Some("variable OPLEDGER_DATA"));
    assert_eq!(source("server.listen").as_deref(), Some("flag --listen"));
    assert_eq!(source("server.max_body"), None);
}

/// Every kind of setting, given each way, against what it is read as.
#[test]
fn values_are_read_as_their_kind() {
    let config = from_file(
        "[server]\nmax_body = 1_048_576\nmax_headers = '65536'\nmax_buffered = '1GiB'\n\
         unknown_query = 'ignore'\nlisten = '[::1]:80'\nshutdown_grace = '0s'\n\
         [projector]\nhot_cache = 0\nmax_lag = 0x10\n[document]\ntime_offset = '-09:30'\n\
         time_separator = ''\n[events]\nclock_ahead = '250ms'\nmax_size = '512KiB'\n\
         [telemetry]\nlog = 'warn,opledger::http=debug'\nformat = 'json'\n",
    )
    .expect("a configuration");
    assert_eq!(config.server.max_body, 1 << 20);
    assert_eq!(config.server.max_headers, 64 << 10);
    assert_eq!(config.server.max_buffered, 1 << 30);
    assert_eq!(config.server.unknown_query, UnknownQuery::Ignore);
    assert_eq!(config.server.listen.to_string(), "[::1]:80");
    assert_eq!(config.server.shutdown_grace, Duration::ZERO);
    assert_eq!(config.projector.hot_cache, 0);
    assert_eq!(config.projector.max_lag, 16);
    assert_eq!(config.document.time_offset, -(9 * 3600 + 30 * 60));
    assert_eq!(config.document.time_separator, "");
    assert_eq!(config.events.clock_ahead, Duration::from_millis(250));
    assert_eq!(config.telemetry.log, "warn,opledger::http=debug");
    assert_eq!(config.telemetry.format, LogFormat::Json);

    let config = from_env(&[
        ("OPLEDGER_SERVER__MAX_BODY", "16777216"),
        ("OPLEDGER_SERVER__MAX_WAIT", "2m"),
        ("OPLEDGER_DOCUMENT__TIME_SEPARATOR", "_"),
        (
            "OPLEDGER_NOTIFICATIONS__ALLOW",
            "10.1.0.0/16, 127.0.0.1 ,fd00::/8",
        ),
    ])
    .expect("a configuration");
    assert_eq!(config.server.max_body, 16 << 20);
    assert_eq!(config.server.max_wait, Duration::from_secs(120));
    assert_eq!(config.document.time_separator, "_");
    let networks = config.notifications.allow.iter();
    let networks: Vec<_> = networks.map(ToString::to_string).collect();
    assert_eq!(networks, ["10.1.0.0/16", "127.0.0.1/32", "fd00::/8"]);
}

/// Each case: a setting, a wrong value, and the expected message.
#[test]
fn wrong_values_are_reported_with_a_remedy() {
    let bytes = "give a number of bytes from 1KiB to 4GiB, such as \"4MiB\"";
    let wait = "give a duration from 0ms to 1h, such as \"250ms\" or \"5s\"";
    let offset = "give a sign, hours (to 23) and minutes (to 59), such as \"+09:00\"";
    let separator = "give one character, such as \" \", \"_\" or \"T\", or none";
    let networks = "give such as \"10.1.0.0/16, 192.168.7.5, fd00::/8\", or \"\" for none";
    let partitions = "give a whole number from 1 to 128";
    let units = "known are B, KiB, MiB, GiB";
    let cases = [
        ("server.max_body", "'4MB'", format!("= \"4MB\" has an unknown unit ({units}); {bytes}")),
        ("server.max_body", "'lots'", format!("= \"lots\" does not start with a whole number; {bytes}")),
        ("server.max_body", "'99999999999GiB'", format!("= \"99999999999GiB\" is too large to count; {bytes}")),
        ("server.max_body", "5", format!("= 5 is out of range; {bytes}")),
        ("server.max_body", "-5", format!("= -5 is out of range; {bytes}")),
        ("server.max_body", "1.5", format!("is a float, not a string; {bytes}")),
        ("server.max_wait", "5", format!("= 5 has no unit; {wait}")),
        ("server.max_wait", "'5'", format!("= \"5\" has no unit (one of ms, s, m, h); {wait}")),
        ("server.max_wait", "'1.5s'", format!("= \"1.5s\" has an unknown unit (known are ms, s, m, h); {wait}")),
        ("server.max_wait", "'2h'", format!("= \"2h\" is out of range; {wait}")),
        ("log.partitions", "0", format!("= 0 is out of range; {partitions}")),
        ("log.partitions", "129", format!("= 129 is out of range; {partitions}")),
        ("log.partitions", "4294967300", format!("= 4294967300 is out of range; {partitions}")),
        ("log.partitions", "99999999999999999999", format!("is an integer beyond 64 bits, not an integer; {partitions}")),
        ("log.partitions", "'4'", format!("= \"4\" is a string, not an integer; {partitions}")),
        ("log.partitions", "true", format!("= true is a boolean, not an integer; {partitions}")),
        ("log.partitions", "{ a = 1 }", format!("is a table, not an integer; {partitions}")),
        ("data", "''", "= \"\" is empty; give the path of a folder".into()),
        ("data", "[]", "is an array, not a string; give the path of a folder".into()),
        ("server.listen", "'localhost'", "= \"localhost\" is not an IP address with a port; give both, such as \"127.0.0.1:8470\" or \"[::]:8470\"".into()),
        ("server.unknown_query", "'drop'", "= \"drop\" is not one of the choices; give \"reject\" or \"ignore\"".into()),
        ("document.time_separator", "'--'", format!("= \"--\" is longer than one character; {separator}")),
        ("document.time_separator", "'\"'", format!("= '\"' would need an escape in JSON; {separator}")),
        (
            "document.time_separator",
            "\"\\t\"",
            format!("= \"\\t\" would need an escape in JSON; {separator}"),
        ),
        ("notifications.allow", "'10.0.0.0/8,here'", format!("= \"10.0.0.0/8,here\" has an entry that is not a network; {networks}")),
        ("notifications.allow", "'10.0.0.1/8'", format!("= \"10.0.0.1/8\" has a network with bits after its prefix; {networks}")),
        ("document.time_offset", "'9:00'", format!("= \"9:00\" is not an offset from UTC; {offset}")),
        ("document.time_offset", "'+24:00'", format!("= \"+24:00\" is not an offset from UTC; {offset}")),
        ("telemetry.log", "'a=b=c'", "= \"a=b=c\" is not a filter; give a level (off, error, warn, info, debug, trace) or directives such as \"info,opledger::http=debug\"".into()),
    ];
    for (key, value, expected) in cases {
        let text = problem(from_file(&format!("{key} = {value}")));
        assert_eq!(text, format!("F line 1: {key} {expected}"));
    }
}

#[test]
fn variables_have_no_types_but_must_look_right() {
    let count = |text| problem(from_env(&[("OPLEDGER_SERVER__MAX_STREAMS", text)]));
    for wrong in ["+4", "4.0", "four"] {
        assert!(count(wrong).contains("is not a whole number; give a whole number from 1"));
    }
    assert!(count("99999999999999999999").contains("is out of range"));
}

#[test]
fn all_problems_are_reported_at_once() {
    let toml = "dta = 'x'\n[server]\nlisten = 80\nmax_bdy = '1MiB'\n[sevrer]\na = 1\n\
                [log]\nmax_lag = 3\n[nowhere.at.all]\n";
    let env = [
        ("OPLEDGER_SERVER_LISTEN", "1.1.1.1:1"),
        ("OPLEDGER_LOG__PARTITIONS", "5000"),
        ("OPLEDGER_TELEMETRY__FORMT_FILE", "/nowhere"),
        ("OPLEDGER_WHAT__EVER", "1"),
    ];
    let flags = Overrides {
        data: Some(String::new()),
        listen: Some("here".into()),
        ..Overrides::default()
    };
    let expected = "\
the configuration has 12 problems
  F line 1: dta is not a setting; the nearest is data
  F line 3: server.listen = 80 is an integer, not a string; give both, such as \"127.0.0.1:8470\" or \"[::]:8470\"
  F line 4: server.max_bdy is not a setting; the nearest is server.max_body
  F line 5: sevrer is not a section; the nearest is [server]
  F line 8: log.max_lag is not a setting; the nearest is projector.max_lag
  F line 9: nowhere is not a section; remove it (the sample file lists all settings)
  variable OPLEDGER_LOG__PARTITIONS: log.partitions = \"5000\" is out of range; give a whole number from 1 to 128
  variable OPLEDGER_SERVER_LISTEN: server_listen is not a setting; the nearest is OPLEDGER_SERVER__LISTEN
  variable OPLEDGER_TELEMETRY__FORMT_FILE: telemetry.formt is not a setting; the nearest is OPLEDGER_TELEMETRY__FORMAT_FILE
  variable OPLEDGER_WHAT__EVER: what.ever is not a setting; remove it (the sample file lists all settings)
  flag --data: data = \"\" is empty; give the path of a folder
  flag --listen: server.listen = \"here\" is not an IP address with a port; give both, such as \"127.0.0.1:8470\" or \"[::]:8470\"";
    assert_eq!(load(toml, &env, flags).expect_err("problems"), expected);
}

#[test]
fn a_wrong_value_is_reported_even_if_a_later_one_wins() {
    let outcome = load(
        "log.partitions = 0",
        &[("OPLEDGER_LOG__PARTITIONS", "2")],
        Overrides::default(),
    );
    assert!(problem(outcome).starts_with("F line 1: log.partitions = 0"));
}

#[test]
fn a_section_is_not_a_setting() {
    let text = problem(from_file("server = '127.0.0.1:80'"));
    assert_eq!(
        text,
        "F line 1: server is a section; put its settings under [server]"
    );
    let text = problem(from_file("[[log]]\npartitions = 1"));
    assert_eq!(
        text,
        "F line 1: log is a section; put its settings under [log]"
    );
}

#[test]
fn contradicting_settings_are_reported_with_both_sources() {
    let text = problem(from_env(&[("OPLEDGER_SERVER__MAX_BODY", "512MiB")]));
    assert_eq!(
        text,
        "variable OPLEDGER_SERVER__MAX_BODY: server.max_body = \"512MiB\" is more than \
         server.max_buffered = \"256MiB\" (default); lower it, or raise server.max_buffered"
    );
    let text = problem(from_file("[server]\nmax_body = '1MiB'"));
    assert!(text.starts_with(
        "default: events.max_size = \"4MiB\" is more than server.max_body = \"1MiB\" (F line 2)"
    ));
    let text = problem(from_file("[server]\nmax_wait = '4s'"));
    assert!(text.starts_with(
        "default: server.default_wait = \"5s\" is more than server.max_wait = \"4s\""
    ));
    assert!(from_file("[server]\nmax_body = '4MiB'\nmax_wait = '5s'").is_ok());
    // Not compared with the default of a setting that could not be read.
    let text = problem(from_file(
        "[server]\nmax_body = '1GiB'\nmax_buffered = '1GB'",
    ));
    assert!(text.starts_with("F line 3: server.max_buffered"));
    let body = [("OPLEDGER_SERVER__MAX_BODY", "1GiB")];
    let text = problem(load("max_buffered = ", &body, Overrides::default()));
    assert!(text.starts_with("F line 1 is not TOML"));
}

/// An unfinished line may contain a secret, so its text must not appear in a log.
#[test]
fn invalid_toml_is_reported_by_line_without_its_text() {
    let text = from_file("data = 'x'\npassword = \"hunter2\nlog = = 1\n").expect_err("a problem");
    assert!(text.contains("F line 2 is not TOML: "), "{text}");
    assert!(text.contains("F line 3 is not TOML: "), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let text = from_file("data = 'x'\ndata = 'y'\n").expect_err("a problem");
    assert!(
        text.contains("F line 2 is not TOML: duplicate key"),
        "{text}"
    );
}

#[test]
fn a_missing_file_is_a_configuration_problem() {
    let env = variables(&[("OPLEDGER_LOG__PARTITIONS", "0")]);
    let error = Config::load(Some(Path::new("/nowhere.toml")), env, Overrides::default());
    let error = error.expect_err("problems");
    assert_eq!(error.problems.len(), 2);
    assert!(
        error.problems[0]
            .to_string()
            .starts_with("/nowhere.toml cannot be read: ")
    );
}

#[test]
fn variables_of_other_programs_are_ignored() {
    let links = [
        ("OPLEDGER_CONFIG", "/etc/opledger.toml"),
        ("OPLEDGER_URL", "http://127.0.0.1:8470"),
        ("OPLEDGER_PORT", "tcp://10.0.0.1:80"),
        ("OPLEDGER_SERVICE_HOST", "10.0.0.1"),
        ("OPLEDGER_SERVICE_PORT", "80"),
        ("OPLEDGER_SERVICE_PORT_HTTP", "80"),
        ("OPLEDGER_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("OPLEDGER_MY_PORT_UI_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("PATH", "/bin"),
        ("OPLEDGERS__X", "1"),
    ];
    assert_eq!(from_env(&links), Ok(Config::default()));
    let services = ["OPLEDGER_SERVER__SERVICE_PORT", "OPLEDGER_EXPORT__PORT"];
    for typed in services {
        assert!(problem(from_env(&[(typed, "80")])).contains("is not a setting"));
    }
}

#[test]
fn an_empty_variable_counts_as_not_given() {
    let mut config = Config::default();
    let keys: Vec<_> = config.table().keys().settings;
    let mut names: Vec<_> = keys
        .iter()
        .map(|key| format!("OPLEDGER_{}", key.replace('.', "__").to_uppercase()))
        .collect();
    let files: Vec<_> = names.iter().map(|name| format!("{name}_FILE")).collect();
    names.extend(files);
    names.extend(
        [
            "OPLEDGER_CONFIG",
            "OPLEDGER_URL",
            "OPLEDGER_",
            "OPLEDGER_DTAA",
        ]
        .map(str::to_owned),
    );
    names.push("OPLEDGER_KAFKA__OPTIONS__SASL__PASSWORD".into());
    let env: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    assert_eq!(from_env(&env), Ok(Config::default()));
}

#[test]
fn variables_that_are_not_settings_are_ignored_and_named() {
    let others = [
        "OPLEDGER_",
        "OPLEDGER_BIN",
        "OPLEDGER_HOST",
        "OPLEDGER_IMAGE",
        "OPLEDGER_KAFKA",
        "OPLEDGER_NAME",
        "OPLEDGER_PATH",
        "OPLEDGER_PORT",
        "OPLEDGER_SEED",
        "OPLEDGER_VERSION",
    ];
    let config = from_env(&others.map(|name| (name, "x"))).expect("a configuration");
    assert_eq!(config.ignored, others);
}

#[test]
fn variables_that_look_like_a_misspelt_setting_are_problems() {
    for (typed, meant) in [
        ("DTAA", "DATA"),
        ("DATA_DIR", "DATA"),
        ("LISTEN", "SERVER__LISTEN"),
        ("SERVER_LISTEN", "SERVER__LISTEN"),
        ("SERVER__LISTN", "SERVER__LISTEN"),
        ("KAFKA_BOOTSTRAP", "KAFKA__BOOTSTRAP"),
        ("TOPIC", "KAFKA__TOPIC"),
        ("LOG_PARTITIONS_FILE", "LOG__PARTITIONS_FILE"),
        ("KAKFA__TOPIC", "KAFKA__TOPIC"),
    ] {
        let text = problem(from_env(&[(&format!("OPLEDGER_{typed}"), "x")]));
        let nearest = format!("is not a setting; the nearest is OPLEDGER_{meant}");
        assert!(text.ends_with(&nearest), "{typed}: {text}");
    }
}

#[test]
fn a_variable_may_name_a_file_with_the_value() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("value");
    let at = path.to_str().expect("UTF-8");
    for (content, value) in [
        ("/d", "/d"),
        ("/d\n", "/d"),
        ("/d\r\n", "/d"),
        ("/d\n\n", "/d\n"),
    ] {
        fs::write(&path, content).expect("written");
        let config = from_env(&[("OPLEDGER_DATA_FILE", at)]).expect("a configuration");
        assert_eq!(config.data, PathBuf::from(value));
        assert_eq!(
            config.sources["data"].to_string(),
            "variable OPLEDGER_DATA_FILE"
        );
    }
    let both = [("OPLEDGER_DATA", "/e"), ("OPLEDGER_DATA_FILE", at)];
    assert_eq!(
        problem(from_env(&both)),
        "variable OPLEDGER_DATA_FILE: data is given twice, also by variable OPLEDGER_DATA; keep one of them"
    );
    // Neither the file's content nor what might be a secret in the place of its path.
    fs::write(&path, "hunter2").expect("written");
    let text = problem(from_env(&[("OPLEDGER_LOG__PARTITIONS_FILE", at)]));
    assert!(text.contains("= ******** is not a whole number"), "{text}");
    let text = problem(from_env(&[("OPLEDGER_DATA_FILE", "hunter2")]));
    assert!(
        text.contains("is in a file that cannot be read") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn bytes_that_are_not_utf8_are_reported() {
    let text = problem(from_env(&[("OPLEDGER_DATA", "/d\u{fffd}ta")]));
    assert_eq!(
        text,
        "variable OPLEDGER_DATA: data is not UTF-8; give it in UTF-8"
    );
    assert!(super::variables().count() > 0);
}

#[test]
fn a_shown_configuration_can_be_loaded_and_names_its_sources() {
    let env = [
        ("OPLEDGER_TELEMETRY__FORMAT", "json"),
        ("OPLEDGER_DATA", "C:\\\"d\"\n\t\u{1}\u{7f}ü\u{202e}"),
    ];
    let mut config = load("log.partitions = 7", &env, Overrides::default()).expect("right");
    let shown = config.show();
    assert!(shown.contains(
        "\n[server]\nlisten = \"127.0.0.1:8470\"\nhosts = \"\"\nmax_connections = 4096\n"
    ));
    assert!(shown.contains("\nformat = \"json\" # variable OPLEDGER_TELEMETRY__FORMAT\n"));
    assert!(shown.contains("opledger.toml line 1\n"));
    let mut again = from_file(&shown).expect("right");
    assert_eq!(again.sources.len(), again.table().settings.len());
    again.sources.clear();
    config.sources.clear();
    assert_eq!(again, config);
}

/// The mechanism, with a table made for this test: today's settings have no secret and no
/// free-form section.
#[test]
fn secrets_are_masked_and_free_form_sections_keep_any_name() {
    let mut pass = PathBuf::new();
    let mut retries = 0_u32;
    let mut options = Options::default();
    let mut table = SettingsTable {
        settings: vec![
            ("kafka.api_Token", field::folder(&mut pass)),
            ("kafka.secret_count", field::count(&mut retries, 1..=9)),
        ],
        free: vec![("kafka.options", &mut options)],
    };
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("f.toml");
    let toml = "[kafka]\napi_Token = 'hunter2'\nsecret_count = 77\n[kafka.options]\n\
                sasl.password = 'hunter3'\n'linger.ms' = 5\nacks = 'all'\nbad = []\n";
    fs::write(&path, toml).expect("written");
    let env = [
        ("OPLEDGER_KAFKA__OPTIONS__CLIENT__ID", "me"),
        (
            "OPLEDGER_KAFKA__OPTIONS__SSL__KEY__PASSWORD_FILE",
            "/nowhere",
        ),
    ];
    let keys = table.keys();
    let mut given = layers::file(&path, &keys);
    given.extend(environment(variables(&env), &keys));
    let AppliedLayers {
        sources, problems, ..
    } = table.apply(given);

    let at = path.display();
    let mut messages: Vec<_> = problems.iter().map(Problem::to_string).collect();
    messages.sort();
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert_eq!(
        messages[0],
        format!(
            "{at} line 3: kafka.secret_count = ******** is out of range; give a whole number from 1 to 9"
        )
    );
    assert_eq!(
        messages[1],
        format!("{at} line 8: kafka.options.bad is an array, not a string; give a string")
    );
    assert!(messages[2].starts_with("variable OPLEDGER_KAFKA__OPTIONS__SSL__KEY__PASSWORD_FILE: kafka.options.ssl.key.password is in a file"));

    assert_eq!(
        table.show(&sources),
        format!(
            "[kafka]\napi_Token = \"********\" # {at} line 2\nsecret_count = \"********\" # {at} line 3\n\
             \n[kafka.options]\nacks = \"all\" # {at} line 7\n\
             \"client.id\" = \"me\" # variable OPLEDGER_KAFKA__OPTIONS__CLIENT__ID\n\
             \"linger.ms\" = \"5\" # {at} line 6\n\"sasl.password\" = \"********\" # {at} line 5\n"
        )
    );
    drop(table);
    assert_eq!(pass, PathBuf::from("hunter2"));
    assert_eq!(options.0["sasl.password"], "hunter3");
    let debug = format!("{options:?}");
    assert!(
        debug.contains("linger.ms") && !debug.contains("hunter"),
        "{debug}"
    );
}

#[test]
fn secret_names_are_known_in_any_spelling() {
    for name in [
        "sasl.password",
        "Secret",
        "api_TOKEN",
        "key_passphrase",
        "tokens.x",
    ] {
        assert!(is_secret(name));
    }
    assert!(!is_secret("server.listen"));
}

#[test]
fn shown_units_can_be_read_back() {
    use units::{parse_bytes, parse_duration};
    for bytes in [0, 1, 1023, 1024, 1536, 3 << 20, 5 << 30, u64::MAX] {
        assert_eq!(parse_bytes(&show_bytes(bytes)), Ok(bytes));
    }
    for millis in [0, 1, 999, 1000, 1500, 60_000, 90_000, 86_400_000, u64::MAX] {
        let duration = Duration::from_millis(millis);
        assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
    }
    assert_eq!(show_bytes(32 << 20), "32MiB");
    assert_eq!(show_duration(Duration::from_secs(86_400)), "24h");
}
