//! A TLS connection that shows what the other end wrote, record by record.
//!
//! Clients rely on an answer and its prompt coming together, so scenarios look at single records, which
//! an ordinary TLS stream would merge.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use atedge_service::tls::read_certificates;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::process::PATIENCE;

/// What a client trusts, and the certificate it shows if it has one (chain and key in one PEM file).
///
/// # Errors
/// A file cannot be read.
pub fn client_config(ca: &Path, shows: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(read_certificates(ca)?);
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let config = match shows {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            builder.with_client_auth_cert(read_certificates(pem)?, PrivateKeyDer::from_pem_file(pem)?)?
        }
    };
    Ok(Arc::new(config))
}

/// One connection, read by records.
pub struct Wire {
    socket: TcpStream,
    tls: ClientConnection,
}

impl Wire {
    /// Connects to a server that calls itself `localhost`.
    ///
    /// # Errors
    /// Nobody is there, or the certificate does not hold.
    pub fn dial(address: SocketAddr, config: &Arc<ClientConfig>) -> Result<Self> {
        let socket = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        Self::over(socket, config)
    }

    /// The same over a socket that is connected already.
    ///
    /// # Errors
    /// The certificate does not hold, or the other end hangs up.
    pub fn over(socket: TcpStream, config: &Arc<ClientConfig>) -> Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let tls = ClientConnection::new(config.clone(), ServerName::try_from("localhost")?)?;
        let mut wire = Self { socket, tls };
        while wire.tls.is_handshaking() {
            wire.flush()?;
            if wire.tls.wants_read() {
                ensure!(wire.read_record()?, "hung up on during the TLS handshake");
            }
        }
        wire.flush()?;
        Ok(wire)
    }

    /// Connects and takes the greeting off.
    ///
    /// # Errors
    /// As [`Self::dial`], or the greeting is not `@` in a record of its own.
    pub fn greeted(address: SocketAddr, config: &Arc<ClientConfig>) -> Result<Self> {
        let mut wire = Self::dial(address, config)?;
        let greeting = wire.hear()?;
        ensure!(greeting.as_deref() == Some("@"), "greeted with {greeting:?}");
        Ok(wire)
    }

    /// The socket below.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The certificate that the other end has shown.
    #[must_use]
    pub fn certificate(&self) -> Option<&[u8]> {
        self.tls.peer_certificates()?.first().map(AsRef::as_ref)
    }

    /// Writes `bytes`, in one record if they fit.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn say(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.tls.writer().write(rest)?;
            rest = &rest[taken..];
            self.flush()?;
        }
        Ok(())
    }

    /// What the next record holds; `None` when the other end has closed.
    ///
    /// # Errors
    /// Nothing comes in time, or it is not UTF-8.
    pub fn hear(&mut self) -> Result<Option<String>> {
        loop {
            let mut text = Vec::new();
            match self.tls.reader().read_to_end(&mut text) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            if !text.is_empty() {
                return Ok(Some(String::from_utf8(text)?));
            }
            if !self.read_record()? {
                return Ok(None);
            }
        }
    }

    /// Says a line and gives the answer's one record.
    ///
    /// # Errors
    /// As [`Self::say`] and [`Self::hear`], or the other end closes.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        self.say(format!("{line}\n").as_bytes())?;
        self.hear()?.with_context(|| format!("hung up on after {line:.80}"))
    }

    /// Like [`Self::ask`], for an answer `data:…`, without that and the prompt.
    ///
    /// # Errors
    /// As [`Self::ask`], or the answer is another.
    pub fn ask_data(&mut self, line: &str) -> Result<String> {
        let answer = self.ask(line)?;
        let data = answer.strip_prefix("data:").and_then(|rest| rest.split('\n').next());
        Ok(data.with_context(|| format!("{line:.80} was answered {answer:.200}"))?.to_owned())
    }

    /// Like [`Self::ask_data`], for an answer of any size, which ends with the prompt of `atsign`.
    ///
    /// # Errors
    /// As [`Self::ask_data`].
    pub fn ask_long(&mut self, line: &str, atsign: &str) -> Result<String> {
        let end = format!("\n{atsign}@");
        let mut answer = self.ask(line)?;
        while !answer.ends_with(&end) {
            let more = self.hear()?;
            answer.push_str(&more.with_context(|| format!("hung up on within the answer to {line:.80}"))?);
        }
        let data = answer.strip_prefix("data:").and_then(|rest| rest.strip_suffix(&end));
        Ok(data.with_context(|| format!("{line:.80} was answered {answer:.200}"))?.to_owned())
    }

    fn flush(&mut self) -> Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Takes in exactly one record; false when there is none any more.
    fn read_record(&mut self) -> Result<bool> {
        let mut record = vec![0; 5];
        match self.socket.read_exact(&mut record) {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                ) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error).context("waited for an answer"),
        }
        let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
        record.resize(5 + length, 0);
        self.socket.read_exact(&mut record[5..])?;
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest)?;
            self.tls.process_new_packets()?;
        }
        self.flush()?;
        Ok(true)
    }
}
