//! Every transcript over TLS against a running server: the bytes, and that each answer is one record.

use anyhow::{Result, ensure};

use crate::replay::{Owner, prepare, replay, sign_in_as_peer};
use crate::scenario::Run;
use crate::town::Town;
use crate::transcript::{Given, Transcript};
use crate::wire::{Wire, client_config};

const PEER: &str = "@bob";

/// Replays them all, each to an atSign of its own.
///
/// # Errors
/// An answer is not as written.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let all = Transcript::all(atsign)?;
    let hosted: Vec<String> = all.iter().map(|transcript| format!("@{}", atsign(&transcript.name))).collect();
    let mut hosted: Vec<&str> = hosted.iter().map(String::as_str).collect();
    hosted.push(PEER);
    let town = Town::start(&run.folder, &[&hosted])?;
    let bob = Owner::new(&town.tenant(PEER)?.secret)?;
    bob.activate(PEER, &mut town.dial(PEER)?)?;
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

fn say(town: &Town, bob: &Owner, transcript: &Transcript) -> Result<usize> {
    let atsign = format!("@{}", atsign(&transcript.name));
    let tenant = town.tenant(&atsign)?;
    let owner = Owner::new(&tenant.secret)?;
    let mut wire = match transcript.given {
        // A server shows its own certificate when it calls another.
        Given::Peer => {
            let shown = client_config(&town.ca, Some(&town.certificate()))?;
            Wire::greeted(tenant.address, &shown)?
        }
        Given::Fresh | Given::Activated | Given::Owner => town.dial(&atsign)?,
    };
    prepare(transcript, &atsign, &owner, &mut wire, &mut town.dial(&atsign)?)?;
    if transcript.given == Given::Peer {
        let mut home = town.dial(PEER)?;
        bob.sign_in(PEER, &mut home)?;
        sign_in_as_peer(PEER, &mut home, &mut wire)?;
    }
    replay(transcript, &owner, &mut wire)
}

/// Who a transcript is about. One of them spells the name in a way that only fits the real one.
fn atsign(transcript: &str) -> String {
    if transcript == "from" { "alice".to_owned() } else { format!("alice-{transcript}") }
}
