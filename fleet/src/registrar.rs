//! `registrar`: who may serve which atSigns. All of it is offline.

use std::io::{self, Read as _};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail, ensure};
use at_protocol::Timestamp;
use at_protocol::crypto::{Ed25519Public, Ed25519Secret};
use at_protocol::directory::{Grant, Pattern, Registrar, Registrars, SignedRecord};
use atedge_service::{Exit, files};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cli::{self, RegistrarGrant, RegistrarInit, RegistrarShow};
use crate::output::Output;

/// Longest grant, in bytes: with an atSign, a host and the rest of a record it still fits into a line that
/// directories take.
const LONGEST_GRANT: usize = 3072;

/// Does what was typed.
///
/// # Errors
/// See the commands.
pub fn run(args: cli::Registrar) -> Result<Exit> {
    match args {
        cli::Registrar::Init(args) => init(&args),
        cli::Registrar::Grant(args) => grant(&args),
        cli::Registrar::Show(args) => show(&args),
    }
}

/// Makes a registrar's key.
///
/// # Errors
/// The file is there already, or cannot be written.
pub fn init(args: &RegistrarInit) -> Result<Exit> {
    let key = create(&args.key)?;
    let public = key.public();
    Output::new(args.json).say(
        || format!("{public}\nThe private half is in {}: keep it off every server.", args.key.display()),
        || json!({ "registrar": public, "key": args.key }),
    )?;
    Ok(Exit::Done)
}

/// Makes a registrar's key in a file of its own.
///
/// # Errors
/// The file is there already, or cannot be written.
pub(crate) fn create(file: &Path) -> Result<Ed25519Secret> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).context("the system gives no random numbers")?;
    let key = Ed25519Secret::from_seed(&seed);
    match files::create_private(file, key.to_pem().as_bytes()) {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
            "{} is there already: a registrar's key is never overwritten; name another file",
            file.display()
        ),
        Err(error) => Err(error).with_context(|| format!("cannot write {}", file.display())),
    }
}

/// Reads a registrar's key.
///
/// # Errors
/// The file cannot be read, or holds no key.
pub(crate) fn open(file: &Path) -> Result<Ed25519Secret> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new);
    let text = text.with_context(|| format!("cannot read the registrar's key {}", file.display()))?;
    Ed25519Secret::from_pem(&text)
        .with_context(|| format!("{}; `atedge registrar init` makes one", file.display()))
}

/// Grants a node what it may serve.
///
/// # Errors
/// The key or the output cannot be used, or the grant makes no sense.
pub fn grant(args: &RegistrarGrant) -> Result<Exit> {
    let key = open(&args.key)?;
    ensure!(!args.period.is_zero(), "a grant for no time at all grants nothing");
    ensure!(
        args.node != key.public(),
        "that is the registrar's own key; `atedge-server node` prints the node's"
    );
    let millis = u64::try_from(args.period.as_millis()).unwrap_or(u64::MAX);
    let not_after = now().plus_millis(millis);
    let grant = Grant::sign(&key, args.node.clone(), args.atsigns.clone(), not_after);
    let line = grant.to_string();
    ensure!(
        line.len() <= LONGEST_GRANT,
        "the grant takes {} bytes, and a record of it would not fit into a line of the directory \
         ({LONGEST_GRANT} do); name the atSigns by patterns such as '@plant7*'",
        line.len()
    );
    let output = Output::new(args.json);
    let Some(file) = &args.out else {
        output.say(|| line.clone(), || json!(grant))?;
        return Ok(Exit::Done);
    };
    files::write_public(file, format!("{line}\n").as_bytes())
        .with_context(|| format!("cannot write {}", file.display()))?;
    output.say(
        || format!("{} may serve {} until {not_after}: {}", args.node, list(&args.atsigns), file.display()),
        || json!({ "grant": grant, "file": file }),
    )?;
    Ok(Exit::Done)
}

/// Explains a file.
///
/// # Errors
/// It cannot be read, or holds nothing that registrars have to do with.
pub fn show(args: &RegistrarShow) -> Result<Exit> {
    let text = read(&args.file)?;
    let shown = explain(&text, now()).with_context(|| args.file.display().to_string())?;
    let holds = shown.fault.is_none();
    Output::new(args.json).say(|| shown.text(), || shown.json())?;
    Ok(if holds { Exit::Done } else { Exit::Failed })
}

fn read(file: &Path) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    if file.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        *text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(text)
}

/// What a file holds.
struct Shown {
    kind: &'static str,
    /// Names as in JSON, and what they say.
    fields: Vec<(&'static str, Value)>,
    /// Why it is not to be believed.
    fault: Option<String>,
}

fn explain(text: &str, now: Timestamp) -> Result<Shown> {
    let text = text.trim();
    if text.starts_with("-----BEGIN") {
        let key = Ed25519Secret::from_pem(text)?;
        return Ok(Shown { kind: "private key", fields: vec![("public", json!(key.public()))], fault: None });
    }
    if let Ok(key) = text.parse::<Ed25519Public>() {
        return Ok(Shown { kind: "public key", fields: vec![("public", json!(key))], fault: None });
    }
    let value: Value = serde_json::from_str(text).map_err(|_| {
        anyhow::anyhow!("neither a key nor a grant nor a signed record, each of which is text of one kind")
    })?;
    if value.get("atsign").is_some() {
        let record: SignedRecord = text.parse()?;
        let mut fields = vec![
            ("atsign", json!(record.atsign)),
            ("address", json!(record.at.address)),
            ("quic", json!(record.quic())),
            ("seq", json!(record.at.seq)),
            ("until", json!(record.at.not_after)),
        ];
        fields.extend(granted(&record.grant));
        // Whom to trust is for others to say; here it is whether the chain holds for who trusts this one.
        let everybody: Pattern = "*".parse()?;
        let registrar = Registrar { key: record.grant.registrar.clone(), atsigns: vec![everybody] };
        let checked = Registrars::new(vec![registrar]).verify(record, now);
        return Ok(Shown { kind: "signed record", fields, fault: checked.err().map(|e| e.to_string()) });
    }
    let grant: Grant = text.parse().context("not a grant")?;
    let fault = if !grant.is_signed() {
        Some("the grant was not signed by the registrar that it names".to_owned())
    } else if grant.not_after <= now {
        Some(format!("the grant ended at {}", grant.not_after))
    } else {
        None
    };
    Ok(Shown { kind: "grant", fields: granted(&grant), fault })
}

fn granted(grant: &Grant) -> Vec<(&'static str, Value)> {
    vec![
        ("node", json!(grant.node)),
        ("atsigns", json!(grant.atsigns)),
        ("granted_until", json!(grant.not_after)),
        ("registrar", json!(grant.registrar)),
    ]
}

impl Shown {
    fn text(&self) -> String {
        let lines = self.fields.iter().map(|(name, value)| {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Array(values) => {
                    values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
                }
                other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
                    other.to_string()
                }
            };
            format!("  {:<15}{value}\n", name.replace('_', " "))
        });
        let verdict = match &self.fault {
            Some(fault) => format!("It does not hold: {fault}."),
            None => "It holds.".to_owned(),
        };
        format!("{}\n{}{verdict}", self.kind, lines.collect::<String>())
    }

    fn json(&self) -> Value {
        let mut json = json!({ "kind": self.kind, "holds": self.fault.is_none(), "fault": self.fault });
        for (name, value) in &self.fields {
            json[name] = value.clone();
        }
        json
    }
}

fn list(patterns: &[Pattern]) -> String {
    patterns.iter().map(Pattern::to_string).collect::<Vec<_>>().join(", ")
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use at_protocol::directory::{LONGEST_EXTENDED, Location, registration};

    use super::*;

    fn day(days: u64) -> Timestamp {
        Timestamp::from_millis(1_795_000_000_000).plus_millis(days * 86_400_000)
    }

    fn key(first: u8) -> Ed25519Secret {
        Ed25519Secret::from_seed(&Zeroizing::new([first; 32]))
    }

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn grant_file(folder: &Path, atsigns: Vec<Pattern>) -> RegistrarGrant {
        RegistrarGrant {
            key: folder.join("registrar.key"),
            node: key(2).public(),
            atsigns,
            period: Duration::from_hours(24),
            out: Some(folder.join("node.grant")),
            json: false,
        }
    }

    #[test]
    fn a_key_is_made_once_and_its_grants_hold() {
        let folder = tempfile::tempdir().unwrap();
        let init_args = RegistrarInit { key: folder.path().join("registrar.key"), json: true };
        init(&init_args).unwrap();
        let again = init(&init_args).unwrap_err().to_string();
        assert!(again.contains("never overwritten"), "{again}");
        let args = grant_file(folder.path(), patterns(&["@plant7*", "@ops"]));
        grant(&args).unwrap();
        let text = std::fs::read_to_string(folder.path().join("node.grant")).unwrap();
        let granted: Grant = text.parse().unwrap();
        assert_eq!(granted.registrar, open(&init_args.key).unwrap().public());
        assert!(granted.is_signed() && granted.covers(&"@plant7gw1".parse().unwrap()));
        let show_args = RegistrarShow { file: folder.path().join("node.grant"), json: true };
        assert!(matches!(show(&show_args).unwrap(), Exit::Done));
    }

    #[test]
    fn grants_that_make_no_sense_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let args = |atsigns| grant_file(folder.path(), atsigns);
        let refused = |args: &RegistrarGrant| format!("{:#}", grant(args).unwrap_err());
        assert!(refused(&args(patterns(&["*"]))).contains("cannot read the registrar's key"));
        create(&folder.path().join("registrar.key")).unwrap();
        let own = open(&folder.path().join("registrar.key")).unwrap().public();
        assert!(refused(&RegistrarGrant { node: own, ..args(patterns(&["*"])) }).contains("own key"));
        let never = RegistrarGrant { period: Duration::ZERO, ..args(patterns(&["*"])) };
        assert!(refused(&never).contains("no time"));
        let many = (0..300).map(|number| format!("@device{number}").parse().unwrap()).collect();
        assert!(refused(&args(many)).contains("by patterns"));
        std::fs::write(folder.path().join("registrar.key"), "no key").unwrap();
        assert!(refused(&args(patterns(&["*"]))).contains("registrar init"));
    }

    #[test]
    fn a_record_of_the_longest_grant_fits_into_a_line() {
        let granted = |count| {
            let atsigns = (0..count).map(|number| format!("@device{number}").parse().unwrap()).collect();
            Grant::sign(&key(1), key(2).public(), atsigns, day(365))
        };
        let longest = (1..240).rev().map(granted).find(|grant| grant.to_string().len() <= LONGEST_GRANT);
        let at = Location {
            address: format!("{}:65535", "h".repeat(253)).parse().unwrap(),
            quic: 65535,
            seq: u64::MAX,
            not_after: day(30),
        };
        let record = SignedRecord::sign(&key(2), "🦄".repeat(55).parse().unwrap(), at, longest.unwrap());
        assert!(registration(&record).len() <= LONGEST_EXTENDED, "{}", registration(&record).len());
    }

    #[test]
    fn what_a_file_holds_is_explained() {
        let explained = |text: &str, days| explain(text, day(days)).unwrap();
        let secret = explained(&key(1).to_pem(), 0);
        assert!(secret.text().contains(&key(1).public().to_string()) && !secret.text().contains("BEGIN"));
        assert_eq!(explained(&format!("{}\n", key(1).public()), 0).kind, "public key");
        let grant = Grant::sign(&key(1), key(2).public(), patterns(&["@al*", "@ops"]), day(30));
        let shown = explained(&grant.to_string(), 29);
        assert!(
            shown.text().contains("@al*, @ops") && shown.text().ends_with("It holds."),
            "{}",
            shown.text()
        );
        assert!(explained(&grant.to_string(), 30).fault.unwrap().contains("ended"));
        let forged = grant.to_string().replace("@ops", "@opt");
        assert!(explained(&forged, 0).fault.unwrap().contains("not signed"));
        let at =
            Location { address: "node.example:6464".parse().unwrap(), quic: 6464, seq: 7, not_after: day(7) };
        let sign = |who: &str| SignedRecord::sign(&key(2), who.parse().unwrap(), at.clone(), grant.clone());
        let shown = explained(&sign("@alice").to_string(), 0);
        assert_eq!(shown.json()["seq"], 7);
        assert_eq!(shown.json()["holds"], true);
        assert!(explained(&sign("@bob").to_string(), 0).fault.unwrap().contains("not granted"));
        assert!(explained(&sign("@alice").to_string(), 8).fault.unwrap().contains("record ended"));
        assert!(explain("hello", day(0)).is_err() && explain("{}", day(0)).is_err());
    }
}
