//! Every transcript over TLS against a running server: the bytes, and that each answer is one record.

use anyhow::{Result, ensure};
use at_protocol::crypto::RsaPrivateKey;
use atedge_service::tls::{ClientCertificates, server_config};

use crate::peer::Peer;
use crate::replay::{Owner, prepare, replay};
use crate::scenario::Run;
use crate::town::{Town, free_address};
use crate::transcript::{Given, Transcript};
use crate::wire::{Wire, client_config};

const PEER: &str = "@bob";

/// Replays them all, each to an atSign of its own.
///
/// # Errors
/// An answer is not as written.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let all = Transcript::all(alice)?;
    let hosted: Vec<String> = all.iter().map(|transcript| format!("@{}", alice(&transcript.name))).collect();
    let hosted: Vec<&str> = hosted.iter().map(String::as_str).collect();
    let elsewhere = free_address()?;
    let town = Town::with_guests(&run.folder, &[&hosted], &[(PEER, elsewhere)])?;
    let certificate = town.certificate();
    let tls = server_config(&certificate, &certificate, ClientCertificates::Ignored)?;
    let bob = Peer::serve(PEER, RsaPrivateKey::generate(), elsewhere, tls)?;
    let (mut answers, mut faults) = (0, Vec::new());
    for transcript in &all {
        match say(&town, &bob, transcript) {
            Ok(heard) => answers += heard,
            Err(fault) => faults.push(format!("{}: {fault:#}", transcript.name)),
        }
    }
    run.note("transcripts", all.len());
    run.note("answers", answers);
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

fn say(town: &Town, bob: &Peer, transcript: &Transcript) -> Result<usize> {
    let atsign = format!("@{}", alice(&transcript.name));
    let tenant = town.tenant(&atsign)?;
    let owner = Owner::new(&tenant.secret)?;
    let mut wire = match &transcript.given {
        // A server shows its own certificate when it calls another.
        Given::Peer => Wire::greeted(tenant.address, &client_config(&town.ca, Some(&town.certificate()))?)?,
        Given::Fresh | Given::Activated | Given::Owner | Given::Enrolled(_) => town.dial(&atsign)?,
    };
    let memory = prepare(transcript, &atsign, &owner, &mut wire, &mut town.dial(&atsign)?)?;
    if transcript.given == Given::Peer {
        bob.sign_in(&mut wire)?;
    }
    replay(transcript, memory, &owner, &mut wire)
}

/// Who a transcript is about.
fn alice(transcript: &str) -> String {
    format!("alice-{transcript}")
}
