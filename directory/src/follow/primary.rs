//! The directory that is followed: one follower's stream.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use at_protocol::line::LineSplitter;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{LONGEST_LINE, Line, Request};
use crate::desk::{Desk, blocking};
use crate::registry::{News, Registry, RegistryError};

/// How long a follower may take for its first line, and to accept what it is told.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells a follower what has changed and changes, until either side ends it or `is_welcome` says otherwise.
pub(crate) async fn tell<S>(
    mut stream: S,
    desk: &Desk,
    is_welcome: impl Fn() -> bool,
    stop: &CancellationToken,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = timeout(PATIENCE, first_line(&mut stream)).await??;
    let registry = &desk.registry;
    let mut changed = registry.changed();
    let story = asking(registry, Registry::story).await?;
    let is_near = story.id == request.id && (story.floor..=story.last).contains(&request.change);
    let (first, mut told) = if is_near { (Line::On, request.change) } else { (Line::Anew(story.id), 0) };
    let mut text = format!("{first}\n");
    let mut is_told = false;
    loop {
        changed.mark_unchanged();
        let News { lines, last } = asking(registry, move |registry| registry.news(told)).await?;
        for line in &lines {
            writeln!(text, "{line}").map_err(io::Error::other)?;
        }
        let is_last = lines.is_empty();
        if is_last && !is_told {
            writeln!(text, "{}", Line::Upto(last)).map_err(io::Error::other)?;
        } else if !is_last {
            writeln!(text, "{}", Line::Part(last)).map_err(io::Error::other)?;
        }
        told = last;
        is_told = is_last;
        timeout(PATIENCE, async {
            stream.write_all(text.as_bytes()).await?;
            stream.flush().await
        })
        .await??;
        text.clear();
        if is_last {
            tokio::select! {
                changed = changed.changed() => if changed.is_err() { return Ok(()) },
                // It says nothing more: this is its end.
                _ = stream.read_u8() => return Ok(()),
                () = stop.cancelled() => return Ok(()),
            }
        }
        if !is_welcome() {
            return Ok(());
        }
    }
}

async fn first_line<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Request> {
    let mut lines = LineSplitter::new(LONGEST_LINE);
    let mut buffer = [0; 256];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        lines.feed(&buffer[..count]);
        match lines.next_line().map_err(io::Error::other)? {
            Some(at_protocol::line::Line::Text(text)) => return text.parse().map_err(io::Error::other),
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
            None => {}
        }
    }
}

async fn asking<T: Send + 'static>(
    registry: &Arc<Registry>,
    question: impl FnOnce(&Registry) -> Result<T, RegistryError> + Send + 'static,
) -> io::Result<T> {
    let registry = Arc::clone(registry);
    blocking(move || question(&registry)).await.map_err(io::Error::other)
}
