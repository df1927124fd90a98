//! The tool against a town of its own: real processes, real TLS.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const ATEDGE: &str = env!("CARGO_BIN_EXE_atedge");

/// `atedge town`, until dropped or told to end.
struct Town {
    process: Child,
    said: Value,
}

impl Town {
    fn found(folder: &Path) -> Self {
        Self::found_over(folder, Stdio::piped())
    }

    fn found_over(folder: &Path, input: Stdio) -> Self {
        let mut process = Command::new(ATEDGE)
            .args(["town", "--atsigns", "@alice,@bob", "--dir"])
            .arg(folder)
            .stdin(input)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, said: serde_json::from_str(&line).unwrap() }
    }

    /// Closes its standard input, which ends it.
    fn end(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }

    fn atedge(&self, home: &Path, args: &[&str]) -> Output {
        Command::new(ATEDGE)
            .args(args)
            .env("HOME", home)
            .env("ATEDGE_DIRECTORY", self.said["directory"].as_str().unwrap())
            .env("ATEDGE_CA", self.said["ca"].as_str().unwrap())
            .output()
            .unwrap()
    }

    fn done(&self, home: &Path, args: &[&str]) -> String {
        let output = self.atedge(home, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn onboard(town: &Town, home: &Path, atsign: &str) -> Output {
    let cram = home.join("cram");
    std::fs::write(&cram, town.said["atsigns"][atsign]["cram"].as_str().unwrap()).unwrap();
    town.atedge(home, &["onboard", atsign, "--cram-file", cram.to_str().unwrap()])
}

/// In the background, as a service or with `nohup`, standard input is at its end from the start.
#[test]
fn a_town_whose_input_nobody_holds_stays() {
    let folder = TempDir::new().unwrap();
    let home = TempDir::new().unwrap();
    let mut town = Town::found_over(folder.path(), Stdio::null());
    let output = onboard(&town, home.path(), "@alice");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(town.process.try_wait().unwrap().is_none(), "it runs");
}

#[test]
fn a_town_is_found_again_as_it_was_left() {
    let folder = TempDir::new().unwrap();
    let home = TempDir::new().unwrap();
    let home = home.path();
    let town = Town::found(folder.path());
    for atsign in ["@alice", "@bob"] {
        let output = onboard(&town, home, atsign);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    town.done(home, &["put", "@alice", "public:place.plant7", "Hall 3"]);
    town.done(home, &["put", "@alice", "@bob:note.plant7", "for bob: ümlaut \"quoted\""]);
    town.done(home, &["put", "@alice", "own.plant7", "mine"]);
    let said = town.said.clone();
    town.end();

    let town = Town::found(folder.path());
    assert_eq!(town.said, said);
    assert_eq!(town.done(home, &["get", "@bob", "public:place.plant7@alice"]), "Hall 3\n");
    assert_eq!(town.done(home, &["get", "@bob", "note.plant7@alice"]), "for bob: ümlaut \"quoted\"\n");
    assert_eq!(town.done(home, &["get", "@alice", "own.plant7", "--json"]).matches("\"mine\"").count(), 1);
    assert!(!town.atedge(home, &["get", "@bob", "own.plant7@alice"]).status.success());
    town.done(home, &["delete", "@alice", "own.plant7"]);
    let keys = town.done(home, &["scan", "@alice", r"\.plant7@"]);
    assert_eq!(keys, "@bob:note.plant7@alice\npublic:place.plant7@alice\n");
    assert!(
        town.done(home, &["notify", "@alice", "@bob", "hello.plant7", "hi", "--wait", "20s"])
            .contains("delivered")
    );
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let folder = TempDir::new().unwrap();
    let home = TempDir::new().unwrap();
    let home = home.path();
    let town = Town::found(folder.path());
    let complaint = |args: &[&str]| {
        let output = town.atedge(home, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    };
    assert!(complaint(&["get", "@alice", "x.plant7"]).contains("atedge onboard"));
    assert!(onboard(&town, home, "@alice").status.success());
    assert!(complaint(&["get", "@alice", "nothing.plant7"]).contains("nothing.plant7@alice does not exist"));
    assert!(complaint(&["put", "@alice", "x.plant7@bob", "1"]).contains("@bob"));
    assert!(complaint(&["put", "@alice", "@bob:x.plant7", "1"]).contains("@bob"), "bob is not activated");
    assert!(complaint(&["put", "@alice", "@nobody:x.plant7", "1"]).contains("@nobody"));
    let again = onboard(&town, home, "@alice");
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("@alice"));
}
