//! The same answers for browsers.

use anyhow::{Context, Result};
use atedge_directory::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::site::{Site, site};

/// The status line, the header `location` and the body of an answer.
async fn get(site: &Site, request: &str) -> Result<(String, Option<String>, String)> {
    let address = site.running.https.context("HTTPS")?;
    // What a browser asks for.
    let mut wire = site.to(address, &[b"h2", b"http/1.1"]).await?;
    let head = format!("{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    wire.write_all(head.as_bytes()).await?;
    let mut text = String::new();
    wire.read_to_string(&mut text).await?;
    let (head, body) = text.split_once("\r\n\r\n").context("a head")?;
    let location = head.lines().find_map(|line| line.strip_prefix("location: "));
    let status = head.lines().next().context("a status")?;
    Ok((status.to_owned(), location.map(str::to_owned), body.to_owned()))
}

#[tokio::test]
async fn a_browser_is_told_where_an_atsign_is_and_led_there() -> Result<()> {
    let site = site(Limits::default()).await?;
    let at = |status: &str, location: Option<&str>, body: &str| {
        (format!("HTTP/1.1 {status}"), location.map(str::to_owned), body.to_owned())
    };
    assert_eq!(get(&site, "GET /@alice").await?, at("200 OK", None, "a.example:6464"));
    assert_eq!(get(&site, "GET /%40Alice").await?, at("200 OK", None, "a.example:6464"));
    let led = at("302 Found", Some("https://a.example:6464/atom/public?x=1"), "");
    assert_eq!(get(&site, "GET /@alice/atom/public?x=1").await?, led);
    for missing in ["/@nobody", "/", "/alice", "/@nobody/x"] {
        let nothing = at("404 Not Found", None, "404 Not Found\n");
        assert_eq!(get(&site, &format!("GET {missing}")).await?, nothing, "{missing}");
    }
    assert_eq!(get(&site, "POST /@alice").await?.0, "HTTP/1.1 405 Method Not Allowed");
    Ok(())
}
