//! Where the socket is.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// The state folder of the packages, and the socket of the agent that runs there: in a folder of its own,
/// since the daemons run as different users.
const PACKAGED: (&str, &str) = ("/var/lib/atedge/agent", "/run/atedge/agent/agent.sock");

/// The socket of the agent with this state folder, unless one was `asked` for: for the packages' folder it is in
/// `/run`, for any other in the folder itself.
#[must_use]
pub fn place(state: &Path, asked: Option<PathBuf>) -> PathBuf {
    let (packaged, socket) = PACKAGED;
    match asked {
        Some(asked) => asked,
        None if state == Path::new(packaged) => PathBuf::from(socket),
        None => state.join("agent.sock"),
    }
}

/// A socket that is listened to. Its file goes with it.
#[derive(Debug)]
pub struct Place {
    /// The socket.
    pub listener: UnixListener,
    path: PathBuf,
    owner: u32,
}

impl Place {
    /// Listens at `path`, where a socket may be left by an agent that was killed.
    ///
    /// # Errors
    /// When another process listens there, or the folder does not take it.
    pub fn take(path: PathBuf) -> io::Result<Self> {
        if path.symlink_metadata().is_ok_and(|there| there.file_type().is_socket()) {
            if UnixStream::connect(&path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent listens there"));
            }
            std::fs::remove_file(&path)?;
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
        let owner = std::fs::metadata(&path)?.uid();
        Ok(Self { listener, path, owner })
    }
}

impl Place {
    /// Whether this user may see what devices say: the agent's own, or root.
    pub const fn may_see_payloads(&self, user: u32) -> bool {
        user == self.owner || user == 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Who finds it afterwards learns that nobody listens.
        std::fs::remove_file(&self.path).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_follows_the_state_folder() {
        assert_eq!(place(Path::new(PACKAGED.0), None), Path::new("/run/atedge/agent/agent.sock"));
        assert_eq!(place(Path::new("state"), None), Path::new("state/agent.sock"));
        assert_eq!(place(Path::new("state"), Some("s".into())), Path::new("s"));
    }

    #[tokio::test]
    async fn a_socket_that_was_left_is_taken_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let taken = Place::take(path.clone()).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        let user = path.metadata().unwrap().uid();
        assert!(taken.may_see_payloads(user) && taken.may_see_payloads(0));
        assert!(!taken.may_see_payloads(user + 1));
        assert_eq!(Place::take(path.clone()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(taken);
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        Place::take(path.clone()).unwrap_err();
        assert!(path.exists(), "what is no socket is left alone");
    }
}
