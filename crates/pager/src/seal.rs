//! Pages sealed for the store: who reads or changes its disk learns nothing, and what comes back is what went out.
//!
//! Owns the key and how a copy is bound to its VM, page and generation. AES-256-GCM must never see a nonce twice under one
//! key; the nonce is the copy's generation, which counts all copies of this VM's pages and is reserved in the index before
//! it is used ([`crate::index`]), so that a pager that was killed leaves a gap and never a repetition.
//!
//! Whether a copy still is what its page holds is asked by sealing the page once more as that copy was. The same content gives
//! the same proof; another content gives what would break both if anybody saw it, so that nothing of it leaves
//! [`Sealer::is_of`].

use lucarne_model::{InstanceId, paging::KEY};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey},
    digest::{Context, SHA256},
    error::Unspecified,
};

use crate::page::Page;

/// What proves a sealed page; kept in the index.
pub(crate) type Proof = [u8; 16];

/// A page came back otherwise than it went out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("its seal is broken")]
pub(crate) struct Broken;

#[derive(Debug)]
pub(crate) struct Sealer {
    key: LessSafeKey,
    instance: InstanceId,
    life: Proof,
}

impl Sealer {
    pub(crate) fn new(key: [u8; KEY], instance: InstanceId) -> Result<Self, Unspecified> {
        let mut context = Context::new(&SHA256);
        context.update(b"lucarne-pager life\0");
        context.update(&instance.bits().to_le_bytes());
        context.update(&key);
        let mut life = [0; 16];
        life.copy_from_slice(&context.finish().as_ref()[..16]);
        Ok(Self { key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key)?), instance, life })
    }

    /// Names this key without telling it: an index of another life speaks of copies that nobody can open any more.
    pub(crate) const fn life(&self) -> Proof {
        self.life
    }

    /// `generation` was never used before.
    pub(crate) fn seal(&self, page: u64, generation: u64, content: &mut Page) -> Result<Proof, Unspecified> {
        let tag = self.key.seal_in_place_separate_tag(nonce(generation), self.bound_to(page), &mut content.0)?;
        let mut proof = [0; 16];
        proof.copy_from_slice(tag.as_ref());
        Ok(proof)
    }

    /// Whether `proof` is that of `content` in this generation.
    pub(crate) fn is_of(&self, page: u64, generation: u64, proof: Proof, content: &Page) -> bool {
        let mut scratch = content.clone();
        self.seal(page, generation, &mut scratch).is_ok_and(|found| found == proof)
    }

    pub(crate) fn open(&self, page: u64, generation: u64, proof: Proof, content: &mut Page) -> Result<(), Broken> {
        let tag = Tag::from(proof);
        let opened =
            self.key.open_in_place_separate_tag(nonce(generation), self.bound_to(page), tag, &mut content.0, 0..);
        opened.map(drop).map_err(|Unspecified| Broken)
    }

    fn bound_to(&self, page: u64) -> Aad<[u8; 24]> {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.instance.bits().to_le_bytes());
        bytes[16..].copy_from_slice(&page.to_le_bytes());
        Aad::from(bytes)
    }
}

fn nonce(generation: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&generation.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(key: u8, instance: u128) -> Sealer {
        Sealer::new([key; KEY], InstanceId::from_bits(instance)).unwrap()
    }

    #[test]
    fn a_page_opens_only_as_itself_for_its_vm_under_its_key_and_in_its_generation() {
        let ours = sealer(1, 7);
        let mut content = Page([0x5a; 4096]);
        let proof = ours.seal(3, 9, &mut content).unwrap();
        assert!(content.0 != [0x5a; 4096]);
        let changed = Page(std::array::from_fn(|at| if at == 4000 { 0x5b } else { 0x5a }));
        assert!(ours.is_of(3, 9, proof, &Page([0x5a; 4096])) && !ours.is_of(3, 9, proof, &changed));
        let opens = |sealer: &Sealer, page, generation, proof, content: &Page| {
            let mut content = content.clone();
            sealer.open(page, generation, proof, &mut content).map(|()| content.0 == [0x5a; 4096])
        };
        assert_eq!(opens(&ours, 3, 9, proof, &content), Ok(true));
        assert_eq!(opens(&ours, 4, 9, proof, &content), Err(Broken));
        assert_eq!(opens(&ours, 3, 8, proof, &content), Err(Broken));
        assert_eq!(opens(&sealer(1, 8), 3, 9, proof, &content), Err(Broken));
        assert_eq!(opens(&sealer(2, 7), 3, 9, proof, &content), Err(Broken));
        let mut torn = content.clone();
        torn.0[2048..].fill(0);
        assert_eq!(opens(&ours, 3, 9, proof, &torn), Err(Broken));
    }
}
