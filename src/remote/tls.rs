//! Whom to trust in explicit FTPS, and the TLS settings of one control connection.
//!
//! Promise: a certificate is accepted only when its chain ends at the trusted roots (or it stands in the operator's own
//! file itself), it is valid now, and it is made out to the configured host. There is no switch to turn that off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
};

/// The roots could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The operator's file cannot be read, or is no PEM.
    #[error("cannot read the certificates in {path}: {source}; processor_ftp_tls_ca names a PEM file")]
    File {
        /// `processor_ftp_tls_ca`.
        path: PathBuf,
        /// The cause.
        source: rustls::pki_types::pem::Error,
    },
    /// The file holds no certificate that can serve as a root.
    #[error("{path} holds no usable certificate; processor_ftp_tls_ca names a PEM file with the server's CA")]
    Empty {
        /// `processor_ftp_tls_ca`.
        path: PathBuf,
    },
    /// The system has no roots.
    #[error("this system has no CA certificates; install them, or name the server's CA in processor_ftp_tls_ca")]
    NoSystemRoots,
    /// The TLS library refuses its own settings.
    #[error("the TLS settings are refused: {0}")]
    Settings(String),
}

/// Which versions of TLS to offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Versions {
    /// 1.2 only. Its sessions can be resumed any number of times, which servers that want the control connection's
    /// session on every data connection need. A 1.3 ticket serves once, and a server hands out two.
    Only12,
    /// 1.3 only, for servers that have given up 1.2.
    Only13,
}

impl Versions {
    /// The other one.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Only12 => Self::Only13,
            Self::Only13 => Self::Only12,
        }
    }
}

/// The trusted roots, read once.
#[derive(Debug)]
pub(super) struct Trust {
    verifier: Arc<Verifier>,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    /// Reads the operator's file, or the system's roots.
    pub(super) fn load(ca: Option<&Path>) -> Result<Self, TrustError> {
        let provider = Arc::new(ring::default_provider());
        let own = ca.map(read_pem).transpose()?;
        let mut roots = RootCertStore::empty();
        let found = match &own {
            Some(own) => own.clone(),
            None => rustls_native_certs::load_native_certs().certs,
        };
        roots.add_parsable_certificates(found);
        if roots.is_empty() {
            return Err(ca.map_or(TrustError::NoSystemRoots, |path| TrustError::Empty { path: path.into() }));
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| TrustError::Settings(error.to_string()))?;
        let verifier = Arc::new(Verifier { chain, own: own.unwrap_or_default() });
        Ok(Self { verifier, provider })
    }

    /// Settings for one control connection and its data connections. Never to be shared with another connection: the
    /// session cache in it must hold the sessions of this connection alone, or servers refuse the data connections.
    pub(super) fn config(&self, versions: Versions) -> Result<Arc<ClientConfig>, TrustError> {
        let versions: &[_] = match versions {
            Versions::Only12 => &[&rustls::version::TLS12],
            Versions::Only13 => &[&rustls::version::TLS13],
        };
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(|error| TrustError::Settings(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.verifier) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

fn read_pem(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let failed = |source| TrustError::File { path: path.into(), source };
    CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}

/// The usual verifier, which in addition takes a certificate that stands in the operator's file itself.
///
/// Self-signed server certificates are marked as a CA by the common tools. Handed over as `processor_ftp_tls_ca` they are
/// trusted by the operator in the plainest way, yet the usual verifier refuses them for being a CA.
#[derive(Debug)]
struct Verifier {
    chain: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(error) if is_ca_as_server(&error) && self.own.iter().any(|own| own == end_entity) => {
                // The check that failed comes after the one for the dates, so those are good; the name is still to do.
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// True for the verdict "a CA certificate is used as a server's", which the library knows only as text.
fn is_ca_as_server(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))
        if inner.to_string() == "CaUsedAsEndEntity")
}

/// True when the server refuses the offered version of TLS.
pub(super) fn wants_other_version(error: &Error) -> bool {
    matches!(error, Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure))
}

/// What is wrong, in the operator's words, and what to do.
pub(super) fn explain(error: &Error, host: &str) -> String {
    use CertificateError as Cert;
    match error {
        Error::InvalidCertificate(Cert::Expired | Cert::ExpiredContext { .. }) => {
            "the server's certificate has expired; renew it, or check this machine's clock".into()
        }
        Error::InvalidCertificate(Cert::NotValidYet | Cert::NotValidYetContext { .. }) => {
            "the server's certificate is not valid yet; check this machine's clock".into()
        }
        Error::InvalidCertificate(Cert::NotValidForName | Cert::NotValidForNameContext { .. }) => format!(
            "the server's certificate is not made out to {host}; processor_ftp_host must be one of its subjectAltNames"
        ),
        // A signature that does not fit comes from a CA that only has the name of a trusted one.
        Error::InvalidCertificate(Cert::UnknownIssuer | Cert::BadSignature) => {
            "the issuer of the server's certificate is not trusted; name its CA in processor_ftp_tls_ca".into()
        }
        error if is_ca_as_server(error) => {
            "the server's certificate vouches for itself; to trust it, name a copy of it in processor_ftp_tls_ca".into()
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a certificate of this client, which has none; let the server do without".into()
        }
        Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            "the server finds none of the ciphers that are offered good enough, or wants a certificate of this client, which \
             has none"
                .into()
        }
        Error::InvalidMessage(_) => "what the server sends is not TLS".into(),
        other => format!("TLS failed: {other}"),
    }
}
