//! The keys of the atSigns that the agent speaks for, and its own. In the state folder they are sealed.

use std::io;
use std::path::{Path, PathBuf};

use at_client::Identity;
use at_protocol::caps::Claims;
use at_protocol::crypto::Ed25519Secret;
use at_protocol::keys::{AtKeys, KeyFileError};
use atedge_adapters::{SecretError, SecretSource};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::seal::file::{self, Content, Lies, What};
use crate::seal::{Seal, random_key};

/// In the state folder: the key by which the agent vouches for what it sends as its gateway.
pub const IDENTITY: &str = "identity.pem";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file is not there or cannot be read.
    #[error(transparent)]
    Unreadable(#[from] SecretError),
    /// Others than its owner can read the file.
    #[error("{} is open to others (mode {mode:o}); run `chmod 600` on it", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is sealed with another key, or damaged.
    #[error(
        "{} does not open with the seal key of this gateway: it is damaged, or was sealed elsewhere; put back a plain \
         copy of it, such as `atedge-agent keys export` wrote",
        .0.display()
    )]
    Foreign(PathBuf),
    /// It is sealed, and there is nothing to open it with.
    #[error("{} is sealed, and the seal key of this gateway is not to be had", .0.display())]
    Locked(PathBuf),
    /// It holds something else.
    #[error("the key file is not an .atKeys file: {0}")]
    Malformed(#[from] KeyFileError),
    /// The agent's own key is none.
    #[error("{} holds no key that this gateway can read; move it away and a new one is made", .0.display())]
    Identity(PathBuf),
    /// It cannot be sealed.
    #[error("cannot seal {}: {cause}", path.display())]
    Unsealed {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// Reads what `source` refers to. A file must be its owner's alone; of a credential, the service manager has made sure.
fn read(source: &SecretSource) -> Result<Content, KeysError> {
    match source {
        SecretSource::Credential(_) => Ok(Content::of(Zeroizing::new(source.read()?))),
        SecretSource::File(path) => read_file(path),
    }
}

fn read_file(path: &Path) -> Result<Content, KeysError> {
    let unreadable = |cause| SecretError::Unreadable { path: path.to_owned(), cause };
    match Content::read(path).map_err(unreadable)? {
        (_, mode) if mode & 0o077 != 0 => Err(KeysError::Open { path: path.to_owned(), mode }),
        (content, _) => Ok(content),
    }
}

/// Whether `source` refers to an `.atKeys`, as far as that shows without the seal key.
///
/// # Errors
/// See [`KeysError`].
pub fn check(source: &SecretSource) -> Result<(), KeysError> {
    match load(source, None) {
        Ok(_) | Err(KeysError::Locked(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The `.atKeys` that `source` refers to, sealed or as it was made, which needs no seal key.
///
/// # Errors
/// See [`KeysError`].
pub fn load(source: &SecretSource, seal: Option<&Seal>) -> Result<(AtKeys, Lies), KeysError> {
    let place = || match source {
        SecretSource::File(path) => path.clone(),
        SecretSource::Credential(name) => name.into(),
    };
    let (text, lies) = match (read(source)?, seal) {
        (Content::Plain(text), _) => (text, Lies::Plain),
        (Content::Sealed(_), None) => return Err(KeysError::Locked(place())),
        (content, Some(seal)) => {
            content.open(seal, What::AtKeys).ok_or_else(|| KeysError::Foreign(place()))?
        }
    };
    Ok((AtKeys::parse(&text)?, lies))
}

/// Seals the keys that `source` refers to, if they lie in the folder `state`, which is the agent's own, and are not
/// sealed yet; and wherever they lie, if they are sealed with a key that a credential has taken over from.
///
/// # Errors
/// See [`KeysError`]; the file is as it was.
pub fn keep_sealed(source: &SecretSource, state: &Path, seal: &Seal) -> Result<(), KeysError> {
    let SecretSource::File(path) = source else { return Ok(()) };
    let Some((text, lies)) = read_file(path)?.open(seal, What::AtKeys) else {
        return Err(KeysError::Foreign(path.clone()));
    };
    match lies {
        Lies::Sealed => return Ok(()),
        Lies::Plain if !is_within(path, state) => {
            warn!(
                file = %path.display(),
                "these keys lie outside of the state folder and are not sealed: who copies the file has them"
            );
            return Ok(());
        }
        Lies::Plain | Lies::UnderFormer => {}
    }
    file::write(path, seal, What::AtKeys, &text)
        .map_err(|cause| KeysError::Unsealed { path: path.clone(), cause })?;
    info!(file = %path.display(), "these keys are sealed now; `atedge-agent keys export` makes a plain copy, to be kept elsewhere");
    Ok(())
}

/// Whether the file lies in the folder, whatever links lead there.
pub(crate) fn is_within(path: &Path, folder: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(path).zip(real(folder)).is_some_and(|(path, folder)| path.starts_with(folder))
}

/// The agent as a program that vouches for what it sends, with what it `claims`: by the key in the folder `state`, which
/// is made where there is none, and sealed where it is not.
///
/// # Errors
/// See [`KeysError`].
pub fn identity(path: &Path, seal: &Seal, claims: Claims) -> Result<Identity, KeysError> {
    let keep = |secret: &Ed25519Secret| {
        file::write(path, seal, What::Identity, &secret.to_pem())
            .map_err(|cause| KeysError::Unsealed { path: path.to_owned(), cause })
    };
    let content = match read_file(path) {
        Err(KeysError::Unreadable(SecretError::Unreadable { cause, .. }))
            if cause.kind() == io::ErrorKind::NotFound =>
        {
            let secret = Ed25519Secret::from_seed(&random_key());
            keep(&secret)?;
            return Ok(Identity::new(secret, "agent", claims, true));
        }
        content => content?,
    };
    let unknown = || KeysError::Identity(path.to_owned());
    let (text, lies) = content.open(seal, What::Identity).ok_or_else(unknown)?;
    let secret = Ed25519Secret::from_pem(&text).map_err(|_| unknown())?;
    if lies == Lies::Plain {
        keep(&secret)?;
    }
    Ok(Identity::new(secret, "agent", claims, false))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::seal::Place;
    use crate::seal::tests::pass;

    const KEYS: &str = include_str!("../../protocol/at-protocol/fixtures/enrolled.atKeys");

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_file_is_private_and_holds_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gw.atKeys");
        let source = SecretSource::File(path.clone());
        assert!(matches!(check(&source), Err(KeysError::Unreadable(_))));
        write(&path, "{}", 0o640);
        assert!(matches!(check(&source), Err(KeysError::Open { mode: 0o640, .. })));
        write(&path, "{}", 0o600);
        assert!(matches!(check(&source), Err(KeysError::Malformed(_))));
    }

    #[test]
    fn keys_in_the_state_folder_are_sealed_and_follow_the_seal_key() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let (within, without) = (state.join("gw.atKeys"), folder.path().join("gw.atKeys"));
        let sources = [&within, &without].map(|path| SecretSource::File(path.clone()));
        sources.iter().zip([&within, &without]).for_each(|(_, path)| write(path, KEYS, 0o600));
        let mut place = Place { folder: state.clone(), credentials: None };
        let lie = |seal: &Seal| {
            sources.each_ref().map(|source| load(source, Some(seal)).map(|(_, lies)| lies).ok())
        };
        let all_sealed =
            |seal: &Seal| sources.iter().for_each(|source| keep_sealed(source, &state, seal).unwrap());

        let seal = Seal::open(place.clone()).ok().unwrap();
        assert_eq!(lie(&seal), [Some(Lies::Plain), Some(Lies::Plain)]);
        let made = identity(&state.join(IDENTITY), &seal, Claims::default()).ok().unwrap();
        all_sealed(&seal);
        assert_eq!(lie(&seal), [Some(Lies::Sealed), Some(Lies::Plain)]);
        assert!(matches!(load(&sources[0], None), Err(KeysError::Locked(_))));
        assert!(
            check(&sources[0]).is_ok() && AtKeys::parse(&std::fs::read_to_string(&within).unwrap()).is_err()
        );
        assert!(!std::fs::read_to_string(state.join(IDENTITY)).unwrap().contains("PRIVATE"));

        pass(&mut place, 7);
        let seal = Seal::open(place.clone()).ok().unwrap();
        assert_eq!(lie(&seal)[0], Some(Lies::UnderFormer));
        file::follow(&state, &seal).unwrap();
        assert_eq!(lie(&seal)[0], Some(Lies::Sealed));
        assert_eq!(
            identity(&state.join(IDENTITY), &seal, Claims::default()).ok().unwrap().public(),
            made.public()
        );
        seal.settle().unwrap();
        let seal = Seal::open(place.clone()).ok().unwrap();
        assert_eq!(lie(&seal)[0], Some(Lies::Sealed));
        assert_eq!(
            identity(&state.join(IDENTITY), &seal, Claims::default()).ok().unwrap().public(),
            made.public()
        );

        pass(&mut place, 8);
        let other = Seal::open(place).ok().unwrap();
        assert!(matches!(load(&sources[0], Some(&other)), Err(KeysError::Foreign(_))));
        assert!(matches!(
            identity(&state.join(IDENTITY), &other, Claims::default()),
            Err(KeysError::Identity(_))
        ));
    }
}
