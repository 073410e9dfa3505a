//! TLS as every backend's URL says it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::target::Options;

/// How a registry is reached over TLS. In a URL: `tls`, `ca=FILE`, `cert=FILE` and `key=FILE`; each of the last three
/// implies the first.
///
/// The files are read whenever a connection is prepared, so that a renewed certificate is used from the next one on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsConfig {
    /// A PEM file with the authorities to trust in place of the system's. Default: the system's.
    pub ca: Option<PathBuf>,
    /// The PEM files of the client's certificate chain and of its private key. Default: none is shown.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl TlsConfig {
    /// Reads the options `tls`, `ca`, `cert` and `key`; `None` where the connection is plain.
    ///
    /// # Errors
    /// `Config` for a certificate without its key or a key without its certificate, and for files beside `tls=false`.
    pub fn from_options(options: &mut Options<'_>) -> Result<Option<Self>> {
        let wanted = options.flag("tls")?;
        let mut file = |name| options.text(name).map(PathBuf::from);
        let this = Self {
            ca: file("ca"),
            identity: match (file("cert"), file("key")) {
                (Some(cert), Some(key)) => Some((cert, key)),
                (None, None) => None,
                _ => return Err(config("the options \"cert\" and \"key\" go together")),
            },
        };
        match (wanted, this == Self::default()) {
            (Some(false), false) => Err(config(
                "tls=false contradicts the options \"ca\", \"cert\" and \"key\"",
            )),
            (Some(false) | None, true) => Ok(None),
            _ => Ok(Some(this)),
        }
    }

    /// Trusts the authorities in this PEM file in place of the system's.
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// Shows the certificate in the first PEM file, with the private key in the second.
    pub fn identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((cert.into(), key.into()));
        self
    }

    /// The authorities to trust, as PEM.
    ///
    /// # Errors
    /// `Config` when the file cannot be read.
    pub fn read_ca(&self) -> Result<Option<Vec<u8>>> {
        self.ca.as_deref().map(read).transpose()
    }

    /// The client's certificate chain and private key, as PEM.
    ///
    /// # Errors
    /// `Config` when one of the files cannot be read.
    pub fn read_identity(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let identity = self.identity.as_ref();
        identity
            .map(|(cert, key)| Ok((read(cert)?, read(key)?)))
            .transpose()
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|error| {
        config("a file that the TLS options name cannot be read")
            .with("file", file.display())
            .because(error)
    })
}

fn config(why: &str) -> Error {
    Error::new(ErrorKind::Config, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::RegistryUrl;

    fn read_from(query: &str) -> Result<Option<TlsConfig>> {
        let url: RegistryUrl = format!("x://h?{query}").parse().unwrap();
        let mut options = url.options();
        let tls = TlsConfig::from_options(&mut options)?;
        options.finish()?;
        Ok(tls)
    }

    #[test]
    fn a_file_implies_tls_and_contradictions_are_refused() {
        assert_eq!(read_from("").unwrap(), None);
        assert_eq!(read_from("tls=false").unwrap(), None);
        assert_eq!(read_from("tls").unwrap(), Some(TlsConfig::default()));
        let files = TlsConfig::default().ca("c").identity("a", "b");
        assert_eq!(read_from("ca=c&cert=a&key=b").unwrap(), Some(files));
        for bad in ["cert=a", "key=b", "tls=false&ca=c", "tls=1"] {
            assert_eq!(
                read_from(bad).unwrap_err().kind(),
                ErrorKind::Config,
                "{bad}"
            );
        }
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let error = TlsConfig::default()
            .ca("no/such.pem")
            .read_ca()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("no/such.pem"), "{error}");
    }
}
