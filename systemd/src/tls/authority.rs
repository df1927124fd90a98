//! A certificate authority in a folder, for development, tests and closed sites.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;

use super::{ClientCertificates, TlsError, server_config};
use crate::files::{make_private_folder, write_private, write_public};

/// A leaf is made anew at every start and before its end; what public authorities gave at most.
const LEAF_LIFETIME: Duration = Duration::from_hours(24 * 397);

/// A P-256 authority and the server's certificate from it: `ca.pem` (what clients trust), `ca.key` and
/// `server.pem` (chain and key in one file, so that the two never part).
///
/// The authority is made once and kept; the server's certificate is made at every start. It names
/// `localhost`, 127.0.0.1 and what else was asked for, and serves for both ends of a connection.
pub struct DevAuthority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file or the folder cannot be read or written.
    #[error("cannot keep the development authority in {}: {source}", path.display())]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The key in `ca.key` is damaged, or a name is none.
    #[error("cannot issue a certificate with {}: {source}", path.display())]
    Issue {
        /// The authority's key.
        path: PathBuf,
        /// What rcgen says.
        source: rcgen::Error,
    },
}

impl DevAuthority {
    /// Opens the authority in `folder`, or makes it, and issues the server's certificate for
    /// `localhost`, 127.0.0.1 and `names` (hosts or addresses).
    ///
    /// # Errors
    /// When the folder is not writable, its key is damaged, or a name is neither host nor address.
    pub fn open_or_create(folder: &Path, names: &[&str]) -> Result<Self, AuthorityError> {
        make_private_folder(folder).map_err(in_folder(folder))?;
        let authority = Self { folder: folder.to_owned(), issuer: open_issuer(folder)? };
        let mut hosts = vec!["localhost", "127.0.0.1"];
        hosts.extend(names.iter().filter(|name| !["localhost", "127.0.0.1"].contains(name)));
        authority.issue("server", &hosts)?;
        Ok(authority)
    }

    /// The authority's certificate: what clients have to trust.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The server's certificate.
    pub fn cert(&self) -> PathBuf {
        self.folder.join("server.pem")
    }

    /// The server's private key: the same file as [`Self::cert`].
    pub fn key(&self) -> PathBuf {
        self.cert()
    }

    /// A listener's configuration with the server's certificate.
    ///
    /// # Errors
    /// When the files were removed or changed meanwhile.
    pub fn server_config(&self, clients: ClientCertificates) -> Result<Arc<ServerConfig>, TlsError> {
        server_config(&self.cert(), &self.key(), clients)
    }

    /// Issues a certificate for `hosts`, the first of which becomes its common name, and writes it with
    /// its key to `<name>.pem` (mode 0600).
    ///
    /// # Errors
    /// When the folder is not writable or a host is no name.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> Result<PathBuf, AuthorityError> {
        let path = self.folder.join(format!("{name}.pem"));
        let made = || -> Result<String, rcgen::Error> {
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            let common_name = hosts.first().cloned().unwrap_or_default();
            let mut params = CertificateParams::new(hosts)?;
            let now = SystemTime::now();
            params.not_after = (now + LEAF_LIFETIME).into();
            params.distinguished_name.push(DnType::CommonName, common_name);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            params.use_authority_key_identifier_extension = true;
            let key = KeyPair::generate()?;
            let cert = params.signed_by(&key, &self.issuer)?;
            Ok(format!("{}{}", cert.pem(), key.serialize_pem()))
        };
        let pem = made().map_err(with_key(&path))?;
        write_private(&path, pem.as_bytes()).map_err(in_folder(&path))?;
        Ok(path)
    }
}

fn open_issuer(folder: &Path) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
    let (key_path, ca_path) = (folder.join("ca.key"), folder.join("ca.pem"));
    let key = match std::fs::read_to_string(&key_path) {
        Ok(pem) => KeyPair::from_pem(&pem).map_err(with_key(&key_path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate().map_err(with_key(&key_path))?;
            write_private(&key_path, key.serialize_pem().as_bytes()).map_err(in_folder(&key_path))?;
            key
        }
        Err(error) => return Err(in_folder(&key_path)(error)),
    };
    let params = authority_params();
    // A certificate lost between the two writes, or by hand, is made again from the key.
    if !ca_path.exists() {
        let ca = params.self_signed(&key).map_err(with_key(&key_path))?;
        write_public(&ca_path, ca.pem().as_bytes()).map_err(in_folder(&ca_path))?;
    }
    Ok(Issuer::new(params, key))
}

/// The same at every start: the issuer is the kept key under this name.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "atedge development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn in_folder(path: &Path) -> impl Fn(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::Folder { path: path.clone(), source }
}

fn with_key(path: &Path) -> impl Fn(rcgen::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::Issue { path: path.clone(), source }
}
