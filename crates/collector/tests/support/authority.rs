//! A host CA for tests, and connections of hosts that have its certificates.

use std::{
    io,
    net::TcpStream,
    sync::{Arc, LazyLock},
    time::Duration,
};

use lucarne_collector::Connection;
use lucarne_model::HostId;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::rustls::{
    self, ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject as _},
};

pub(crate) struct Authority {
    /// In PEM.
    pub(crate) certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The same for all tests of a process.
    pub(crate) fn of_tests() -> &'static Self {
        static ONE: LazyLock<Authority> = LazyLock::new(Authority::new);
        &ONE
    }

    pub(crate) fn new() -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// TLS to the collector as this host. Who is not let in learns it when it reads.
    pub(crate) fn connect(
        &self,
        host: HostId,
        connection: &Connection,
    ) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([host.to_string()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(connection.certificate.as_bytes()).unwrap()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)
            .unwrap();
        let name = ServerName::try_from("collector.lucarne.internal").unwrap();
        let stream = TcpStream::connect(connection.ipfix)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_nodelay(true)?;
        Ok(StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream))
    }
}
