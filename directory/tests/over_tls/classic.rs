//! Asked the way classic clients ask.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use atedge_directory::{Limits, Registry};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::site::{Site, ask, one_read, site};

#[tokio::test]
async fn the_c_client_sends_a_blank_line_first() -> Result<()> {
    let site = site(Limits::default()).await?;
    let mut wire = site.greeted().await?;
    assert_eq!(ask(&mut wire, "\r\n").await?, "null\r\n@");
    assert_eq!(ask(&mut wire, "alice\r\n").await?, "a.example:6464\r\n@");
    // Its first real miss is not held back, though the blank line was answered like one.
    assert_eq!(ask(&mut wire, "nobody\r\n").await?, "null\r\n@");
    Ok(())
}

#[tokio::test]
async fn a_client_that_asks_for_other_protocols_is_served_like_any() -> Result<()> {
    let site = site(Limits::default()).await?;
    let mut wire = site.speaking(&[b"http/1.1", b"h2"]).await?;
    assert_eq!(one_read(&mut wire).await?, "@");
    assert_eq!(wire.get_ref().1.alpn_protocol(), None);
    assert_eq!(ask(&mut wire, "record:@alice\n").await?, "null\r\n@");
    assert_eq!(ask(&mut wire, "alice\n").await?, "a.example:6464\r\n@");
    Ok(())
}

#[tokio::test]
async fn the_dart_client_says_goodbye() -> Result<()> {
    let site = site(Limits::default()).await?;
    let mut wire = site.greeted().await?;
    assert_eq!(ask(&mut wire, "bob\n").await?, "b.example:25000\r\n@");
    assert_eq!(ask(&mut wire, "@exit\n").await?, "");
    Ok(())
}

#[tokio::test]
async fn many_questions_in_one_connection_are_answered_in_order() -> Result<()> {
    let site = site(Limits::default()).await?;
    let (mut answers, mut questions) = tokio::io::split(site.greeted().await?);
    let asked = tokio::spawn(async move {
        for _ in 0..2_000 {
            questions.write_all(b"alice\n@BOB\r\n").await?;
        }
        questions.flush().await?;
        Ok::<_, std::io::Error>(questions)
    });
    let expected = "a.example:6464\r\n@b.example:25000\r\n@".repeat(2_000);
    let mut heard = vec![0; expected.len()];
    answers.read_exact(&mut heard).await?;
    asked.await??;
    assert!(heard == expected.as_bytes());
    Ok(())
}

#[tokio::test]
async fn an_endless_line_ends_the_connection_without_a_word() -> Result<()> {
    let site = site(Limits::default()).await?;
    let mut quiet = site.greeted().await?;
    let mut wire = site.greeted().await?;
    assert_eq!(ask(&mut wire, &"x".repeat(256)).await?, "");
    assert_eq!(ask(&mut quiet, "alice\n").await?, "a.example:6464\r\n@");
    Ok(())
}

#[tokio::test]
async fn ten_thousand_random_lines_do_not_disturb_others() -> Result<()> {
    const LINES: usize = 10_000;
    const LINES_EACH: usize = 100;
    let seed: u64 = 0x5eed_0001;
    println!("seed {seed:#x}");
    let mut random = SplitMix(seed);
    let site = site(Limits::default()).await?;
    let mut honest = site.greeted().await?;
    for _ in 0..LINES / LINES_EACH {
        let mut wire = site.greeted().await?;
        let noise: Vec<u8> = (0..LINES_EACH).flat_map(|_| random.line()).collect();
        // It may be cut off while it talks, or be left waiting: both are fine.
        wire.write_all(&noise).await.ok();
        assert_eq!(ask(&mut honest, "alice\n").await?, "a.example:6464\r\n@");
    }
    Ok(())
}

#[tokio::test]
async fn a_full_directory_turns_away_and_has_room_again() -> Result<()> {
    let site = site(Limits { connections: 1, ..Limits::default() }).await?;
    let mut only = site.greeted().await?;
    assert!(site.dial().await.is_err());
    assert_eq!(ask(&mut only, "@exit").await?, "");
    drop(only);
    // The seat is free a moment after the goodbye.
    while site.greeted().await.is_err() {
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test]
async fn who_never_begins_tls_is_hung_up_on() -> Result<()> {
    let limits = Limits { handshake: Duration::from_millis(50), ..Limits::default() };
    let site = site(limits).await?;
    let mut socket = TcpStream::connect(site.running.address).await?;
    assert_eq!(socket.read(&mut [0; 16]).await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_another_process_adds_is_answered() -> Result<()> {
    let site = site(Limits::default()).await?;
    let tool = Registry::open(site.folder.path())?;
    tool.put(&"@carol".parse()?, &"c.example:1".parse()?)?;
    // Each in a connection of its own: a second miss would be held back.
    loop {
        match ask(&mut site.greeted().await?, "carol\n").await?.as_str() {
            "null\r\n@" => tokio::task::yield_now().await,
            "c.example:1\r\n@" => return Ok(()),
            other => bail!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn it_stops_with_connections_open() -> Result<()> {
    let Site { running, client, folder, stop } = site(Limits::default()).await?;
    let socket = TcpStream::connect(running.address).await?;
    let tls = TlsConnector::from(client);
    let mut wire = tls.connect(ServerName::try_from("localhost")?, socket).await?;
    ensure!(one_read(&mut wire).await? == "@");
    drop(stop);
    assert_eq!(one_read(&mut wire).await.context("a clean end")?, "");
    running.wait().await;
    drop(folder);
    Ok(())
}

/// A small generator, so that a failing run can be repeated from its seed.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Up to 300 bytes of anything, and a line end.
    fn line(&mut self) -> Vec<u8> {
        let length = self.next() % 300;
        let mut line: Vec<u8> = (0..length).map(|_| self.next().to_le_bytes()[0]).collect();
        line.push(b'\n');
        line
    }
}
