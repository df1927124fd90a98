//! The program as its users and its service manager see it.

use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// A registrar's.
const KEY: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

/// A process that does not outlive a test that fails.
struct Killed(Child);

impl Killed {
    /// A directory that runs by this configuration, when it says that it is ready.
    fn run(folder: &Path, name: &str, settings: &str) -> Result<Self> {
        let (file, state) = (folder.join(format!("{name}.toml")), folder.join(name));
        std::fs::write(&file, format!("schema = 1\n[tls]\ndev = true\n{settings}"))?;
        let socket = folder.join(format!("{name}.notify"));
        std::fs::remove_file(&socket).ok();
        let manager = UnixDatagram::bind(&socket)?;
        manager.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_atedge-directory"));
        command.args(["run", "--config", path(&file)?, "--state", path(&state)?]);
        let started = Self(command.env("NOTIFY_SOCKET", &socket).stderr(Stdio::null()).spawn()?);
        manager.recv(&mut [0; 512])?;
        Ok(started)
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn directory(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_atedge-directory")).args(arguments).output()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

#[test]
fn atsigns_are_added_listed_and_removed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let state = path(folder.path())?;
    let out = directory(&["add", "@Alice", "a.example:6464", "--state", state])?;
    assert_eq!(text(&out.stdout), "@alice is served at a.example:6464\n");
    let out = directory(&["add", "alice", "b.example:1", "--state", state, "--json"])?;
    assert_eq!(
        text(&out.stdout),
        "{\"atsign\":\"@alice\",\"address\":\"b.example:1\",\"before\":\"a.example:6464\"}\n"
    );
    let out = directory(&["list", "--state", state, "--json"])?;
    assert_eq!(text(&out.stdout), "{\"atsign\":\"@alice\",\"address\":\"b.example:1\"}\n");
    assert_eq!(directory(&["remove", "@alice", "--state", state])?.status.code(), Some(0));
    let out = directory(&["remove", "@alice", "--state", state])?;
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(text(&out.stderr), "error: @alice is not served\n");
    Ok(())
}

#[test]
fn many_are_imported_and_the_bad_ones_are_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (state, file) = (path(folder.path())?, folder.path().join("fleet.txt"));
    std::fs::write(&file, "@alice a.example:1\n@bob nowhere\n@carol c.example:3\n")?;
    let out = directory(&["import", path(&file)?, "--state", state, "--json"])?;
    assert_eq!(out.status.code(), Some(1));
    let bad = "line 2: \\\"nowhere\\\" is not an address like host.example:6464";
    assert_eq!(text(&out.stdout), format!("{{\"taken\":2,\"bad\":1,\"errors\":[\"{bad}\"]}}\n"));
    let mut piped = Command::new(env!("CARGO_BIN_EXE_atedge-directory"))
        .args(["import", "-", "--state", state])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    piped.stdin.take().context("a pipe")?.write_all(b"@dave d.example:4\n")?;
    let out = piped.wait_with_output()?;
    assert_eq!(text(&out.stdout), "1 lines are in the registry, 0 are not\n");
    assert_eq!(out.status.code(), Some(0));
    let out = directory(&["list", "--state", state])?;
    assert_eq!(text(&out.stdout), "@alice a.example:1\n@carol c.example:3\n@dave d.example:4\n");
    Ok(())
}

/// A port that was free a moment ago, for TCP and UDP.
fn free_port() -> Result<u16> {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let port = tcp.local_addr()?.port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
}

#[test]
fn a_directory_that_is_killed_is_followed_on_by_the_next() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let state = |name: &str| folder.path().join(name).to_str().map(str::to_owned).context("a path in UTF-8");
    let (first, second) = (state("first")?, state("second")?);
    let key = |state: &str| -> Result<String> {
        Ok(text(&directory(&["node", "--state", state])?.stdout).trim_end().to_owned())
    };
    let port = free_port()?;
    let listen = |port| format!("[listen]\naddress = \"127.0.0.1:{port}\"\n");
    let leads = format!("{}[followers]\nnodes = [\"{}\"]\n", listen(port), key(&second)?);
    let follows = format!(
        "{}[replica]\nof = \"localhost:{port}\"\nnode = \"{}\"\n",
        listen(free_port()?),
        key(&first)?
    );
    let mut leader = Killed::run(folder.path(), "first", &leads)?;
    let _follower = Killed::run(folder.path(), "second", &follows)?;
    let list = |state: &str| -> Result<String> { Ok(text(&directory(&["list", "--state", state])?.stdout)) };
    for round in 0..3 {
        let names: String = (0..3_000).map(|n| format!("@a{n} host{n}.example:{}\n", round + 1)).collect();
        let file = folder.path().join("names.txt");
        std::fs::write(&file, names)?;
        let out = directory(&["import", path(&file)?, "--state", &first])?;
        ensure!(out.status.success(), "{}", text(&out.stderr));
        directory(&["remove", &format!("@a{round}"), "--state", &first])?;
        // Wherever it was.
        drop(leader);
        leader = Killed::run(folder.path(), "first", &leads)?;
        let expected = list(&first)?;
        assert_eq!(expected.lines().count(), 2_999);
        while list(&second)? != expected {}
    }
    let out = directory(&["add", "@a1", "a.example:1", "--state", &second])?;
    assert_eq!(text(&out.stderr), "error: this directory follows another one: say it there\n");
    let out = directory(&["add", "@a1", "a.example:1", "--state", &second, "--force"])?;
    assert_eq!(text(&out.stdout), "@a1 is served at a.example:1\n");
    Ok(())
}

#[test]
fn a_bad_configuration_is_shown_where_it_is_bad() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("directory.toml");
    let file = path(&file)?;
    let shown = |toml: &str| -> Result<String> {
        std::fs::write(file, toml)?;
        let out = directory(&["check", "--config", file])?;
        ensure!(out.status.code() == Some(2), "exit {:?}", out.status);
        Ok(text(&out.stderr))
    };
    assert_eq!(
        shown("schema = 1\n[listen]\nadress = \"127.0.0.1:6400\"\n[tls]\ndev = true\n")?,
        format!(
            "error: unknown setting `adress`\n  --> {file}:3:1\n   |\n 3 | adress = \"127.0.0.1:6400\"\n   | \
             ^^^^^^ expected `address`\n1 error. The running configuration is unchanged.\n"
        )
    );
    let without_unit = shown("schema = 1\n[listen]\nidle = 60\n[tls]\ndev = true\n")?;
    assert!(
        without_unit.contains(
            " 3 | idle = 60\n   |        ^^ expected a time with its unit, like \"10s\", found 60\n"
        ),
        "{without_unit}"
    );
    let no_key = shown("schema = 1\n[tls]\ncert = \"/no/such.pem\"\nkey = \"/no/key.pem\"\n")?;
    assert!(no_key.starts_with("error: cannot read a certificate from /no/such.pem"), "{no_key}");
    assert!(no_key.contains(":3:8\n"), "{no_key}");
    assert_eq!(directory(&["check", "--config", "/no/such.toml"])?.status.code(), Some(2));
    assert_eq!(directory(&["add", "@a:b", "a.example:1"])?.status.code(), Some(2));
    Ok(())
}

#[test]
fn the_service_manager_hears_ready_and_stopping() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("directory.toml");
    std::fs::File::create(&file)?
        .write_all(b"schema = 1\n[listen]\naddress = \"127.0.0.1:0\"\n[tls]\ndev = true\n")?;
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket)?;
    manager.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_atedge-directory"));
    command.args(["run", "--config", path(&file)?, "--state", path(folder.path())?]);
    let Killed(running) = &mut Killed(command.env("NOTIFY_SOCKET", &socket).spawn()?);
    let hear = || -> Result<String> {
        let mut buffer = [0; 512];
        let count = manager.recv(&mut buffer)?;
        Ok(text(&buffer[..count]).trim_end().to_owned())
    };
    assert_eq!(hear()?, "READY=1");
    assert!(hear()?.starts_with("STATUS=answering on 127.0.0.1:"));
    let pid = rustix::process::Pid::from_child(running);
    let good = std::fs::read_to_string(&file)?;
    for (text, told) in [
        ("schema = 1\n[listen]\nadress = 1\n", "by the configuration as it was, since the file is no good"),
        (
            &format!("{good}[[registrar]]\nkey = \"ed25519:{KEY}\"\natsigns = [\"@plant7*\"]\n"),
            "as it is now",
        ),
    ] {
        std::fs::write(&file, text)?;
        rustix::process::kill_process(pid, rustix::process::Signal::HUP)?;
        let status = hear()?;
        ensure!(status.starts_with("STATUS=answering on ") && status.ends_with(told), "{status}");
    }
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    assert_eq!(hear()?, "STOPPING=1");
    assert_eq!(running.wait()?.code(), Some(0));
    Ok(())
}
