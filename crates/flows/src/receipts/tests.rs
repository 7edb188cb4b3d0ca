//! What a verified chain proves, shown by what is refused.

use proptest::prelude::*;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::*;

const ACCOUNT: AccountId = AccountId::OPERATOR;

fn signer() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

fn public(signer: &Ed25519KeyPair) -> PublicKey {
    Hex(signer.public_key().as_ref().try_into().unwrap())
}

fn sign(receipt: Receipt, signer: &Ed25519KeyPair) -> SignedReceipt {
    let signature = Hex(signer.sign(receipt.text().as_bytes()).as_ref().try_into().unwrap());
    SignedReceipt { receipt, signature }
}

fn contents(name: &str, minutes: &[(u64, u64)]) -> PartContents {
    PartContents { name: name.into(), size: 9, sha256: Digest::of(name.as_bytes()), minutes: minutes.to_vec() }
}

/// Three parts, of which the first two were merged into a fourth.
fn chain() -> Vec<SignedReceipt> {
    let signer = signer();
    let mut chain = Chain::new(ACCOUNT);
    let parts = [
        (contents("a", &[(1, 10), (2, 5)]), vec![]),
        (contents("b", &[(2, 1)]), vec![]),
        (contents("c", &[(3, 4)]), vec![]),
        (contents("ab", &[(1, 10), (2, 6)]), vec![1, 0]),
    ];
    let receipts = parts.into_iter().map(|(part, replaces)| {
        let receipt = chain.next(part, replaces, Moment(chain.head().next));
        chain.follow(&receipt).unwrap();
        sign(receipt, &signer)
    });
    receipts.collect()
}

fn there(name: &str) -> Option<(u64, Sha256)> {
    ["ab", "c"].contains(&name).then(|| (9, Digest::of(name.as_bytes())))
}

fn verified(receipts: &[SignedReceipt]) -> Result<Chain, ReceiptError> {
    verify(ACCOUNT, &public(&signer()), receipts, None, there)
}

#[test]
fn a_whole_chain_counts_each_record_once() {
    let chain = verified(&chain()).unwrap();
    assert_eq!(chain.minutes().into_iter().collect::<Vec<_>>(), [(1, 10), (2, 6), (3, 4)]);
    assert_eq!(
        chain.current().map(|(number, part)| (number, part.name.as_str())).collect::<Vec<_>>(),
        [(2, "c"), (3, "ab")]
    );
}

#[test]
fn a_receipt_that_was_taken_away_is_missed() {
    for taken in 0..3 {
        let mut receipts = chain();
        receipts.remove(taken);
        assert!(matches!(verified(&receipts), Err(ReceiptError::Gap { .. })));
    }
}

/// The end can be cut off without a gap; who has kept a head sees it.
#[test]
fn a_cut_chain_does_not_reach_the_head_that_was_kept() {
    let receipts = chain();
    let head = verified(&receipts).unwrap().head();
    let again = |receipts: &[SignedReceipt]| {
        verify(ACCOUNT, &public(&signer()), receipts, Some(head), |name| Some((9, Digest::of(name.as_bytes()))))
    };
    assert!(again(&receipts).is_ok());
    assert_eq!(again(&receipts[..3]).unwrap_err(), ReceiptError::Head { number: 4 });
}

/// The collector writes another history, with the same key, from some receipt on.
#[test]
fn a_forked_chain_is_refused_where_it_parts_from_the_head_that_was_kept() {
    let signer = signer();
    let kept = verify(ACCOUNT, &public(&signer), &chain()[..3], None, |name| Some((9, Digest::of(name.as_bytes()))));
    let kept = kept.unwrap().head();
    let mut other = Chain::new(ACCOUNT);
    let parts = ["a", "b", "other", "d", "e"].map(|name| {
        let receipt = other.next(contents(name, &[(1, 10)]), vec![], Moment(other.head().next));
        other.follow(&receipt).unwrap();
        sign(receipt, &signer)
    });
    let found = follow(ACCOUNT, &public(&signer), &parts, Some(kept));
    assert_eq!(found.unwrap_err(), ReceiptError::Head { number: 2 });
    assert!(follow(ACCOUNT, &public(&signer), &parts, None).is_ok(), "without a head it cannot be told");
    assert!(follow(ACCOUNT, &public(&signer), &chain(), Some(kept)).is_ok(), "the true one goes on");
}

#[test]
fn a_part_with_other_records_than_its_receipt_says_is_found_by_counting() {
    let part = contents("a", &[(1, 10), (2, 5)]);
    assert_eq!(check_counts(7, &part, &part), Ok(()));
    let fewer = contents("a", &[(1, 10), (2, 4)]);
    let expected = ReceiptError::Miscounted { number: 7, name: "a".into(), minute: 2, expected: 5, found: 4 };
    assert_eq!(check_counts(7, &part, &fewer), Err(expected));
}

#[test]
fn a_merge_that_loses_a_record_is_refused() {
    let mut receipts = chain();
    let mut merged = receipts.pop().unwrap().receipt;
    merged.part.minutes = vec![(1, 10), (2, 5)];
    receipts.push(sign(merged, &signer()));
    let expected = ReceiptError::Counts { number: 3, minute: 2, expected: 6, found: 5 };
    assert_eq!(verified(&receipts).unwrap_err(), expected);
}

#[test]
fn nothing_is_replaced_twice() {
    for replaces in [vec![0, 0], vec![9]] {
        let mut receipts = chain();
        let mut merged = receipts.pop().unwrap().receipt;
        merged.replaces = replaces;
        receipts.push(sign(merged, &signer()));
        assert!(matches!(verified(&receipts), Err(ReceiptError::Replaced { .. })));
    }
}

#[test]
fn another_key_and_another_account_are_refused() {
    let other = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap();
    let receipts = chain();
    let by_other = verify(ACCOUNT, &public(&other), &receipts, None, there);
    assert_eq!(by_other.unwrap_err(), ReceiptError::Signature { number: 0 });
    let of_other = verify(AccountId::from_bits(5), &public(&signer()), &receipts, None, there);
    assert_eq!(of_other.unwrap_err(), ReceiptError::Account { number: 0, account: ACCOUNT });
}

#[test]
fn a_part_that_is_gone_or_changed_is_named() {
    let receipts = chain();
    let key = public(&signer());
    let gone = verify(ACCOUNT, &key, &receipts, None, |name| there(name).filter(|_| name != "c"));
    assert_eq!(gone.unwrap_err(), ReceiptError::Missing { number: 2, name: "c".into() });
    let changed = verify(ACCOUNT, &key, &receipts, None, |_| Some((9, Digest::of(b"ab"))));
    assert_eq!(changed.unwrap_err(), ReceiptError::Changed { number: 2, name: "c".into() });
}

#[test]
fn a_name_cannot_smuggle_a_line_into_the_signed_text() {
    let mut chain = Chain::new(ACCOUNT);
    let receipt = chain.next(contents("a\nminute 5 5", &[]), vec![], Moment(0));
    assert_eq!(chain.follow(&receipt).unwrap_err(), ReceiptError::Name { number: 0 });
}

proptest! {
    /// Whatever is changed in whatever receipt, the chain is refused.
    #[test]
    fn no_change_goes_unseen(at in 0usize..4, what in 0usize..7, by in 1u64..1000) {
        let mut receipts = chain();
        let receipt = &mut receipts[at].receipt;
        match what {
            0 => receipt.part.minutes[0].1 += by,
            1 => receipt.part.minutes[0].0 += by,
            2 => receipt.part.name.push('x'),
            3 => receipt.part.size += by,
            4 => receipt.part.sha256 = Digest::of(&by.to_be_bytes()),
            5 => receipt.issued = Moment(receipt.issued.as_micros() + by),
            _ => receipt.replaces.push(by + 10),
        }
        prop_assert!(verified(&receipts).is_err());
    }

    #[test]
    fn digits_read_back(octets: [u8; 32], text: String) {
        prop_assert_eq!(Hex(octets).to_string().parse(), Ok(Hex(octets)));
        let _ = text.parse::<Sha256>();
        let head = Head { next: octets[0].into(), digest: Hex(octets) };
        prop_assert_eq!(head.to_string().parse(), Ok(head));
        prop_assert!(text.parse::<Head>().is_err());
    }
}
