use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use at_protocol::crypto::AesKey;
use at_protocol::keys::AtKeys;

use atedge_adapters::report::ReportOn;

use super::*;

const CONFIG: &str = r#"schema = 1
[gateway]
atsign = "@plant7gw1"
keys = "file:KEYS"
directory = "directory.example:6400"
namespace = "plant7"
[adapter.shop]
type = "mqtt"
listen = "127.0.0.1:1883"
[adapter.shop.route.env]
topic = "factory/{dev}/env"
device = "{dev}"
stream = "process"
decode = { as = "json" }
pick = { temperature = "/temp" }
[stream.process]
to = ["@plant7ops"]
require = ["receipts"]
batch = { records = 50, bytes = "8KiB", linger = "2s" }
ttl = "36h"
[outbox]
max = "64MiB"
[command."boiler.setpoint"]
allow = ["@ops"]
args = { value = { type = "f64", min = 30, max = 80 } }
do = { publish = { topic = "boiler/set", payload = '{"setpoint":{value}}' } }
expires = "2m"
signed = false
"#;

/// A folder with a key file and a configuration, after `change`.
fn written(folder: &Path, change: impl Fn(String) -> String) -> PathBuf {
    let keys = folder.join("gw.atKeys");
    if !keys.exists() {
        let made = AtKeys::generate(AesKey::from_bytes([1; 32]), AesKey::from_bytes([2; 32]));
        std::fs::write(&keys, &*made.to_json(&"@plant7gw1".parse().unwrap())).unwrap();
        std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let path = folder.join("agent.toml");
    std::fs::write(&path, change(CONFIG.replace("KEYS", &keys.display().to_string()))).unwrap();
    path
}

#[test]
fn what_is_written_reaches_its_part() {
    let folder = tempfile::tempdir().unwrap();
    let Loaded { config, rules, .. } = load(&[written(folder.path(), |text| text)]).unwrap();
    assert_eq!(config.gateway.atsign.to_string(), "@plant7gw1");
    assert_eq!(config.gateway.transport, Transport::Auto);
    assert!(config.gateway.registrars().is_empty());
    let options = config.outbox_options("state".into());
    assert_eq!(options.max_bytes, 64 << 20);
    let day = std::time::Duration::from_secs(24 * 3600);
    let policy = &options.streams[&"process".parse().unwrap()];
    assert_eq!((policy.readers.len(), policy.receipts, policy.ttl), (1, true, day + day / 2));
    let (readers, flow) = &config.send_rules().streams[&"process".parse().unwrap()];
    assert_eq!(readers, &["@plant7ops".parse().unwrap()]);
    assert_eq!(flow.limit, BatchLimit { records: 50, bytes: 8192 });
    assert_eq!((flow.linger, flow.receipts), (std::time::Duration::from_secs(2), true));
    assert_eq!(flow.ttln, day, "servers keep nothing for longer");
    assert!(rules.contains_key(&"boiler.setpoint".parse().unwrap()));
    assert!(!flow.aead);
}

#[test]
fn a_device_may_have_an_atsign_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let table = "[device.boiler]\natsign = \"@boiler07\"\nkeys = \"file:nowhere\"\n[outbox]\ndrain = { rate = \"200KiB/s\" }";
    let Loaded { config, sources, .. } =
        load(&[written(folder.path(), |text| text.replace("[outbox]", table))]).unwrap();
    assert!(config.outbox_options("state".into()).apart.contains(&"boiler".parse().unwrap()));
    assert_eq!(config.send_rules().drain.rate, Some(100 << 10), "together they keep to the rate");
    // Whoever checks is told; the agent starts all the same.
    let complaints = config.check_device_keys(&sources);
    assert!(complaints[0].to_string().contains(":23:"), "{}", complaints[0]);
    assert!(complaints[0].to_string().contains("nowhere"), "{}", complaints[0]);
}

#[test]
fn each_mistake_is_shown_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    for (from, to, line, says) in [
        ("schema = 1", "schema = 2", 1, "schema 2 is not known"),
        ("namespace = \"plant7\"", "namespace = \"Plant7\"", 6, "namespace has 1 to 32 characters"),
        (
            "namespace = \"plant7\"",
            "namespace = \"plant7\"\nca = \"/no/ca.pem\"",
            7,
            "cannot read /no/ca.pem",
        ),
        ("gw.atKeys", "nobody.atKeys", 4, "nobody.atKeys"),
        ("stream = \"process\"", "stream = \"proces\"", 13, "nobody reads the stream proces"),
        ("device = \"{dev}\"", "device = \"{deb}\"", 10, "{deb}"),
        ("to = [\"@plant7ops\"]", "to = []", 17, "a stream needs a reader"),
        ("records = 50", "records = 0", 19, "a batch of nothing"),
        ("8KiB", "8MiB", 19, "too large a batch"),
        ("[\"receipts\"]", "[\"aaed\"]", 18, "aaed"),
        ("max = \"64MiB\"", "max = 64", 22, "max"),
        ("[outbox]", "[outbox]\nreserved = 1", 22, "unknown setting `reserved`"),
        (
            "[outbox]",
            "[outbox]\nreserve = { 11 = \"1MiB\" }",
            22,
            "expected a priority from 0 to 9, found 11",
        ),
        ("[outbox]", "[outbox]\nreserve = { 0 = \"64MiB\" }", 22, "nothing is left"),
        ("[outbox]", "[outbox]\nmin_free = \"120%\"", 22, "expected 0% to 90%"),
        ("[outbox]", "[outbox]\nfull = [\"drop\"]", 22, "drop-oldest"),
        ("[outbox]", "[outbox]\ndrain = { rate = \"200KiB\" }", 22, "expected bytes a second"),
        ("[outbox]", "[outbox]\ndrain = { live = 1.5 }", 22, "no share"),
        ("[outbox]", "[outbox]\nthin = { with = [] }", 22, "nothing of a number"),
        ("8KiB", "8KiB\", linger = \"1s\" }\npriority = 10\n#", 20, "a priority is 0"),
        ("[outbox]", "[outbux]", 21, "unknown setting `outbux`"),
        ("[outbox]", "[device.a]\natsign = \"@a\"\n[outbox]", 21, "keys"),
        (
            "[outbox]",
            "[device.a]\natsign = \"@plant7gw1\"\nkeys = \"file:a\"\n[outbox]",
            22,
            "@plant7gw1 is the gateway already",
        ),
        ("[outbox]", "[metrics]\nlisten = \"0.0.0.0:1\"\n[outbox]", 22, "expected 127.0.0.1"),
        ("signed = false", "signed = true", 28, "signed commands are not available yet"),
        ("{value}", "{valve}", 26, "there is no argument `valve`"),
    ] {
        let path = written(folder.path(), |text| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        let error = load(&[path]).err().unwrap_or_else(|| panic!("{to} was taken")).to_string();
        assert!(error.contains(says), "{to}:\n{error}");
        assert!(error.contains(&format!("agent.toml:{line}:")), "{to} should be in line {line}:\n{error}");
        assert!(error.contains('^'), "{to}:\n{error}");
    }
}

/// Who has three mistakes learns of three.
#[test]
fn all_mistakes_are_shown_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), |text| {
        text.replace("device = \"{dev}\"", "device = \"{deb}\"")
            .replace("[\"@plant7ops\"]", "[]")
            .replace("records = 50", "records = 0")
            .replace("{value}", "{valve}")
            .replace("signed = false", "signed = true")
    });
    let error = load(&[path]).err().unwrap();
    let lines: Vec<_> = error.problems().map(|told| told.line).collect();
    assert_eq!(lines, [Some(10), Some(17), Some(19), Some(28)], "{error}");
    let text = error.to_string();
    assert!(text.ends_with("4 errors. The running configuration is unchanged."), "{text}");
    let first = error.problems().next().unwrap();
    assert!(first.file.unwrap().ends_with("agent.toml") && first.error.contains("{deb}"), "{first:?}");
}

#[test]
fn adapters_take_over_what_they_leave_out() {
    let folder = tempfile::tempdir().unwrap();
    let with = |defaults: &str, report: &str| {
        let path = written(folder.path(), |text| {
            let text = text
                .replace("listen = \"127.0.0.1:1883\"", &format!("listen = \"127.0.0.1:1883\"\n{report}"));
            format!("{text}\n[defaults]\n{defaults}\n")
        });
        load(&[path])
    };
    let defaults = "report = { on = \"change\", deadband = 0.5, heartbeat = \"5m\" }";
    let loaded = with(defaults, "report = { deadband = 2.0 }").ok().unwrap();
    let report = loaded.config.adapter["shop"].report();
    assert_eq!((report.on, report.deadband), (Some(ReportOn::Change), Some(2.0)));
    assert_eq!(report.heartbeat.map(|heartbeat| heartbeat.to_string()).as_deref(), Some("5m"));
    for (defaults, report) in
        [("report = { deadband = -1.0 }", ""), ("interval = \"1s\"", "report = { deadband = -1.0 }")]
    {
        let error = with(defaults, report).err().unwrap().to_string();
        assert!(error.contains("expected a number from 0") && error.contains("deadband = -1.0"), "{error}");
    }
}

#[test]
fn words_that_mean_something_in_keys_name_no_stream() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), |text| {
        text.replace("stream.process", "stream.receipt")
            .replace("stream = \"process\"", "stream = \"receipt\"")
    });
    let error = load(&[path]).err().unwrap().to_string();
    assert!(error.contains("no stream can be called receipt"), "{error}");
}

#[test]
fn the_way_to_the_server_is_chosen_by_word() {
    let folder = tempfile::tempdir().unwrap();
    for (word, transport) in [("quic", Some(Transport::Quic)), ("tls", Some(Transport::Tls)), ("udp", None)] {
        let way = format!("namespace = \"plant7\"\ntransport = \"{word}\"");
        let loaded = load(&[written(folder.path(), |text| text.replace("namespace = \"plant7\"", &way))]);
        assert_eq!(loaded.ok().map(|loaded| loaded.config.gateway.transport), transport);
    }
}

#[test]
fn the_sample_is_understood_with_all_that_it_proposes() {
    let sample = include_str!("../../../packaging/agent.toml");
    let as_it_is: AgentConfig = toml::from_str(sample).unwrap();
    assert_eq!(as_it_is.gateway.transport, Transport::Auto);
    let is_proposed = |line: &str| line.starts_with("# [") || line.contains(" = ");
    let proposed: String = sample
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(proposal) if is_proposed(line) && !line.contains("`") => format!("{proposal}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let key = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let whole: AgentConfig =
        toml::from_str(&proposed.replace("ed25519:…", &format!("ed25519:{key}"))).unwrap();
    assert!(whole.gateway.registrar.is_some() && whole.gateway.ca.is_some());
    assert!(whole.metrics.is_some_and(|metrics| metrics.listen.ip().is_loopback()));
    assert_eq!((whole.adapter.len(), whole.command.len()), (4, 2));
}
