//! Keeps the drawing in ARCHITECTURE.md true: who may depend on whom, what may be named where, and the
//! size of files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use regex::Regex;

/// What each crate may use of ours. The tests may use all.
const ARROWS: &[(&str, &[&str])] = &[
    ("at-protocol", &[]),
    ("atedge-adapters", &[]),
    ("atedge-service", &[]),
    ("at-client", &["at-protocol"]),
    ("atedge-agent", &["at-client", "at-protocol", "atedge-adapters", "atedge-service"]),
    ("atedge-server", &["at-client", "at-protocol", "atedge-service"]),
    ("atedge-directory", &["at-client", "at-protocol", "atedge-service"]),
    (
        "atedge",
        &[
            "at-client",
            "at-protocol",
            "atedge-adapters",
            "atedge-agent",
            "atedge-directory",
            "atedge-server",
            "atedge-service",
        ],
    ),
];

/// What the pure crate may not even link.
const IMPURE: &[&str] = &["tokio", "getrandom", "rusqlite", "rustls", "tracing"];

/// What code may name only in certain places: a regular expression, the places, and why.
const PLACES: &[(&str, &[&str], &str)] = &[
    (
        r"\brusqlite\b",
        &[
            "agent/src/outbox",
            "gateway-server/src/store",
            "directory/src/registry/",
            "fleet/src/sink",
            "tests/",
        ],
        "SQLite stands behind the outbox, the store and the registry",
    ),
    (
        r"\bquinn\b",
        &[
            "protocol/at-client/src/quic.rs",
            "protocol/at-client/src/stub/quic.rs",
            "gateway-server/src/listen/quic.rs",
            "gateway-server/src/peers/",
            "gateway-server/tests/over_nodes",
            "gateway-server/tests/over_quic.rs",
            "directory/src/quic.rs",
            "tests/",
        ],
        "QUIC stands in files of its own",
    ),
    (
        r"\brumqttc\b",
        &["adapters/src/mqtt", "adapters/src/sim", "adapters/tests"],
        "one place knows how brokers are",
    ),
    (
        r"\btokio_serial\b",
        &["adapters/src/serial", "adapters/src/sim", "adapters/tests"],
        "one place knows how serial lines are",
    ),
    (r"\b(sd_notify|systemd::)", &["systemd/"], "one crate keeps the promises to the service manager"),
    (r"\b(todo|unimplemented)!\s*\(", &[], "nothing is left for later"),
    (
        r"\bunsafe\s*(\{|fn|impl)|\bunsafe_code\b",
        &["systemd/src/memory.rs"],
        "what the compiler cannot check are the calls that give memory back",
    ),
];

/// What the server may not name: it has no keys to read with.
const KEYS: &str = r"\bAtKeys\b|\bcrypto::(\{[^}]*\b)?open\b|\bseal::open\b";

/// Nothing committed speaks of the machine or the way it was made on. Split, so as not to match here.
const ELSEWHERE: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("sha", "red/"), concat!("/tmp/", "plan")];

const LONGEST: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in a workspace").to_owned()
}

/// Every file of the workspace that people wrote, with its text, by its path from the root.
fn files() -> Result<BTreeMap<String, String>> {
    let root = root();
    let (mut files, mut folders) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).context("a name in UTF-8")?.to_owned();
            let made = ["target", ".git", ".venv", "corpus", "artifacts", "coverage", "__pycache__"];
            // `.git` is a file in a worktree.
            if made.contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if name != "Cargo.lock"
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                let place = path.strip_prefix(&root)?.to_str().context("a path in UTF-8")?.to_owned();
                files.insert(place, text);
            }
        }
    }
    ensure!(files.len() > 50, "only {} files were found", files.len());
    Ok(files)
}

fn complain(faults: &[String]) -> Result<()> {
    ensure!(faults.is_empty(), "\n{}", faults.join("\n"));
    Ok(())
}

#[test]
fn the_arrows_hold() -> Result<()> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let name = |value: &serde_json::Value| value["name"].as_str().map(str::to_owned).context("a name");
    let ours = packages.iter().map(name).collect::<Result<BTreeSet<_>>>()?;
    let mut faults = Vec::new();
    for package in packages {
        let from = name(package)?;
        if from == "atedge-tests" {
            continue;
        }
        let allowed = ARROWS.iter().find(|(crate_name, _)| *crate_name == from);
        let (_, allowed) = allowed.with_context(|| format!("{from} has no place in the drawing"))?;
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let to = name(dependency)?;
            if ours.contains(&to) && !allowed.contains(&to.as_str()) && to != from {
                faults.push(format!("{from} may not depend on {to}"));
            }
            let linked = dependency["kind"].is_null();
            if from == "at-protocol" && linked && IMPURE.contains(&to.as_str()) {
                faults.push(format!("{from} is pure and may not use {to}"));
            }
        }
    }
    complain(&faults)
}

#[test]
fn things_are_named_where_they_belong() -> Result<()> {
    let mut faults = Vec::new();
    let files = files()?;
    let code = || {
        let ours = |path: &str| path.ends_with(".rs") && path != "tests/tests/tidy.rs";
        files.iter().filter(move |(path, _)| ours(path))
    };
    for (pattern, places, why) in PLACES {
        let pattern = Regex::new(pattern)?;
        for (path, text) in code() {
            if places.iter().any(|place| path.starts_with(place)) {
                continue;
            }
            // What a comment says, a comment may say.
            let named =
                text.lines().position(|line| !line.trim_start().starts_with("//") && pattern.is_match(line));
            if let Some(line) = named {
                faults.push(format!("{path}:{}: {pattern} has no place here: {why}", line + 1));
            }
        }
    }
    let keys = Regex::new(KEYS)?;
    for (path, text) in code().filter(|(path, _)| path.starts_with("gateway-server/src/")) {
        if let Some(found) = keys.find(text) {
            faults.push(format!(
                "{path}: {} has no place in the server: it reads nobody's data",
                found.as_str()
            ));
        }
    }
    complain(&faults)
}

#[test]
fn files_can_be_read_in_one_go() -> Result<()> {
    let faults: Vec<String> = files()?
        .iter()
        .filter(|(path, text)| path.ends_with(".rs") && text.lines().count() > LONGEST)
        .map(|(path, text)| format!("{path} has {} lines, over {LONGEST}", text.lines().count()))
        .collect();
    complain(&faults)
}

#[test]
fn nothing_speaks_of_the_machine_it_was_made_on() -> Result<()> {
    let mut faults = Vec::new();
    for (path, text) in files()? {
        for place in ELSEWHERE {
            if let Some(line) = text.lines().position(|line| line.contains(place)) {
                faults.push(format!("{path}:{}: {place}", line + 1));
            }
        }
    }
    complain(&faults)
}

#[test]
fn links_lead_somewhere() -> Result<()> {
    let link = Regex::new(r"\]\(([^)#\s]+)")?;
    let mut faults = Vec::new();
    let mut followed = 0;
    for (path, text) in files()?.iter().filter(|(path, _)| path.ends_with(".md")) {
        let folder = root().join(path).parent().context("a file is in a folder")?.to_owned();
        for found in link.captures_iter(text) {
            let target = &found[1];
            if !target.contains("://") && !target.starts_with("mailto:") {
                followed += 1;
                if !folder.join(target).exists() {
                    faults.push(format!("{path}: {target} does not exist"));
                }
            }
        }
    }
    ensure!(followed > 0, "no links were found");
    complain(&faults)
}
