//! Files that change under a running agent's parts.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use at_protocol::crypto::AesKey;
use at_protocol::keys::AtKeys;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::SystemClock;
use crate::outbox::Opened;

/// The configuration with these tables.
fn write(folder: &Path, tables: &str) -> PathBuf {
    let keys = folder.join("gw.atKeys");
    if !keys.exists() {
        let made = AtKeys::generate(AesKey::from_bytes([1; 32]), AesKey::from_bytes([2; 32]));
        std::fs::write(&keys, &*made.to_json(&"@gw".parse().unwrap())).unwrap();
        std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let file = folder.join("agent.toml");
    let head = format!("schema = 1\n[gateway]\natsign = \"@gw\"\nkeys = \"file:{}\"\n", keys.display());
    std::fs::write(&file, format!("{head}directory = \"localhost:64\"\nnamespace = \"plant7\"\n{tables}"))
        .unwrap();
    file
}

const PROCESS: &str = "[stream.process]\nto = [\"@ops\"]\n";

fn adapter(name: &str, stream: &str) -> String {
    format!(
        "[adapter.{name}]\ntype = \"process\"\ncommand = [\"/bin/cat\"]\ndevice = \"{name}\"\nstream = \"{stream}\"\n"
    )
}

/// What runs with these tables.
fn running(folder: &Path, tables: &str) -> Following<SystemClock> {
    let file = write(folder, tables);
    let Loaded { config, rules, tables, .. } = config::load(&layered(&file)).unwrap();
    let clock = Arc::new(SystemClock::start());
    let state = folder.join("state");
    let Opened { outbox, .. } = Outbox::open(config.outbox_options(state.clone()), clock.now()).unwrap();
    let (sending, now) = watch::channel(config.send_rules());
    let field = Field::new(outbox.clone(), clock, now, CancellationToken::new());
    let (declared, _) = watch::channel(Declared::default());
    let mut following =
        Following { file, tables, rules: Arc::new(rules), state, outbox, field, sending, declared };
    following.start(config.adapter.keys(), &config.adapter).unwrap();
    following.declare();
    following
}

fn names(following: &Following<SystemClock>) -> Vec<String> {
    following.declared.borrow().adapters.keys().cloned().collect()
}

#[tokio::test]
async fn what_differs_is_changed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| adapter(name, "process"));
    let mut following = running(folder.path(), &format!("{PROCESS}{a}{b}"));
    let untouched = following.field.orders()["a"].clone();

    let other = "[stream.other]\nto = [\"@ops\", \"@lab\"]\nbatch = { linger = \"9s\" }\n";
    let (b, c) = (adapter("b", "other"), adapter("c", "process"));
    write(folder.path(), &format!("{PROCESS}{a}{b}{c}{other}"));
    let difference = following.reload().await.unwrap().unwrap();
    assert_eq!(difference.to_string(), "adapter c added; adapter b changed; stream other added");
    assert_eq!(names(&following), ["a", "b", "c"]);
    assert!(following.field.orders()["a"].same_channel(&untouched), "it went on");
    let rules = following.sending.borrow().streams[&"other".parse().unwrap()].clone();
    assert_eq!((rules.0.len(), rules.1.linger.as_secs()), (2, 9));
    let readers = following.outbox.stat().await.unwrap().readers;
    assert_eq!(readers.len(), 3, "the queue knows the new readers");

    assert!(following.reload().await.unwrap().unwrap().is_empty(), "nothing has changed since");
    write(folder.path(), &format!("{PROCESS}{a}"));
    following.reload().await.unwrap().unwrap();
    assert_eq!(names(&following), ["a"]);
    assert!(following.field.orders()["a"].same_channel(&untouched), "it still goes on");
}

#[tokio::test]
async fn what_is_wrong_changes_nothing_and_is_shown_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let a = adapter("a", "process");
    let mut following = running(folder.path(), &format!("{PROCESS}{a}"));
    let untouched = following.field.orders()["a"].clone();
    let file = folder.path().join("agent.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    for (from, to, line, cure) in [
        ("/bin/cat", "cat", 11, "expected the program's whole path"),
        ("device =", "devise =", 12, "expected `device`"),
        ("[\"@ops\"]", "[]", 8, "expected at least one atSign"),
        ("\"@gw\"", "\"@other\"", 3, "restart needed"),
        ("localhost:64", "localhost:65", 5, "restart needed"),
        ("plant7", "plant8", 6, "restart needed"),
    ] {
        std::fs::write(&file, good.replacen(from, to, 1)).unwrap();
        let error = following.reload().await.unwrap().unwrap_err().to_string();
        assert!(error.contains(&format!("agent.toml:{line}:")), "{to} is in line {line}:\n{error}");
        assert!(error.contains(cure), "{to}:\n{error}");
        assert!(error.ends_with("The running configuration is unchanged."), "{error}");
        assert!(following.field.orders()["a"].same_channel(&untouched));
    }
    std::fs::write(&file, good).unwrap();
    assert!(following.reload().await.unwrap().unwrap().is_empty());
}
