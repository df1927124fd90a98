//! A server that reads its answers off a sheet, to the byte.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

use crate::Wire;

/// What `client` makes of a server that expects these lines and answers them so, and is silent then.
pub(crate) async fn with_server<T>(
    script: &[(&str, &str)],
    client: impl AsyncFnOnce(&mut Wire<DuplexStream>) -> T,
) -> T {
    // Less than a line: neither side gets away with the thought that writes are taken whole.
    let (ours, theirs) = tokio::io::duplex(64);
    let talk = async {
        let mut wire = Wire::open(ours).await.unwrap();
        client(&mut wire).await
    };
    tokio::join!(talk, serve(theirs, script)).0
}

/// Hands the stream back, since dropping it would close it.
async fn serve(stream: DuplexStream, script: &[(&str, &str)]) -> DuplexStream {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"@").await.unwrap();
    for (line, answer) in script {
        let mut said = String::new();
        stream.read_line(&mut said).await.unwrap();
        assert!(said.starts_with(line), "{said} is not {line}");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    stream.into_inner()
}
