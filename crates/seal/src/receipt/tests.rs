//! No result is believed that is not, octet for octet, what the host that was asked said it is.

use lucarne_statement::signing::SigningKey;

use super::*;
use crate::{
    age::{Seed, writer::Writer},
    example::{HOST, NOW, host_key, key, read, recipient, request, signed, standing, terms},
};

fn asked() -> Envelope {
    signed(&request(read(64), terms()), &[1])
}

fn file() -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::begin(&Seed::new([1; 32]), &[recipient()], &mut out).expect("begun");
    writer.push(&[7; 200_000], &mut out).expect("pushed");
    writer.finish(&mut out).expect("finished");
    out
}

fn tally(file: &[u8]) -> Tally {
    file.chunks(999).fold(Tally::default(), |mut tally, part| {
        tally.push(part);
        tally
    })
}

fn receipt(outcome: Outcome) -> Receipt {
    Receipt {
        request: RequestId::of(&asked()),
        host: HOST,
        time: NOW,
        log_index: 5,
        occurrence: None,
        outcome,
        quote: None,
    }
}

fn done(file: &[u8]) -> Receipt {
    receipt(Outcome::Done {
        operation: OperationName::GuestMemoryRead,
        result: tally(file).finish().expect("a result"),
        consistency: Consistency::Instant,
        paused_nanoseconds: 0,
    })
}

fn open(receipt: &Receipt, by: &SigningKey) -> Result<Receipt, ReceiptError> {
    Receipt::open(&by.sign(receipt).expect("an envelope"), &host_key().public(), &asked())
}

#[test]
fn a_carrier_proves_that_a_result_is_whole_without_any_key() {
    let file = file();
    let receipt = open(&done(&file), &host_key()).expect("a receipt");
    assert_eq!(receipt.covers(tally(&file)), Ok(()));
}

/// Attack: the result of one time of a standing request shown as another's.
#[test]
fn each_time_of_a_standing_request_has_its_own_receipt() {
    let standing = key(1).sign(&standing()).expect("an envelope");
    let of = |number| Occurrence { number, instance: terms().target.instance };
    let receipt = |id_of: u64, said: u64| {
        let request = occurrence_id(&RequestId::of(&standing), &of(id_of));
        let receipt = Receipt { request, occurrence: Some(of(said)), ..done(&file()) };
        Receipt::open(&host_key().sign(&receipt).expect("an envelope"), &host_key().public(), &standing)
    };
    assert_eq!(receipt(4, 4).map(|receipt| receipt.occurrence), Ok(Some(of(4))));
    assert!(matches!(receipt(4, 5), Err(ReceiptError::OtherRequest { .. })));
    let kept = Receipt { request: RequestId::of(&standing), ..super::tests::receipt(Outcome::Stands) };
    let kept = Receipt::open(&host_key().sign(&kept).expect("an envelope"), &host_key().public(), &standing);
    assert_eq!(kept.expect("a receipt").result(), Err(ReceiptError::Stands));
}

/// Attacks: truncate, extend, reorder or splice a result, change one octet, or replace it whole.
#[test]
fn no_other_result_passes_for_it() {
    let file = file();
    let receipt = done(&file);
    let chunk = crate::age::stream::SEALED_CHUNK;
    let begin = file.len() - 200_000 - 4 * 16;
    let mut reordered = file.clone();
    reordered[begin..begin + 2 * chunk].rotate_left(chunk);
    let mut changed = file.clone();
    changed[begin] ^= 1;
    let mut forged = Vec::new();
    let mut writer = Writer::begin(&Seed::new([2; 32]), &[recipient()], &mut forged).expect("begun");
    writer.push(&[8; 200_000], &mut forged).expect("pushed");
    writer.finish(&mut forged).expect("finished");
    let others = [
        file[..file.len() - 1].to_vec(),
        file[..begin + chunk].to_vec(),
        [&file[..], b"x"].concat(),
        reordered,
        changed,
        forged,
    ];
    for other in others {
        assert_eq!(receipt.covers(tally(&other)), Err(ReceiptError::OtherResult));
    }
    assert!(matches!(receipt.covers(tally(b"not age")), Err(ReceiptError::NotAge(_))));
}

/// Attack: whoever knows the reader's public key makes a result, and a receipt with a key of its own.
#[test]
fn only_the_host_that_was_asked_can_say_so() {
    let receipt = done(&file());
    assert!(matches!(open(&receipt, &key(66)), Err(ReceiptError::Invalid(_))));
    let by_other = key(66).sign(&receipt).expect("an envelope");
    let believed_other = Receipt::open(&by_other, &key(66).public(), &asked());
    assert!(matches!(believed_other, Err(ReceiptError::OtherHost { .. })));
    let other_request = signed(&request(read(65), terms()), &[1]);
    let envelope = host_key().sign(&receipt).expect("an envelope");
    let of_other = Receipt::open(&envelope, &host_key().public(), &other_request);
    assert!(matches!(of_other, Err(ReceiptError::OtherRequest { .. })));
}

#[test]
fn a_refusal_has_a_receipt_and_no_result() {
    let refused = open(&receipt(Outcome::Refused), &host_key()).expect("a receipt");
    assert_eq!(refused.result(), Err(ReceiptError::Refused));
    assert_eq!(refused.covers(tally(&file())), Err(ReceiptError::Refused));
}

/// Each host of a fleet has a receipt of its own, and none can give another's.
#[test]
fn of_a_fleet_each_host_answers_for_itself() {
    let health = crate::example::operation(OperationName::HostHealth);
    let mut terms = terms();
    (terms.target.instance, terms.target.others) = (None, [(HostId::from_bits(2), key(50).public().id())].into());
    let asked = signed(&Request::new(health, terms).expect("a request"), &[1]);
    let receipt = |host| Receipt {
        request: RequestId::of(&asked),
        host,
        time: NOW,
        log_index: 0,
        occurrence: None,
        outcome: Outcome::Refused,
        quote: None,
    };
    let open = |host, by: SigningKey| {
        Receipt::open(&by.sign(&receipt(host)).expect("an envelope"), &by.public(), &asked).is_ok()
    };
    assert!(open(HOST, host_key()) && open(HostId::from_bits(2), key(50)));
    assert!(!open(HOST, key(50)) && !open(HostId::from_bits(2), host_key()));
    assert!(!open(HostId::from_bits(3), key(50)));
}

/// A quote of one deed is none of another: of another request or host, or with another result.
#[test]
fn what_a_tpm_signs_with_its_registers_is_of_one_deed() {
    let of = |receipt: &Receipt| qualifying_data(&receipt.request, receipt.host, &receipt.outcome).expect("data");
    let good = done(&file());
    let mut others = vec![receipt(Outcome::Failed), Receipt { host: HostId::from_bits(9), ..good.clone() }];
    others.push(Receipt { request: RequestId::of_octets(b"another"), ..good.clone() });
    let mut longer = good.clone();
    if let Outcome::Done { paused_nanoseconds, .. } = &mut longer.outcome {
        *paused_nanoseconds += 1;
    }
    others.push(longer);
    assert_eq!(of(&good), of(&Receipt { log_index: 77, ..good.clone() }), "its place in the log is the host's word");
    assert!(others.iter().all(|other| of(other) != of(&good)));
}
