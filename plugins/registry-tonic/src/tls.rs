//! TLS to one instance.

use std::io;
use std::sync::Arc;

use registry_core::{Address, Host, TlsConfig};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Speaks TLS on `stream`; the text of an error says what to look at.
pub(crate) async fn handshake(
    tls: &TlsConfig,
    name: Option<&str>,
    address: &Address,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, String> {
    let tls = tls.clone();
    // Files are read: what they say may have been renewed since the last connection.
    let config = spawn_blocking(move || client_config(&tls))
        .await
        .map_err(|error| error.to_string())??;
    let name = server_name(name, address)?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| format!("TLS fails: {}", explained(&error)))
}

fn server_name(name: Option<&str>, address: &Address) -> Result<ServerName<'static>, String> {
    match (name, address.host()) {
        (Some(name), _) => ServerName::try_from(name.to_owned()),
        (None, Host::Name(name)) => ServerName::try_from(name.to_string()),
        (None, Host::V4(ip)) => return Ok(ServerName::IpAddress((*ip).into())),
        (None, Host::V6(ip, _)) => return Ok(ServerName::IpAddress((*ip).into())),
    }
    .map_err(|error| format!("no certificate can be made out to this host: {error}"))
}

fn client_config(tls: &TlsConfig) -> Result<ClientConfig, String> {
    let text = |error: registry_core::Error| error.to_string();
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(tls)?);
    let mut config = match tls.read_identity().map_err(text)? {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let bad = |error: &dyn std::fmt::Display| {
                format!("the client's certificate or its key is refused: {error}")
            };
            let chain = CertificateDer::pem_slice_iter(&cert)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| bad(&error))?;
            let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| bad(&error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| bad(&error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn roots(tls: &TlsConfig) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let ca = tls.read_ca().map_err(|error| error.to_string())?;
    match ca {
        Some(ca) => {
            for certificate in CertificateDer::pem_slice_iter(&ca) {
                certificate
                    .map_err(|error| error.to_string())
                    .and_then(|one| roots.add(one).map_err(|error| error.to_string()))
                    .map_err(|error| {
                        format!("an authority in the file of ca is refused: {error}")
                    })?;
            }
        }
        // Some of the system's may be unreadable, which is no reason to trust none.
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err("there is no authority to trust; name a file with TlsConfig::ca".to_owned());
    }
    Ok(roots)
}

fn explained(error: &io::Error) -> String {
    let text = error.to_string();
    if text.contains("certificate") {
        format!("{text}; check server_name and the TlsConfig's ca and identity")
    } else {
        format!("{text}; does the instance speak TLS?")
    }
}
