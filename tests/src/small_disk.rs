//! A disk of a few megabytes for one program, which nobody else sees.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::process;

/// Runs a program with its state on a disk of its own, all memory, which goes with it.
const SCRIPT: &str = "#!/bin/sh
exec unshare --mount sh -c '
    set -e
    mkdir -p \"$0.disk\"
    mount -t tmpfs -o size=SIZE tmpfs \"$0.disk\"
    cp -a \"$0\"/. \"$0.disk\"
    mount --bind \"$0.disk\" \"$0\"
    exec \"$@\"
' 'STATE' 'PROGRAM' \"$@\"
";

/// A script that runs `program` so, with the folder `state` on a disk of `size`, as mount has it (`8m`). It takes
/// root.
///
/// # Errors
/// The program has not been built, or the script cannot be written.
pub fn script(folder: &Path, program: &str, state: &Path, size: &str) -> Result<String> {
    fs::create_dir_all(state)?;
    let path = folder.join(format!("{program}-on-a-small-disk"));
    let text = SCRIPT
        .replace("SIZE", size)
        .replace("STATE", &state.display().to_string())
        .replace("PROGRAM", &process::program(program)?.display().to_string());
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path.to_str().context("a path in UTF-8")?.to_owned())
}

/// A disk of its own under a folder, in a file beside it; it goes with this.
pub struct Disk {
    image: PathBuf,
    folder: PathBuf,
}

impl Disk {
    /// Makes a new one of so many MiB and has it stand at `folder`. It takes root.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn mount(folder: &Path, mebibytes: u64) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let image = folder.with_extension("disk");
        File::create(&image)?.set_len(mebibytes << 20)?;
        let disk = Self { image, folder: folder.to_owned() };
        call(Command::new("mkfs.ext4").arg("-qF").arg(&disk.image))?;
        disk.insert()?;
        Ok(disk)
    }

    /// Has it turn read-only, as one does that fails.
    ///
    /// # Errors
    /// The system refuses.
    pub fn fail(&self) -> Result<()> {
        call(Command::new("mount").args(["-o", "remount,abort"]).arg(&self.folder))
    }

    /// Takes it out, which nobody uses, checks it and puts it back.
    ///
    /// # Errors
    /// It is beyond repair.
    pub fn replug(&self) -> Result<()> {
        call(Command::new("umount").arg(&self.folder))?;
        // It says by its status that it has repaired something.
        Command::new("e2fsck").arg("-fy").arg(&self.image).output()?;
        self.insert()
    }

    fn insert(&self) -> Result<()> {
        call(Command::new("mount").args(["-o", "loop"]).args([&self.image, &self.folder]))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has files on it keeps them until it ends.
        call(Command::new("umount").arg("--lazy").arg(&self.folder)).ok();
    }
}

fn call(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

/// The folder `state` as the process `id` sees it.
#[must_use]
pub fn seen_by(id: u32, state: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{id}/root{}", state.display()))
}

/// Writes to `path` until there is no room but so many bytes, so that the end comes in the middle of something.
///
/// # Errors
/// The file cannot be made.
pub fn fill(path: &Path, room: u64) -> Result<()> {
    let mut file = File::create(path)?;
    while file.write_all(&[0x5a; 4096]).is_ok() {}
    let size = file.metadata()?.len();
    Ok(file.set_len(size.saturating_sub(room))?)
}
