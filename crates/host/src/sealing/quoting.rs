//! What this host's TPM says beside what the host signs: of which machine, in which state, a receipt and a beacon are.
//!
//! Owns which TPM stands on the host's card, and that nobody waits long for it. A host whose TPM does not answer signs its receipts
//! all the same, without a quote: whoever wants one refuses those.

use std::{fmt, fs, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use lucarne_model::{HostId, Octets, evidence::RegisterQuote, tpm::PresentedTpm};
use lucarne_seal::{card, receipt};
use tokio::{sync::Mutex, time::timeout};

use super::office::{Carried, Work};
use crate::durable::{self, Outlives};

/// How long something waits for its quote. A chip takes less than a second.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long the office waits at its first start to hear which TPM there is: one that is a program is made first.
const FIRST_PATIENCE: Duration = Duration::from_secs(30);

/// A TPM that says what the host's registers hold, signed together with what it is asked for.
#[async_trait]
pub(crate) trait QuotingTpm: Send + Sync + fmt::Debug {
    async fn present(&self) -> Result<PresentedTpm, String>;
    async fn quote(&self, qualifying: [u8; 32]) -> Result<RegisterQuote, String>;
}

/// The way to the TPM, if this host has one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quoting {
    tpm: Option<Arc<dyn QuotingTpm>>,
    /// The newest beacon that was quoted: however often somebody asks, the TPM is asked once.
    said: Arc<Mutex<Option<(Octets, RegisterQuote)>>>,
}

impl Quoting {
    pub(crate) fn by(tpm: Arc<dyn QuotingTpm>) -> Self {
        Self { tpm: Some(tpm), ..Self::default() }
    }

    /// The quote of this host since a beacon of its own.
    pub(super) async fn of_beacon(&self, beacon: &Octets) -> Option<RegisterQuote> {
        // Who comes meanwhile waits for the one quote, and no longer than for one.
        timeout(PATIENCE, self.ask_of_beacon(beacon)).await.ok().flatten()
    }

    async fn ask_of_beacon(&self, beacon: &Octets) -> Option<RegisterQuote> {
        let mut said = self.said.lock().await;
        if let Some((quoted, quote)) = said.as_ref()
            && quoted == beacon
        {
            return Some(quote.clone());
        }
        let quote = self.quote(card::qualifying_data(beacon)).await?;
        *said = Some((beacon.clone(), quote.clone()));
        Some(quote)
    }

    /// The same, with what the TPM says of the host meanwhile, if there is one that answers.
    pub(super) async fn complete(&self, host: HostId, work: &Work, carried: Carried) -> Carried {
        match receipt::qualifying_data(&work.id, host, &carried.outcome) {
            Ok(qualifying) => Carried { quote: self.quote(qualifying).await, ..carried },
            Err(error) => {
                tracing::error!(%error, "what was done has no text that could be quoted");
                carried
            }
        }
    }

    /// The quote over what was hashed so, if there is one in time.
    async fn quote(&self, qualifying: [u8; 32]) -> Option<RegisterQuote> {
        let quoted = timeout(PATIENCE, self.tpm.as_ref()?.quote(qualifying)).await;
        let quoted = quoted.unwrap_or_else(|_| Err("it does not answer".to_owned()));
        quoted
            .inspect_err(|why| tracing::warn!(why, "a receipt or beacon goes without a quote of this host's TPM"))
            .ok()
    }

    /// Which TPM it is, as the host's card says. Read where it was written once, so that the card does not change while the TPM
    /// is away: the operator vouches for a card as it is.
    pub(super) async fn identity(&self, folder: &Path) -> Option<PresentedTpm> {
        let path = folder.join("tpm.json");
        if let Some(kept) = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            return Some(kept);
        }
        let presented = self.present().await?;
        let written = serde_json::to_vec(&presented).map_err(std::io::Error::other);
        let kept = written.and_then(|text| durable::replace(&path, &text, Outlives::PowerCut));
        kept.inspect_err(|error| tracing::error!(path = %path.display(), %error, "which TPM this is cannot be kept"))
            .ok()?;
        Some(presented)
    }

    async fn present(&self) -> Option<PresentedTpm> {
        let presented = timeout(FIRST_PATIENCE, self.tpm.as_ref()?.present()).await;
        let presented = presented.unwrap_or_else(|_| Err("it does not answer".to_owned()));
        let presented = presented.inspect_err(|why| tracing::warn!(why, "the TPM is not on this host's card, for now"));
        presented.ok().filter(|presented| presented.identity().is_some())
    }

    /// Tells the log when another TPM answers than the one on the card.
    pub(super) async fn check(self, on_card: PresentedTpm) {
        let key = |tpm: &PresentedTpm| tpm.identity().map(|identity| identity.attestation_public.clone());
        if self.present().await.is_some_and(|presented| key(&presented) != key(&on_card)) {
            tracing::error!(
                "the TPM or its key is another than on this host's card: quotes will not be believed; remove `seals/tpm.json`, start the agent anew and have the card vouched for"
            );
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use lucarne_model::tpm::{TpmIdentity, TpmModel};

    use super::*;

    /// One that repeats what it is asked for.
    #[derive(Debug)]
    pub(crate) struct Echo;

    #[async_trait]
    impl QuotingTpm for Echo {
        async fn present(&self) -> Result<PresentedTpm, String> {
            let key = || Octets(vec![7; 3]);
            Ok(PresentedTpm::Software(TpmIdentity {
                model: TpmModel::default(),
                endorsement_public: key(),
                endorsement_certificates: vec![key()],
                attestation_public: key(),
            }))
        }
        async fn quote(&self, qualifying: [u8; 32]) -> Result<RegisterQuote, String> {
            Ok(RegisterQuote { message: qualifying[..].into(), signature: Octets(vec![1]), registers: Vec::new() })
        }
    }

    #[derive(Debug)]
    struct Away;

    #[async_trait]
    impl QuotingTpm for Away {
        async fn present(&self) -> Result<PresentedTpm, String> {
            Err("it is away".to_owned())
        }
        async fn quote(&self, _: [u8; 32]) -> Result<RegisterQuote, String> {
            Err("it is away".to_owned())
        }
    }

    #[tokio::test]
    async fn a_card_names_the_tpm_that_was_there_first_also_while_it_is_away() {
        let place = tempfile::tempdir().unwrap();
        let [here, away] = [Quoting::by(Arc::new(Echo)), Quoting::by(Arc::new(Away))];
        assert_eq!(away.identity(place.path()).await, None, "it was never there");
        let identity = here.identity(place.path()).await;
        assert!(identity.is_some());
        assert_eq!(away.identity(place.path()).await, identity);
        assert_eq!(Quoting::default().identity(place.path()).await, identity);
        assert_eq!((away.quote([1; 32]).await, Quoting::default().quote([1; 32]).await), (None, None));
        let beacon = Octets(vec![9]);
        let quoted = here.of_beacon(&beacon).await.unwrap();
        assert_eq!(quoted.message.to_vec(), card::qualifying_data(&beacon));
        assert_eq!((here.of_beacon(&beacon).await, away.of_beacon(&beacon).await), (Some(quoted), None));
        assert_eq!(here.quote([1; 32]).await.map(|quote| quote.message), Some(Octets(vec![1; 32])));
    }
}
