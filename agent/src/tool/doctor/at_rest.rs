//! What is on the disk while nobody looks, and who could read it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use atedge_adapters::SecretSource;

use super::Finding;
use crate::keys::{self as keys_of, KeysError};
use crate::seal::file::Lies;
use crate::seal::holder::Holder;
use crate::seal::{FILE, Kept, MAKE, Seal, SealError};

/// What protects the queue and the keys on disk, with the credential that is stored on this machine, if one is.
pub(super) fn seal_key(seal: &Result<Seal, SealError>, state: &Path, stored: Option<Holder>) -> Finding {
    let what = "seal key";
    match seal {
        Ok(seal) if seal.is_suspect() => {
            Finding::bad(what, SealError::Another(state.to_owned()), "see to the credential")
        }
        Ok(seal) if seal.kept() == Kept::File => file_key(&state.join(FILE), stored),
        Ok(_) | Err(SealError::NotPassed(_)) => match stored {
            Some(Holder::Tpm) => Finding::good(what, "tpm: what is on the disk opens on this machine only"),
            Some(Holder::HostKey) => Finding::note(
                what,
                "host key: copies of the configuration and the state folder open on this machine only; who takes the \
                 whole disk takes the host key in /var/lib/systemd along",
                "where theft matters, encrypt the credential with the TPM (`--with-key=tpm2`), or the disk",
            ),
            Some(Holder::Nobody) => Finding::bad(
                what,
                "the credential is encrypted with a key that everybody knows: no protection against theft",
                "encrypt it anew with `--with-key=host` or `--with-key=tpm2`",
            ),
            Some(Holder::Unknown) => Finding::note(
                what,
                "a credential: what that is encrypted with cannot be seen from here",
                "run this as root",
            ),
            None => Finding::note(
                what,
                "a credential that is not in /etc/credstore.encrypted: it is as safe as the place it comes from",
                "`systemctl cat atedge-agent` shows that",
            ),
        },
        Err(SealError::Missing(_)) => {
            Finding::note(what, "there is none yet", "the agent makes it when it starts")
        }
        Err(error) => Finding::bad(what, error, "see to that before the agent starts"),
    }
}

fn file_key(path: &Path, stored: Option<Holder>) -> Finding {
    let (what, shown) = ("seal key", path.display());
    let mode = path.metadata().map_or(0, |meta| meta.mode() & 0o777);
    if mode & 0o077 != 0 {
        let why = format_args!("{shown} is open to others (mode {mode:o})");
        return Finding::bad(what, why, format_args!("`chmod 600 {shown}`"));
    }
    let fix = match stored {
        Some(_) => "`systemctl restart atedge-agent`: the credential that is there takes over".to_owned(),
        None => format!(
            "who takes the disk has the queue and the keys; where that matters: {MAKE}, then `systemctl restart \
             atedge-agent`"
        ),
    };
    Finding::note(what, "file: no protection against theft", fix)
}

/// The keys of an atSign.
pub(super) fn keys(source: &SecretSource, state: &Path, seal: Option<&Seal>) -> Finding {
    let what = "keys";
    let within = match source {
        SecretSource::File(path) => keys_of::is_within(path, state),
        SecretSource::Credential(_) => {
            return match keys_of::load(source, seal) {
                Ok(_) => Finding::good(what, format_args!("{source} has them")),
                Err(error) => Finding::bad(what, error, "systemd passes credentials to the service alone"),
            };
        }
    };
    match keys_of::load(source, seal) {
        Ok((_, Lies::Plain)) if within => {
            Finding::note(what, format_args!("{source} is not sealed"), "the agent seals it when it starts")
        }
        Ok((_, Lies::Plain)) => Finding::note(
            what,
            format_args!("{source} is not sealed: who copies it has the atSign"),
            format_args!(
                "move it into {}, and name it there in the configuration",
                state.join("keys").display()
            ),
        ),
        Ok((_, Lies::Sealed | Lies::UnderFormer)) => Finding::good(what, format_args!("{source} is sealed")),
        Err(error @ KeysError::Locked(_)) => Finding::note(
            what,
            error,
            "that is as it should be while the agent does not run and the seal key is a credential",
        ),
        Err(error) => Finding::bad(what, error, "`keys` names the file that `atedge onboard` wrote"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Verdict;
    use super::*;
    use crate::seal::Place;
    use crate::seal::tests::pass;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn who_holds_the_seal_key_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        let mut place = Place { folder: state.to_owned(), credentials: None };
        let found = |place: &Place, stored| seal_key(&Seal::look(place.clone()), state, stored);
        assert_eq!(found(&place, None).says, "there is none yet");
        Seal::open(place.clone()).ok().unwrap();
        let key = state.join(FILE);
        chmod(&key, 0o640);
        assert!(found(&place, None).fix.unwrap().starts_with("`chmod 600 "));
        chmod(&key, 0o600);
        assert_eq!(found(&place, None).says, "file: no protection against theft");
        assert!(found(&place, None).fix.unwrap().contains("systemd-creds encrypt"));
        assert!(found(&place, Some(Holder::Unknown)).fix.unwrap().contains("takes over"));
        pass(&mut place, 7);
        Seal::open(place.clone()).ok().unwrap().settle().unwrap();
        for place in [&place, &Place { credentials: None, ..place.clone() }] {
            assert!(found(place, Some(Holder::HostKey)).says.starts_with("host key: "));
            assert!(found(place, Some(Holder::Tpm)).says.starts_with("tpm: "));
            assert_eq!(found(place, Some(Holder::Nobody)).verdict, Verdict::Bad);
            assert_eq!(found(place, Some(Holder::Unknown)).fix.as_deref(), Some("run this as root"));
            assert!(found(place, None).says.contains("not in /etc/credstore.encrypted"));
        }
        pass(&mut place, 8);
        assert_eq!(found(&place, Some(Holder::HostKey)).verdict, Verdict::Bad);
    }
}
