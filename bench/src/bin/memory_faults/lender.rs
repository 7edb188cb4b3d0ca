//! Another host's memory, over loopback: a lender in a process of its own, and the certificates by which it and the pager
//! know each other.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
};

use anyhow::Result;
use lucarne_model::{HostId, Pages};
use lucarne_pager::{
    Borrowing, Identity,
    lender::{Instructions, Quota, Told, lend},
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use super::{PAGES, Role};

const LENDER: HostId = HostId::from_bits(1);
const BORROWER: HostId = HostId::from_bits(2);
const EPOCH: u64 = 1;

/// The role: lends until it hears nothing more.
pub(super) fn run(key: &str) -> Result<()> {
    Ok(lend(IpAddr::V4(Ipv4Addr::LOCALHOST), key.into())?)
}

/// Starts a lender; with where a pager borrows from it.
pub(super) fn start(folder: &Path) -> Result<(Role, Borrowing)> {
    let authority = Authority::new()?;
    let own = authority.identity(LENDER, folder)?;
    let mut role = Role::start(&format!("lender {}", own.key.display()), Command::new(std::env::current_exe()?))?;
    let quotas = vec![Quota { borrower: BORROWER, epoch: EPOCH, pages: Pages(PAGES) }];
    let instructions = Instructions { certificate: own.certificate, authority: own.authority, quotas };
    let told: Told = serde_json::from_str(&role.ask(&serde_json::to_string(&instructions)?)?)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, told.port));
    let identity = authority.identity(BORROWER, folder)?;
    Ok((role, Borrowing { lender: LENDER, address, epoch: EPOCH, room: Pages(PAGES), identity }))
}

/// A host CA.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let certificate = params.clone().self_signed(&key)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    fn identity(&self, host: HostId, folder: &Path) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([host.to_string()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        let path = folder.join(format!("{host}.key"));
        fs::write(&path, key.serialize_der())?;
        Ok(Identity { key: path, certificate, authority: self.certificate.clone() })
    }
}
