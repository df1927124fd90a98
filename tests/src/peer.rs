//! Another atSign's server, as little of it as a proof by `pol` needs: it shows its signing key and the
//! signatures that were asked of it, to anybody who looks them up.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use at_protocol::crypto::{Hash, RsaPrivateKey};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::replay::{Conversation, ask};

/// A server of one atSign, on loopback, until the process ends.
pub struct Peer {
    atsign: String,
    signing: RsaPrivateKey,
    records: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Peer {
    /// Serves `atsign`, whose servers sign with `signing`, on an address that the directory names.
    ///
    /// # Errors
    /// The address is taken.
    pub fn serve(
        atsign: &str,
        signing: RsaPrivateKey,
        address: SocketAddr,
        tls: Arc<ServerConfig>,
    ) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        let key = (format!("signing_publickey{atsign}"), signing.public().to_base64().to_owned());
        let records = Arc::new(Mutex::new(BTreeMap::from([key])));
        let shown = Arc::clone(&records);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (tls, shown) = (Arc::clone(&tls), Arc::clone(&shown));
                // A caller who hangs up is no fault of ours.
                std::thread::spawn(move || answer(socket, tls, &shown).ok());
            }
        });
        Ok(Self { atsign: atsign.to_owned(), signing, records })
    }

    /// Proves on `wire`, a connection to another server, who we are.
    ///
    /// # Errors
    /// The other server does not believe it.
    pub fn sign_in(&self, wire: &mut dyn Conversation) -> Result<()> {
        let challenge = ask(wire, &format!("from:{}", self.atsign))?;
        let (cookie, proof) = challenge
            .strip_prefix("proof:")
            .and_then(|challenge| challenge.rsplit_once(':'))
            .with_context(|| format!("not a challenge for a peer: {challenge}"))?;
        let signature = self.signing.sign(proof.as_bytes(), Hash::Sha256);
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.insert(cookie.to_owned(), signature);
        drop(records);
        wire.say(b"pol\n")?;
        let answer = wire.hear()?;
        ensure!(answer == Some(format!("{}@", self.atsign)), "pol was answered {answer:?}");
        Ok(())
    }
}

fn answer(socket: TcpStream, tls: Arc<ServerConfig>, shown: &Mutex<BTreeMap<String, String>>) -> Result<()> {
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(tls)?, socket));
    stream.get_mut().write_all(b"@")?;
    let mut line = String::new();
    while stream.read_line(&mut line)? > 0 {
        let name = line.trim().strip_prefix("lookup:").unwrap_or_default();
        let record = shown.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let answer = match record {
            Some(value) => format!("data:{value}\n@"),
            None => format!("error:AT0015-Exception: public:{name} does not exist in keystore\n@"),
        };
        stream.get_mut().write_all(answer.as_bytes())?;
        line.clear();
    }
    Ok(())
}
