//! Which files make up a store, and how a new one comes into being.
//!
//! A store of one shard is the configured file itself, as stores were before there were shards. Of more,
//! `server.db` is `server-0.db`, `server-1.db` … Each file says which shard of how many it is. The files of
//! a new store are made from the last to the first, each under another name until it is whole: where
//! `server-0.db` is, all were made, and one that is not there has been lost.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use at_protocol::AtSign;
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest, Sha256};

use super::OpenError;
use super::file::{Place, ShardFile};
use super::schema;

/// Shards of a new store: enough that the commits of one do not keep all tenants waiting and that a damaged
/// file takes few of them down; more would only share the same disk.
const SHARDS: usize = 4;
/// Most shards: each has a thread and its connections.
const MOST: usize = 64;

/// The files of the store at `path`, which are made if there is none. `asked` is how many the operator wants.
pub(super) fn files(path: &Path, asked: Option<usize>) -> Result<Vec<ShardFile>, OpenError> {
    if let Some(asked) = asked.filter(|asked| !(1..=MOST).contains(asked)) {
        return Err(OpenError::ShardCount { asked, most: MOST });
    }
    let there = numbers(path);
    let shards = found(path, &there, asked)?.or(asked).unwrap_or(SHARDS);
    if let Some(asked) = asked.filter(|asked| *asked != shards) {
        return Err(OpenError::Shards { found: shards, asked });
    }
    let file = |number| if shards == 1 { path.to_owned() } else { numbered(path, number) };
    if !file(0).exists() && there.iter().all(|number| is_unused(&numbered(path, *number))) {
        for number in (0..shards).rev().filter(|number| !there.contains(number)) {
            make(&file(number), Place { number, shards })?;
        }
    }
    Ok(shard_files(path, shards))
}

/// The files of the store at `path`, if there is one; nothing is made.
pub(super) fn existing(path: &Path) -> Result<Option<Vec<ShardFile>>, OpenError> {
    Ok(found(path, &numbers(path), None)?.map(|shards| shard_files(path, shards)))
}

/// How many shards the files say there are; `asked` if none of them can be read.
fn found(path: &Path, there: &[usize], asked: Option<usize>) -> Result<Option<usize>, OpenError> {
    match (path.exists(), there.last()) {
        (true, Some(number)) => Err(OpenError::TwoStores { other: numbered(path, *number) }),
        (true, None) => Ok(Some(1)),
        (false, Some(last)) => {
            let recorded = there.iter().find_map(|number| recorded(&numbered(path, *number)));
            Ok(recorded.or(asked).or(Some(last + 1)))
        }
        (false, None) => Ok(None),
    }
}

fn shard_files(path: &Path, shards: usize) -> Vec<ShardFile> {
    let file = |number| if shards == 1 { path.to_owned() } else { numbered(path, number) };
    (0..shards).map(|number| ShardFile::new(file(number), Place { number, shards })).collect()
}

/// The shards whose files are there, as a store of several has them.
fn numbers(path: &Path) -> Vec<usize> {
    (0..MOST).filter(|number| numbered(path, *number).exists()).collect()
}

/// The shard of an atSign: the same for ever, on every machine.
pub(super) fn shard_of(atsign: &AtSign, shards: usize) -> usize {
    let digest = Sha256::digest(atsign.as_str().as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    let shards = u64::try_from(shards).unwrap_or(u64::MAX);
    usize::try_from(u64::from_be_bytes(first) % shards).unwrap_or_default()
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = format!("{stem}-{number}");
    let name =
        path.extension().map_or(name.clone(), |extension| format!("{name}.{}", extension.to_string_lossy()));
    path.with_file_name(name)
}

/// A connection that makes and changes nothing.
pub(super) fn look(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// How many shards a file says there are, if it can be read.
fn recorded(path: &Path) -> Option<usize> {
    let place = look(path).and_then(|connection| schema::place(&connection)).ok()??;
    (1..=MOST).contains(&place.shards).then_some(place.shards)
}

/// Whether a file is good and hosts nobody.
fn is_unused(path: &Path) -> bool {
    let hosts = look(path).and_then(|connection| {
        connection.query_row("SELECT count(*) FROM tenant", [], |row| row.get::<_, i64>(0))
    });
    hosts.is_ok_and(|hosts| hosts == 0)
}

/// Makes the file of an empty shard, whole or not at all.
fn make(path: &Path, place: Place) -> Result<(), OpenError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let made = fill(&draft, place).and_then(|()| match fs::hard_link(&draft, path) {
        // Another process was faster, with the same.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => Ok(linked?),
    });
    fs::remove_file(&draft).ok();
    made?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(File::open(folder)?.sync_all()?)
}

fn fill(draft: &Path, place: Place) -> Result<(), OpenError> {
    // It will hold keys: nobody else may read it, nor the files that SQLite makes beside it.
    OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(draft)?;
    let mut connection = Connection::open(draft)?;
    schema::migrate(&mut connection)?;
    schema::set_place(&connection, place)?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn names(folder: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_store_has_its_files_and_keeps_their_number() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("server.db");
        assert_eq!(files(&path, None).unwrap().len(), SHARDS);
        assert_eq!(names(&folder), ["server-0.db", "server-1.db", "server-2.db", "server-3.db"]);
        assert!(matches!(files(&path, Some(2)), Err(OpenError::Shards { found: 4, asked: 2 })));
        assert!(matches!(files(&path, Some(0)), Err(OpenError::ShardCount { .. })));
        // What was interrupted before it was done goes on; what was lost later is not made anew.
        for number in [0, 1] {
            fs::remove_file(numbered(&path, number)).unwrap();
        }
        assert_eq!(files(&path, Some(4)).unwrap().len(), 4);
        assert_eq!(names(&folder).len(), 4);
        fs::remove_file(numbered(&path, 2)).unwrap();
        assert_eq!(files(&path, None).unwrap().len(), 4);
        assert_eq!(names(&folder), ["server-0.db", "server-1.db", "server-3.db"]);
    }

    #[test]
    fn one_shard_is_the_file_itself() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("server.db");
        assert_eq!(files(&path, Some(1)).unwrap().len(), 1);
        assert_eq!(files(&path, None).unwrap().len(), 1, "the default is only for new stores");
        assert_eq!(names(&folder), ["server.db"]);
        fs::write(folder.path().join("server-3.db"), "").unwrap();
        assert!(matches!(files(&path, None), Err(OpenError::TwoStores { .. })));
    }

    #[test]
    fn an_atsign_stays_in_its_shard() {
        // Changing these would lose the tenants of every store there is.
        let of = |text: &str| shard_of(&text.parse().unwrap(), 4);
        assert_eq!(["@alice", "@bob", "@carol", "@dave", "@eve"].map(of), [3, 2, 2, 3, 3]);
    }
}
