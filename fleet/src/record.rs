//! `put`, `get`, `delete`, `scan`: everyday records.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use at_protocol::Metadata;
use at_protocol::verb;
use atedge_service::Exit;
use serde_json::json;

use crate::cli::{Delete, Get, Put, Scan};
use crate::key;
use crate::output::Output;

/// Writes a record.
///
/// # Errors
/// The key makes no sense, or the server does not take it.
pub async fn put(args: Put) -> Result<Exit> {
    let key = key::typed(&args.atsign, &args.key).with_context(|| format!("{:?} is no key", args.key))?;
    let value = value(&args.value)?;
    let ttl = args.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    let client = args.access.client(&args.atsign)?;
    let commit = client.put(&key, value.as_bytes(), Metadata { ttl, ..Metadata::default() }).await?;
    let output = Output::new(args.access.json);
    output.say(|| format!("{key} written"), || json!({ "key": key, "commit": commit }))?;
    Ok(Exit::Done)
}

/// Reads a record.
///
/// # Errors
/// The key makes no sense, or the server does not answer.
pub async fn get(args: Get) -> Result<Exit> {
    let mut key = key::typed(&args.atsign, &args.key).with_context(|| format!("{:?} is no key", args.key))?;
    // What somebody else owns and is not public can only be what it shares with us.
    if let at_protocol::AtKey::Own { name, owner } = &key
        && *owner != args.atsign
    {
        let (name, owner) = (name.clone(), owner.clone());
        key = at_protocol::AtKey::Shared { name, owner, with: args.atsign.clone() };
    }
    let client = args.access.client(&args.atsign)?;
    let record = client.get(&key).await?.with_context(|| format!("{key} does not exist"))?;
    let value = String::from_utf8_lossy(&record.value);
    let output = Output::new(args.access.json);
    output
        .say(|| value.to_string(), || json!({ "key": key, "value": value, "metadata": record.metadata }))?;
    Ok(Exit::Done)
}

/// Removes a record.
///
/// # Errors
/// The key makes no sense, or the server refuses.
pub async fn delete(args: Delete) -> Result<Exit> {
    let key = key::typed(&args.atsign, &args.key).with_context(|| format!("{:?} is no key", args.key))?;
    let commit = args.access.client(&args.atsign)?.delete(&key).await?;
    let output = Output::new(args.access.json);
    output.say(|| format!("{key} removed"), || json!({ "key": key, "commit": commit }))?;
    Ok(Exit::Done)
}

/// Lists keys.
///
/// # Errors
/// The server does not answer, or refuses the regular expression.
pub async fn scan(args: Scan) -> Result<Exit> {
    let client = args.access.client(&args.atsign)?;
    let scan = verb::Scan { show_hidden: args.hidden, regex: args.regex, ..verb::Scan::default() };
    let output = Output::new(args.access.json);
    for key in client.scan(scan).await? {
        output.say(|| key.clone(), || json!({ "key": key }))?;
    }
    Ok(Exit::Done)
}

/// A value as it was typed, or standard input for `-`.
pub(crate) fn value(typed: &str) -> Result<String> {
    if typed != "-" {
        return Ok(typed.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the value from standard input")?;
    Ok(text)
}
