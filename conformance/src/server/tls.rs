//! Certificates of a test.

use std::fs;
use std::path::{Path, PathBuf};

use registry_core::{Error, ErrorKind, Result};
use tokio::process::Command;

use super::directory::Directory;
use super::tool;

/// A certificate authority that only this test knows. Dropping it removes its files. It is made by `openssl`.
#[derive(Debug)]
pub struct Authority {
    directory: Directory,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key, in PKCS #8.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one.
    ///
    /// # Errors
    /// `Config` without `openssl`; `Unavailable` with what it says when it fails.
    pub async fn new() -> Result<Self> {
        let directory = Directory::new().map_err(|error| {
            Error::new(ErrorKind::Unavailable, "no directory for certificates").because(error)
        })?;
        let authority = Self { directory };
        let subject = "req -x509 -subj /O=conformance-authority -days 30 \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign";
        let key = authority.new_key("authority.key");
        authority
            .openssl(&format!("{subject} {key} -out authority.pem"))
            .await?;
        Ok(authority)
    }

    /// Its own certificate, which clients and servers are to trust.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("authority.pem")
    }

    /// Issues a certificate, valid for 10 days, for a server on loopback with this name beside `localhost`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub async fn server(&self, name: &str) -> Result<Identity> {
        let usage = format!(
            "subjectAltName=DNS:{name},DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"
        );
        self.issue(name, &usage).await
    }

    /// Issues a certificate, valid for 10 days, for a client. It has no common name, which etcd would take for a user.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub async fn client(&self, name: &str) -> Result<Identity> {
        self.issue(name, "extendedKeyUsage=clientAuth\n").await
    }

    async fn issue(&self, name: &str, extensions: &str) -> Result<Identity> {
        let file = |extension| self.directory.join(format!("{name}.{extension}"));
        fs::write(file("ext"), extensions).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "no file for a certificate").because(error)
        })?;
        let key = self.new_key(&format!("{name}.key"));
        self.openssl(&format!("req -subj /O={name} {key} -out {name}.csr"))
            .await?;
        let sign = "x509 -req -CA authority.pem -CAkey authority.key -CAcreateserial -days 10";
        self.openssl(&format!(
            "{sign} -in {name}.csr -extfile {name}.ext -out {name}.pem"
        ))
        .await?;
        Ok(Identity {
            certificate: file("pem"),
            key: file("key"),
        })
    }

    /// The arguments that make a new key.
    fn new_key(&self, file: &str) -> String {
        format!("-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {file}")
    }

    /// Runs it with these arguments, which have no spaces, in the directory.
    async fn openssl(&self, arguments: &str) -> Result<()> {
        let mut command = Command::new("openssl");
        command
            .args(arguments.split_whitespace())
            .current_dir(self.path());
        tool(command, b"").await.map(drop)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}
