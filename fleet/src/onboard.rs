//! `onboard`: activates an atSign.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use at_client::Directory;
use at_client::onboard::{Onboarding, Progress};
use atedge_service::{Exit, files};
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::Onboard;
use crate::output::Output;

/// Activates the atSign, or finishes what an earlier run began.
///
/// # Errors
/// See [`at_client::onboard::OnboardError`]; nothing is lost, the same command continues.
pub async fn run(args: Onboard) -> Result<Exit> {
    let secret = secret(&args.cram_file)?;
    let keys = args.access.key_file(&args.atsign);
    if let Some(folder) = keys.parent() {
        files::make_private_folder(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let tls = args.access.tls()?;
    let directory = Directory::new(args.access.directory.clone(), tls.clone());
    let onboarding = Onboarding {
        atsign: &args.atsign,
        secret: secret.trim(),
        keys: &keys,
        directory: &directory,
        dialer: &tls.clone().into(),
    };
    let output = Output::new(args.access.json);
    onboarding.run(|progress| drop(output.remark(|| step(progress).to_owned()))).await?;
    output.say(
        || format!("{} is activated; its keys are in {}", args.atsign, keys.display()),
        || json!({ "atsign": args.atsign, "keys": keys }),
    )?;
    Ok(Exit::Done)
}

/// The activation secret: from a file or standard input, never from the command line, which others can see.
fn secret(file: &std::path::Path) -> Result<Zeroizing<String>> {
    let mut secret = Zeroizing::new(String::new());
    if file.as_os_str() == "-" {
        std::io::stdin()
            .read_to_string(&mut secret)
            .context("cannot read the activation secret from standard input")?;
    } else {
        *secret = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the activation secret from {}", file.display()))?;
    }
    Ok(secret)
}

fn step(progress: Progress) -> &'static str {
    match progress {
        Progress::Resuming => "continuing where an earlier run was cut off",
        Progress::SecretAccepted => "the activation secret is accepted",
        Progress::GeneratingKeys => "making keys, which takes seconds on a small machine",
        Progress::KeysSaved => "the keys are on disk",
        Progress::Enrolled => "the server has the new key",
        Progress::SignedIn => "the new key works",
        Progress::Published => "others can find the public key",
        Progress::SecretDeleted => "the activation secret is void",
        Progress::Done => "the key file is in its place",
    }
}
