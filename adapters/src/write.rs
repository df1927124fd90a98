//! Bytes for a device, which may not take them.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// A write that is not taken within this long has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes all of it; after an error a part may have been taken.
pub(crate) async fn write(device: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let writing = async {
        device.write_all(bytes).await?;
        device.flush().await
    };
    timeout(PATIENCE, writing).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
