//! What an audit finds: a collector that does not keep what it has receipted, tried in every way that the receipts are for.

use std::cell::RefCell;

use lucarne_flows::receipts::{Digest, Hex, Receipt};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::*;

const ACCOUNT: AccountId = AccountId::OPERATOR;

/// A collector in memory: its key, the chain that it shows, and files by name.
struct Shelf {
    key: Ed25519KeyPair,
    receipts: RefCell<Vec<SignedReceipt>>,
    files: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Receipts that are shown only when they are asked for a second time.
    late: RefCell<Vec<SignedReceipt>>,
    /// Files that are there only after one has waited for them.
    coming: RefCell<BTreeMap<String, Vec<u8>>>,
}

impl Archive for Shelf {
    async fn receipts(&self, from: u64) -> Result<ReceiptPage, Failure> {
        let key = Hex(self.key.public_key().as_ref().try_into().unwrap());
        let receipts: Vec<SignedReceipt> = self.receipts.borrow().iter().skip(from as usize).take(2).cloned().collect();
        let end = from + receipts.len() as u64;
        let next = (end < self.receipts.borrow().len() as u64).then_some(end);
        if next.is_none() {
            self.receipts.borrow_mut().append(&mut self.late.borrow_mut());
        }
        Ok(ReceiptPage { key, receipts, next })
    }

    async fn take(&self, name: &str) -> Result<Option<(u64, Sha256)>, Failure> {
        Ok(self.files.borrow().get(name).map(|octets| (octets.len() as u64, Digest::of(octets))))
    }

    async fn contents(&self, name: &str) -> Result<PartContents, Failure> {
        Ok(contents(name, &self.files.borrow()[name]))
    }

    async fn wait(&self) {
        self.files.borrow_mut().append(&mut self.coming.borrow_mut());
    }
}

/// A file's octets are the minutes of its records.
fn contents(name: &str, octets: &[u8]) -> PartContents {
    let mut minutes: BTreeMap<u64, u64> = BTreeMap::new();
    octets.iter().for_each(|minute| *minutes.entry((*minute).into()).or_default() += 1);
    let (size, sha256) = (octets.len() as u64, Digest::of(octets));
    PartContents { name: name.into(), size, sha256, minutes: minutes.into_iter().collect() }
}

/// Parts by name and octets, each with what it replaces.
type Parts<'a> = &'a [(&'a str, &'a [u8], &'a [u64])];

const PARTS: Parts<'_> =
    &[("a", &[1, 1, 2], &[]), ("b", &[2], &[]), ("c", &[9, 9], &[]), ("ab", &[1, 1, 2, 2], &[0, 1])];

fn shelf(parts: Parts<'_>) -> Shelf {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let mut chain = Chain::new(ACCOUNT);
    let receipts: Vec<SignedReceipt> = parts
        .iter()
        .map(|(name, octets, replaces)| {
            let receipt = chain.next(contents(name, octets), replaces.to_vec(), Moment::from_secs(600));
            chain.follow(&receipt).unwrap();
            sign(&key, receipt)
        })
        .collect();
    let current: Vec<String> = chain.current().map(|(_, part)| part.name.clone()).collect();
    let files = parts.iter().filter(|(name, ..)| current.iter().any(|current| current == name));
    let files = files.map(|(name, octets, _)| (name.to_string(), octets.to_vec())).collect();
    Shelf {
        key,
        receipts: RefCell::new(receipts),
        files: RefCell::new(files),
        late: RefCell::default(),
        coming: RefCell::default(),
    }
}

fn sign(key: &Ed25519KeyPair, receipt: Receipt) -> SignedReceipt {
    let signature = Hex(key.sign(receipt.text().as_bytes()).as_ref().try_into().unwrap());
    SignedReceipt { receipt, signature }
}

async fn looked(shelf: &Shelf, known: Known) -> Result<Audit, Failure> {
    audit(shelf, ACCOUNT, known, Span::default()).await
}

async fn why(shelf: &Shelf, known: Known) -> String {
    looked(shelf, known).await.map(|_| "it held").unwrap_err().to_string()
}

#[tokio::test]
async fn what_is_whole_holds_and_says_its_head() {
    let found = looked(&shelf(PARTS), Known::default()).await.unwrap();
    assert_eq!((found.receipts.len(), found.parts, found.records, found.chain.head().next), (4, 2, 6, 4));
    let known = Known { key: Some(found.key), head: Some(found.chain.head()) };
    assert!(looked(&shelf(PARTS), known).await.is_ok());
}

#[tokio::test]
async fn a_flipped_octet_is_found_by_the_parts_name_and_time() {
    let shelf = shelf(PARTS);
    shelf.files.borrow_mut().get_mut("ab").unwrap()[3] ^= 1;
    let why = why(&shelf, Known::default()).await;
    assert!(why.contains("the part ab is not what receipt 3 says"), "{why}");
    assert!(
        why.contains("of 1970-01-01T00:10:00Z, about records of 1970-01-01T00:01:00Z to 1970-01-01T00:02:00Z"),
        "{why}"
    );
}

#[tokio::test]
async fn a_removed_part_is_missed() {
    let shelf = shelf(PARTS);
    shelf.files.borrow_mut().remove("c");
    let why = why(&shelf, Known::default()).await;
    assert!(why.contains("the part c of receipt 2 is not there"), "{why}");
}

#[tokio::test]
async fn a_dropped_receipt_is_missed_wherever_it_was() {
    let head = looked(&shelf(PARTS), Known::default()).await.unwrap().chain.head();
    for dropped in 0..PARTS.len() {
        let shelf = shelf(PARTS);
        shelf.receipts.borrow_mut().remove(dropped);
        assert!(looked(&shelf, Known { key: None, head: Some(head) }).await.is_err(), "receipt {dropped}");
    }
}

#[tokio::test]
async fn a_forked_chain_is_told_by_the_head_that_was_kept_and_another_key_by_the_key() {
    let known = looked(&shelf(PARTS), Known::default()).await.unwrap();
    let known = Known { key: Some(known.key), head: Some(known.chain.head()) };
    let fork: Parts<'_> = &[PARTS[0], PARTS[1], ("x", &[9], &[]), PARTS[3], ("y", &[9], &[])];
    let said = why(&shelf(fork), known).await;
    assert!(said.contains("receipt 3 does not go on from the head that was kept"), "{said}");
    let mut other = shelf(PARTS);
    other.key = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap();
    assert!(why(&other, known).await.contains("not the key that was kept"));
}

#[tokio::test]
async fn a_part_that_holds_other_records_than_its_receipt_is_found_although_its_digest_is_right() {
    let shelf = shelf(&[("a", &[1, 1], &[])]);
    let mut signed = shelf.receipts.borrow()[0].clone();
    signed.receipt.part.minutes = vec![(1, 3)];
    *shelf.receipts.borrow_mut() = vec![sign(&shelf.key, signed.receipt)];
    let why = why(&shelf, Known::default()).await;
    assert!(why.contains("has 2 records of minute 1 where receipt 0 says 3"), "{why}");
}

/// The collector has written the receipt and does not show the part yet.
#[tokio::test]
async fn a_part_that_comes_after_its_receipt_is_waited_for() {
    let shelf = shelf(PARTS);
    let last = shelf.files.borrow_mut().remove_entry("c").unwrap();
    shelf.coming.borrow_mut().extend([last]);
    assert_eq!(looked(&shelf, Known::default()).await.unwrap().records, 6);
}

/// The collector merges between the look at the chain and the look at the parts.
#[tokio::test]
async fn a_part_that_was_merged_meanwhile_is_not_missed() {
    let shelf = shelf(PARTS);
    let merge = shelf.receipts.borrow_mut().pop().unwrap();
    shelf.late.borrow_mut().push(merge);
    let found = looked(&shelf, Known::default()).await.unwrap();
    assert_eq!((found.receipts.len(), found.parts, found.records), (4, 2, 6));
}

#[tokio::test]
async fn parts_of_other_times_are_not_looked_into_but_their_receipts_are() {
    let shelf = shelf(PARTS);
    shelf.files.borrow_mut().remove("c");
    let until = Span { since: None, until: Some(Moment::from_secs(540)) };
    let found = audit(&shelf, ACCOUNT, Known::default(), until).await.unwrap();
    assert_eq!((found.receipts.len(), found.parts), (4, 1));
    let since = Span { since: Some(Moment::from_secs(599)), until: None };
    assert!(audit(&shelf, ACCOUNT, Known::default(), since).await.is_err());
}
